//! Who may call: the admin token, or a session that was opened with it.

mod attempts;
mod guard;
mod login;
mod session;
mod token;

pub use token::{AdminToken, TOKEN_MIN_CHARS, WeakToken};

pub(crate) use attempts::Attempts;
pub(crate) use guard::guard;
pub(crate) use login::{log_in, log_out, session_view};
pub(crate) use session::Sessions;
