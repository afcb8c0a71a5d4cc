//! A kill at every journal write, before and after it.

use super::{Finish, JobId, JobState, JobView, with_original};
use super::{Running, World, asks, assert_back, assert_committed, in_place, migrating, waits};

/// How the story of the crashes ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    GivenUp,
    GivenUpMoved,
    Committed { removed: bool },
}

/// Says what is to become of the job once it can be said.
async fn say(running: &Running, job: &JobId, ending: Ending) {
    if ending == Ending::GivenUp {
        running.serving(job).await;
        return running.jobs.finish(job, Finish::Discard).await.unwrap();
    }
    asks(running, job).await;
    let finish = match ending {
        Ending::Committed { removed } => Finish::Commit { remove_original: removed },
        Ending::GivenUp | Ending::GivenUpMoved => Finish::Discard,
    };
    running.jobs.finish(job, finish).await.unwrap();
}

fn crash_everywhere(ending: Ending) {
    let world = World::new();
    let request = if ending == Ending::GivenUp { in_place() } else { migrating() };
    for write in 0.. {
        for after in [false, true] {
            with_original(&world, true);
            let crashed = world.live(async |world| {
                let running = world.start().await;
                let crash = running.jobs.crash_point();
                crash.arm(write, after);
                let story = async {
                    let job = running.jobs.start(request.clone(), None).await.unwrap();
                    say(&running, &job, ending).await;
                    running.end(&job).await;
                };
                tokio::select! {
                    () = crash.reached() => true,
                    () = story => false,
                }
            });
            if !crashed {
                assert!(write > 20, "the story has only {write} writes");
                return;
            }
            world.live(async |world| second_life(world, ending).await);
            world.reset();
        }
    }
}

/// The appliance starts again: the job goes on, or has been told how it ends already.
async fn second_life(world: &World, ending: Ending) {
    let running = world.start().await;
    let [job] = &running.jobs.list()[..] else { panic!("one job") };
    let id = job.id.clone();
    running.jobs.run();
    let mut view = running.jobs.watch(&id).unwrap();
    let says = |view: &JobView| {
        let serves = ending == Ending::GivenUp && view.state == JobState::Serving;
        serves || waits(view) || view.state.is_final()
    };
    if !view.wait_for(says).await.unwrap().state.is_final() {
        say(&running, &id, ending).await;
    }
    let done = running.end(&id).await;
    assert_eq!(done.state, JobState::Completed, "{:#?}", done.timeline);
    match ending {
        Ending::Committed { removed } => assert_committed(world, &id, removed),
        Ending::GivenUp | Ending::GivenUpMoved => assert_back(world, &running, true),
    }
    world.assert_clean(&running);
    running.stop().await;
}

#[test]
fn the_original_is_back_after_a_crash_at_every_write() {
    crash_everywhere(Ending::GivenUp);
}

#[test]
fn the_original_is_back_after_a_crash_at_every_write_of_a_migration() {
    crash_everywhere(Ending::GivenUpMoved);
}

#[test]
fn a_commit_survives_a_crash_at_every_write() {
    for removed in [false, true] {
        crash_everywhere(Ending::Committed { removed });
    }
}
