use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Driver;
use crate::{JobError, Obstacle, Step};

impl Driver {
    /// Shows what the job cannot get past, until the next try after `pause`.
    pub(super) fn meet(&mut self, step: Option<Step>, error: &JobError, pause: Duration) {
        let now = Timestamp::now();
        let before = self.stuck.take().filter(|obstacle| obstacle.step == step);
        let pause = SignedDuration::try_from(pause).unwrap_or_default();
        self.stuck = Some(Obstacle {
            step,
            since: before.as_ref().map_or(now, |obstacle| obstacle.since),
            tries: before.map_or(1, |obstacle| obstacle.tries.saturating_add(1)),
            next_try_at: now.saturating_add(pause).unwrap_or(now),
            error: error.to_view(),
        });
        self.show();
    }
}
