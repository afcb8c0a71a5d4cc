//! A kill at every journal write, before and after it.

use super::{
    GuestStop, JobId, JobState, Running, World, assert_moved, expected, manual, migrate, serving,
    standalone, writes_on,
};
use crate::{JobView, Outcome};

fn final_or_serving(view: &JobView) -> bool {
    view.state.is_final() || view.state == JobState::Serving
}

/// Told from its beginning to the kill; what the guest's disks are then.
async fn first_life(world: &World, running: &Running, model: &mut Vec<Vec<u8>>) -> JobId {
    let (job, served) = serving(running, manual(GuestStop::ShutDown)).await;
    *model = served;
    running.jobs.finish(&job, migrate()).await.unwrap();
    writes_on(world, running, &job, model).await;
    running.end(&job).await;
    job
}

/// The appliance starts again: the job goes on to its end, from wherever it was.
async fn second_life(world: &World, model: &mut [Vec<u8>]) {
    let running = world.start().await;
    let [job] = &running.jobs.list()[..] else { panic!("one job") };
    let id = job.id.clone();
    running.jobs.run();
    let mut view = running.jobs.watch(&id).unwrap();
    if view.wait_for(final_or_serving).await.unwrap().state == JobState::Serving {
        // Killed while its guest wrote: all of it is there or nothing.
        model[0] = running.contents(&id, 0).await;
        let same = model[0][12345] == expected(0)[12345];
        assert!(same || model[0][12345 + 6788] != expected(0)[12345 + 6788]);
        running.jobs.finish(&id, migrate()).await.unwrap();
    }
    let done = running.end(&id).await;
    assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Migrated)));
    assert_moved(world, &id, model);
    world.assert_clean(&running);
    running.stop().await;
}

#[test]
fn a_migration_with_a_pause_survives_a_crash_at_every_write() {
    let world = World::new();
    for write in 0.. {
        for after in [false, true] {
            standalone(&world);
            let mut model = vec![expected(0), expected(1)];
            let crashed = world.live(async |world| {
                let running = world.start().await;
                let crash = running.jobs.crash_point();
                crash.arm(write, after);
                tokio::select! {
                    () = crash.reached() => true,
                    _ = first_life(world, &running, &mut model) => false,
                }
            });
            if !crashed {
                assert!(write > 25, "the story has only {write} writes");
                return;
            }
            world.live(async |world| second_life(world, &mut model).await);
            world.reset();
        }
    }
}
