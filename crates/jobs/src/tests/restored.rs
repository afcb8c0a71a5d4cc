//! An appliance whose state is that of a backup, and which has nothing else.

use std::fs;

use jiff::Timestamp;
use rekindle_disk::KEYSPACES;
use rekindle_state::{Backup, BackupHead};

use super::batches::{batch, discard_all, group, open};
use super::world::{World, to_export, to_host};
use crate::{
    BatchState, Finish, Group, JobState, ORIGINS_KEYSPACE, Outcome, RecoveryRequest, end_restored,
};

fn head() -> BackupHead {
    BackupHead { made_at: Timestamp::UNIX_EPOCH, host: "h".into(), version: "v".into() }
}

#[test]
fn jobs_that_were_under_way_have_ended_and_no_host_is_touched() {
    let world = World::new();
    let file = world.path("backup");
    let (ended, kept, on_host, exported, waiting) = world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let ended = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&ended).await;
        running.jobs.finish(&ended, Finish::Discard).await.unwrap();
        running.end(&ended).await;
        let request = RecoveryRequest { keep_seconds: Some(3600), ..to_export() };
        let kept = running.jobs.start(request, None).await.unwrap();
        running.serving(&kept).await;
        running.jobs.finish(&kept, Finish::Discard).await.unwrap();
        running.wait(&kept, &[JobState::Kept]).await;
        let on_host = running.jobs.start(to_host(), None).await.unwrap();
        running.serving(&on_host).await;
        let batches = open(&running);
        let slow = Group { delay_seconds: 3600, ..group(&["a"]) };
        let waiting = batches.start(batch(vec![slow, group(&["b"])]), None).await.unwrap();
        let mut view = batches.watch(&waiting).unwrap();
        view.wait_for(|view| view.groups[0].vms[0].up == Some(true)).await.unwrap();
        let exported = view.borrow().groups[0].vms[0].job.clone().unwrap();
        let left_out: Vec<&str> = KEYSPACES.into_iter().chain([ORIGINS_KEYSPACE]).collect();
        let out = fs::File::create(&file).unwrap();
        running.db().back_up(&head(), &left_out, out).unwrap();
        batches.stop().await;
        running.stop().await;
        (ended, kept, on_host, exported, waiting)
    });
    fs::remove_dir_all(world.path("state")).unwrap();
    fs::create_dir(world.path("state")).unwrap();
    let db = Backup::open(&file).unwrap().restore(&world.path("state/db")).unwrap();
    let mut lost = end_restored(&db, head().made_at).unwrap();
    assert_eq!(end_restored(&db, head().made_at).unwrap(), []);
    drop(db);
    let place = lost.iter().position(|job| job.id == on_host).unwrap();
    let left = lost.remove(place).left.unwrap();
    assert!(left.contains("\"sample_2\"") && left.contains("\"rekindle-lab\""), "{left}");
    let others: Vec<_> = lost.iter().map(|job| (job.id.clone(), job.state, &job.left)).collect();
    assert_eq!(others.len(), 2);
    assert!(others.contains(&(kept.clone(), JobState::Kept, &None)), "{others:?}");
    assert!(others.contains(&(exported.clone(), JobState::Serving, &None)), "{others:?}");
    let calls = world.host.state().calls.len();
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        batches.run();
        assert_eq!(batches.view(&waiting).unwrap().state, BatchState::Cancelled);
        let view = |id| running.jobs.view(id).unwrap();
        assert_eq!(view(&ended).error, None);
        assert_eq!(view(&ended).outcome, Some(Outcome::Discarded));
        for (id, state) in [
            (&on_host, JobState::Failed),
            (&exported, JobState::Failed),
            (&kept, JobState::Completed),
        ] {
            assert_eq!(view(id).state, state);
            assert_eq!(view(id).error.unwrap().code, "restored");
            assert!(running.jobs.undo(id).await.is_err());
        }
        world.assert_clean(&running);
        assert_eq!(world.host.state().calls.len(), calls);
        // What they were called and where they were served is free again.
        let again = running.jobs.start(to_export(), None).await.unwrap();
        assert_eq!(running.serving(&again).await.name, "sample_1");
        discard_all(&running).await;
        running.stop().await;
    });
}
