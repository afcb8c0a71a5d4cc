//! The calls under `/api/v1`.

mod events;
mod jobs;
mod points;
mod status;

pub(crate) use events::events;
pub(crate) use jobs::{cancel, extend, finish, forecast, job, jobs, recover, report, retry, undo};
pub(crate) use points::{points, repositories};
pub(crate) use status::{cache, exports, ready, targets};
