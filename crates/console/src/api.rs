//! The calls under `/api/v1`.

mod events;
mod jobs;
mod points;
mod status;

pub(crate) use events::events;
pub(crate) use jobs::{cancel, extend, finish, job, jobs, recover};
pub(crate) use points::{points, repositories};
pub(crate) use status::{cache, exports, ready, targets};
