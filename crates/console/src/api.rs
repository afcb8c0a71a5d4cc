//! The calls under `/api/v1`.

pub(crate) mod audit;
pub(crate) mod batches;
mod events;
pub(crate) mod jobs;
mod keep;
pub(crate) mod notifications;
pub(crate) mod points;
mod reasoned;
pub(crate) mod repositories;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod tokens;
mod upkeep;
pub(crate) mod users;

pub(crate) use audit::audit;
pub(crate) use batches::{
    BODY_MAX as BATCH_BODY_MAX, batch, batches, cancel_batch, resume_batch, start_batch,
};
pub(crate) use events::{batch_events, events};
pub(crate) use jobs::{cancel, extend, finish, forecast, job, jobs, recover, report, retry, undo};
pub(crate) use keep::keep;
pub(crate) use notifications::{notifications, test_notifications};
pub(crate) use points::points;
pub(crate) use reasoned::{Asked, Reasoned};
pub(crate) use repositories::repositories;
pub(crate) use state::{back_up_state, state_backups};
pub(crate) use status::{cache, exports, ready, settings, targets};
pub(crate) use tokens::{add_token, remove_token, tokens};
pub(crate) use upkeep::{check, prune, stop_upkeep, upkeep};
pub(crate) use users::{
    add_user, begin_totp, confirm_totp, remove_totp, remove_user, set_grant, set_password, user,
    users,
};
