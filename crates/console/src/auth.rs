//! Who may call: the admin token, an API token, or a session that a log-in opened.

mod attempts;
mod caller;
mod factor;
mod guard;
mod lockout;
mod login;
mod session;
mod token;

pub use token::{AdminToken, TOKEN_MIN_CHARS, WeakToken};

pub(crate) use attempts::{Attempts, network};
pub(crate) use caller::Caller;
pub(crate) use factor::{check_own_password, hash_password, take_code};
pub(crate) use guard::{guard, second_factor};
pub(crate) use lockout::Lockouts;
pub(crate) use login::{LogIn, SessionView, log_in, log_out, session_view};
pub(crate) use session::Sessions;
