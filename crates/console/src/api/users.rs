use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{
    Console, Problem,
    act::Act,
    auth::{self, Caller},
    given::{At, Body},
    tag::{self, Seen},
    users::{Role, Scope, Totp, UserError, UserView, Users},
};

#[derive(Serialize, JsonSchema)]
pub(crate) struct UserList {
    users: Vec<UserView>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    name: String,
    password: String,
    role: Role,
    #[serde(default)]
    scope: Scope,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grant {
    role: Role,
    #[serde(default)]
    scope: Scope,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    password: String,
    current: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct TotpView {
    /// Base32, as authenticator apps take it.
    secret: String,
    uri: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Code {
    code: String,
}

/// `GET /api/v1/users`
pub(crate) async fn users(State(console): State<Arc<Console>>) -> Json<UserList> {
    Json(UserList { users: console.users.list() })
}

/// `GET /api/v1/users/{name}`
pub(crate) async fn user(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if name != caller.user {
        caller.has(Role::Admin)?;
    }
    let view = console.users.found(&name)?.view();
    if tag::is_known(&headers, &version(&view)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, version(&view))]).into_response());
    }
    Ok(tagged(StatusCode::OK, view))
}

/// `POST /api/v1/users`
pub(crate) async fn add_user(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Result<Body<NewUser>, Problem>,
) -> Result<Response, Problem> {
    let Body(NewUser { name, password, role, scope }) = body?;
    let act = Act::new(&caller, "user.add", format!("{name} as {role}"));
    let console_ = Arc::clone(&console);
    let work = async move {
        let hash = auth::hash_password(&console_, password).await?;
        change(&console_, move |users| users.add(&name, role, scope, hash)).await
    };
    Ok(tagged(StatusCode::CREATED, console.act(act, work).await?))
}

/// `PUT /api/v1/users/{name}`
pub(crate) async fn set_grant(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
    headers: HeaderMap,
    body: Result<Body<Grant>, Problem>,
) -> Result<Response, Problem> {
    let Body(Grant { role, scope }) = body?;
    let seen = Seen::of(&headers);
    let act = Act::new(&caller, "user.grant", format!("{name} as {role}"));
    let console_ = Arc::clone(&console);
    let work = async move {
        change(&console_, move |users| users.set_grant(&name, &seen, role, scope)).await
    };
    Ok(tagged(StatusCode::OK, console.act(act, work).await?))
}

/// `DELETE /api/v1/users/{name}`
pub(crate) async fn remove_user(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let seen = Seen::of(&headers);
    let act = Act::new(&caller, "user.remove", name.clone());
    let console_ = Arc::clone(&console);
    let work = async move {
        let removed = name.clone();
        change(&console_, move |users| users.remove(&removed, &seen)).await?;
        console_.sessions.close_all(&name);
        Ok(StatusCode::NO_CONTENT)
    };
    console.act(act, work).await
}

/// `POST /api/v1/users/{name}/password`: ends the user's sessions.
pub(crate) async fn set_password(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
    body: Result<Body<NewPassword>, Problem>,
) -> Result<StatusCode, Problem> {
    caller.in_person()?;
    let Body(NewPassword { password, current }) = body?;
    if name == caller.user {
        let current = current.ok_or_else(|| Problem::refused("send `current` too"))?;
        auth::check_own_password(&console, &caller, current).await?;
    } else {
        caller.has(Role::Admin)?;
        caller.has_all()?;
    }
    let act = Act::new(&caller, "user.password", name.clone());
    let console_ = Arc::clone(&console);
    let work = async move {
        let hash = auth::hash_password(&console_, password).await?;
        let user = name.clone();
        change(&console_, move |users| users.set_password(&user, hash)).await?;
        console_.sessions.close_all(&name);
        Ok(StatusCode::NO_CONTENT)
    };
    console.act(act, work).await
}

/// `POST /api/v1/users/{name}/totp`
pub(crate) async fn begin_totp(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
) -> Result<(StatusCode, Json<TotpView>), Problem> {
    own(&caller, &name)?;
    let totp = Totp::new().map_err(|e| Problem::internal(&e))?;
    let view = TotpView { secret: totp.secret(), uri: totp.uri(&name) };
    let act = Act::new(&caller, "user.totp.begin", name.clone());
    let console_ = Arc::clone(&console);
    let work = async move { change(&console_, move |users| users.begin_totp(&name, totp)).await };
    console.act(act, work).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// `POST /api/v1/users/{name}/totp/confirm`
pub(crate) async fn confirm_totp(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
    body: Result<Body<Code>, Problem>,
) -> Result<StatusCode, Problem> {
    own(&caller, &name)?;
    let Body(Code { code }) = body?;
    let act = Act::new(&caller, "user.totp.confirm", name);
    let console_ = Arc::clone(&console);
    let work = async move {
        auth::take_code(&console_, &caller.user, &code, caller.from).await?;
        Ok(StatusCode::NO_CONTENT)
    };
    console.act(act, work).await
}

/// `DELETE /api/v1/users/{name}/totp`
pub(crate) async fn remove_totp(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.in_person()?;
    let confirmed = console.users.found(&name)?.has_totp();
    if name != caller.user {
        caller.has(Role::Admin)?;
        caller.has_all()?;
    } else if confirmed {
        auth::second_factor(&console, &caller, &headers).await?;
    }
    let act = Act::new(&caller, "user.totp.remove", name.clone());
    let console_ = Arc::clone(&console);
    let work = async move {
        change(&console_, move |users| users.remove_totp(&name)).await?;
        Ok(StatusCode::NO_CONTENT)
    };
    console.act(act, work).await
}

fn own(caller: &Caller, name: &str) -> Result<(), Problem> {
    caller.in_person()?;
    if caller.user == name {
        return Ok(());
    }
    Err(Problem::forbidden("a second factor is set up by its own user"))
}

/// Changes users where waiting for the disk harms nobody.
pub(super) async fn change<T: Send + 'static>(
    console: &Arc<Console>,
    how: impl FnOnce(&Users) -> Result<T, UserError> + Send + 'static,
) -> Result<T, Problem> {
    let users = Arc::clone(&console.users);
    let changed = spawn_blocking(move || how(&users)).await;
    Ok(changed.map_err(|e| Problem::internal(&e))??)
}

fn tagged(status: StatusCode, user: UserView) -> Response {
    (status, [(header::ETAG, version(&user))], Json(user)).into_response()
}

fn version(user: &UserView) -> String {
    format!("\"{}\"", user.version)
}
