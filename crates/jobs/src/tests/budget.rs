//! What a host bears is waited for, by a job that says so, and by nobody else.

use super::world::{Running, World, to_export, to_host};
use crate::{Destination, Finish, JobId, JobState, JobView, Outcome, RecoveryRequest};

async fn waits(running: &Running, job: &JobId, what: &str) -> JobView {
    let mut view = running.jobs.watch(job).unwrap();
    let waits = |view: &JobView| {
        assert!(!view.state.is_final(), "{:#?}", view.timeline);
        view.waits_for.as_deref().is_some_and(|waits| waits.starts_with(what))
    };
    view.wait_for(waits).await.unwrap().clone()
}

fn migrating() -> RecoveryRequest {
    RecoveryRequest { migrate: Some(Destination::Datastore("vmfs".into())), ..to_host() }
}

#[test]
fn a_job_waits_for_a_mount_and_keeps_no_other_waiting() {
    let world = World::new();
    world.host.state().bears.mounts = 8;
    world.live(async |world| {
        let running = world.start().await;
        let forecast = running.jobs.forecast(&to_host()).await.unwrap();
        assert!(
            forecast.waits_for.unwrap().starts_with("an NFS mount on the host lab: 8 are used")
        );
        let job = running.jobs.start(to_host(), None).await.unwrap();
        let queued = waits(&running, &job, "an NFS mount on the host lab: 8 are used, 8 are").await;
        assert_eq!(queued.state, JobState::Queued);
        let other = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&other).await;
        // Given up, it leaves nothing.
        let second = running.jobs.start(to_host(), None).await.unwrap();
        waits(&running, &second, "an NFS mount").await;
        running.jobs.cancel(&second).await.unwrap();
        running.end(&second).await;
        world.host.state().bears.mounts = 7;
        // Who leaves makes others look again.
        running.jobs.cancel(&other).await.unwrap();
        running.end(&other).await;
        running.serving(&job).await;
        // One that has the mount already goes on at once.
        let third = running.jobs.start(to_host(), None).await.unwrap();
        running.serving(&third).await;
        for job in [job, third] {
            running.jobs.finish(&job, Finish::Discard).await.unwrap();
            running.end(&job).await;
        }
        assert!(world.host.state().mounted.is_empty());
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn storage_migrations_wait_for_each_other_and_for_room() {
    let world = World::new();
    world.host.state().datastores.insert("vmfs".into());
    world.live(async |world| {
        let mut config = world.config();
        config.mover.max_moves_per_host = 1;
        let running = world.start_with(config).await;
        world.host.state().bears.holds = true;
        let first = running.jobs.start(migrating(), None).await.unwrap();
        let mut view = running.jobs.watch(&first).unwrap();
        let moves = |view: &JobView| {
            view.progress.as_ref().is_some_and(|now| now.phase == crate::Phase::Relocate)
        };
        view.wait_for(moves).await.unwrap();
        let second = running.jobs.start(migrating(), None).await.unwrap();
        let waiting = waits(&running, &second, "a storage migration on the host lab to end").await;
        assert_eq!(waiting.state, JobState::Migrating);
        let mover = world.host.state().calls.iter().filter(|call| **call == "relocate").count();
        assert_eq!(mover, 1);
        // The one that waits for room is not the one that was there before.
        world.host.state().bears.free.insert("vmfs".into(), 1000);
        world.host.state().bears.holds = false;
        assert_eq!(running.end(&first).await.outcome, Some(Outcome::Migrated));
        let waiting = waits(&running, &second, "").await;
        assert_eq!(waiting.state, JobState::Migrating);
        waits(&running, &second, &format!("{} bytes more on the datastore vmfs", DATA - 1000))
            .await;
        assert!(world.host.state().vms.values().all(|vm| vm.runs), "its VM runs meanwhile");
        world.host.state().bears.free.clear();
        assert_eq!(running.end(&second).await.outcome, Some(Outcome::Migrated));
        world.assert_clean(&running);
        running.stop().await;
    });
}

/// Bytes of the sample's blocks that are no zeros: 20 of 256 KiB, and 5 of which one is short.
const DATA: u64 = (20 + 4) * (256 << 10) + 512;

#[test]
fn a_migration_that_waits_goes_on_waiting_after_a_restart_or_is_given_up() {
    let world = World::new();
    world.host.state().datastores.insert("vmfs".into());
    world.host.state().bears.moves = 2;
    let job = world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(migrating(), None).await.unwrap();
        waits(&running, &job, "a storage migration on the host lab to end: 2 are under way").await;
        job
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        waits(&running, &job, "a storage migration on the host lab to end: 2 are under way").await;
        running.jobs.cancel(&job).await.unwrap();
        assert_eq!(running.end(&job).await.state, JobState::Cancelled);
        assert!(!world.host.state().calls.contains(&"relocate"));
        assert!(world.host.state().vms.is_empty() && world.host.state().mounted.is_empty());
        world.assert_clean(&running);
        running.stop().await;
    });
}
