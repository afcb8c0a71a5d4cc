use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::users::change;
use crate::{
    Console, Problem,
    act::Act,
    auth::Caller,
    given::{At, Body},
    users::{Role, Scope, TokenSpec, TokenView},
};

/// The longest life of an API token: a year.
const LIFE_MAX_SECONDS: u64 = 366 * 86_400;

#[derive(Serialize, JsonSchema)]
pub(crate) struct TokenList {
    tokens: Vec<TokenView>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    name: String,
    #[schemars(range(min = 1, max = LIFE_MAX_SECONDS))]
    expires_in_seconds: u64,
    /// Whose it is, for admins; the caller's own when absent.
    user: Option<String>,
    /// No more than the caller's own, which it is when absent. The owner's role bounds it at each use.
    role: Option<Role>,
    #[serde(default)]
    scope: Scope,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct MadeToken {
    #[serde(flatten)]
    view: TokenView,
    /// Told now and never again.
    token: String,
}

/// `GET /api/v1/tokens`
pub(crate) async fn tokens(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Json<TokenList> {
    Json(TokenList { tokens: console.users.tokens(owner(&caller)) })
}

/// `POST /api/v1/tokens`
pub(crate) async fn add_token(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Result<Body<NewToken>, Problem>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    caller.in_person()?;
    let Body(body) = body?;
    if !(1..=LIFE_MAX_SECONDS).contains(&body.expires_in_seconds) {
        let detail = format!("expires_in_seconds must be from 1 to {LIFE_MAX_SECONDS}");
        return Err(Problem::bad_request(detail));
    }
    let life = SignedDuration::from_secs(body.expires_in_seconds.cast_signed());
    let owner = body.user.unwrap_or_else(|| caller.user.clone());
    if owner != caller.user {
        caller.has(Role::Admin)?;
        caller.has_all()?;
    }
    let spec = TokenSpec {
        owner,
        role: body.role.unwrap_or(caller.role).min(caller.role),
        scope: caller.scope.and(&body.scope),
        expires_at: Timestamp::now().saturating_add(life).map_err(|e| Problem::internal(&e))?,
        name: body.name,
    };
    let act = Act::new(&caller, "token.add", format!("{} as {}", spec.name, spec.role));
    let console_ = Arc::clone(&console);
    let work = async move { change(&console_, move |users| users.add_token(spec)).await };
    let (view, token) = console.act(act, work).await?;
    Ok((StatusCode::CREATED, Json(MadeToken { view, token })))
}

/// `DELETE /api/v1/tokens/{id}`
pub(crate) async fn remove_token(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
) -> Result<StatusCode, Problem> {
    let owner = owner(&caller).map(str::to_owned);
    let act = Act::new(&caller, "token.remove", id.clone());
    let console_ = Arc::clone(&console);
    let work = async move {
        change(&console_, move |users| users.remove_token(&id, owner.as_deref())).await?;
        Ok(StatusCode::NO_CONTENT)
    };
    console.act(act, work).await
}

/// Whose tokens the caller deals with; an admin with those of everyone.
fn owner(caller: &Caller) -> Option<&str> {
    let all = caller.role == Role::Admin && caller.scope.is_all();
    (!all).then_some(caller.user.as_str())
}
