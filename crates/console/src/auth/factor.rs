use std::{net::IpAddr, sync::Arc, time::Instant};

use tokio::task::spawn_blocking;

use super::Caller;
use crate::{
    Console, Problem,
    audit::Note,
    users::{PASSWORD_MAX, PasswordHash, check_password},
};

/// The hash of a new password, made where there is time and memory for it.
pub(crate) async fn hash_password(
    console: &Console,
    password: String,
) -> Result<PasswordHash, Problem> {
    check_password(&password)?;
    let _permit = console.hashing.acquire().await.map_err(|e| Problem::internal(&e))?;
    let hashed = spawn_blocking(move || PasswordHash::new(&password)).await;
    hashed.map_err(|e| Problem::internal(&e))?.map_err(|e| Problem::internal(&e))
}

/// Whether it is the user's password. Takes as long for a user that does not exist.
pub(super) async fn password_matches(
    console: &Console,
    user: &str,
    password: String,
) -> Result<bool, Problem> {
    if password.len() > PASSWORD_MAX {
        return Ok(false);
    }
    let stored = console.users.get(user).and_then(|user| user.password().cloned());
    let _permit = console.hashing.acquire().await.map_err(|e| Problem::internal(&e))?;
    let check = move || match stored {
        Some(stored) => stored.matches(&password),
        None => PasswordHash::matches_nobody(&password),
    };
    spawn_blocking(check).await.map_err(|e| Problem::internal(&e))
}

/// Checks the password of a caller who changes it. A wrong one counts as at log-in.
pub(crate) async fn check_own_password(
    console: &Console,
    caller: &Caller,
    password: String,
) -> Result<(), Problem> {
    let user = &caller.user;
    if let Some(wait) = console.lockouts.wait(user, Instant::now()) {
        return Err(Problem::locked_out(wait));
    }
    console.lockouts.failed(user, Instant::now());
    if password_matches(console, user, password).await? {
        console.lockouts.cleared(user);
        return Ok(());
    }
    tracing::warn!(user, client = %caller.from, "a wrong current password");
    Err(Problem::forbidden("the current password is wrong"))
}

/// Takes the user's code of now. It is used up by that, and a wrong one counts against the user.
pub(crate) async fn take_code(
    console: &Arc<Console>,
    user: &str,
    code: &str,
    from: IpAddr,
) -> Result<(), Problem> {
    if let Some(wait) = console.lockouts.wait(user, Instant::now()) {
        return Err(Problem::locked_out(wait));
    }
    // Counted before it is looked at, so that many at once do not slip through.
    console.lockouts.failed(user, Instant::now());
    let (users, name, offered) = (Arc::clone(&console.users), user.to_owned(), code.to_owned());
    let taken = spawn_blocking(move || users.take_code(&name, &offered)).await;
    if taken.map_err(|e| Problem::internal(&e))?? {
        console.lockouts.cleared(user);
        return Ok(());
    }
    console.record(Note::log_in(user, from, "wrong_code")).await?;
    tracing::warn!(user, client = %from, "a wrong one-time code");
    let detail = "the one-time code is wrong, or was used already: wait for the next one";
    Err(Problem::unauthorized(detail))
}
