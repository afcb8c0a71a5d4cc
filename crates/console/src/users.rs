//! Who there is: users with a password and perhaps a second factor, and the API tokens they made.
//!
//! All of it is in memory and in the state database; a change is durable before it is seen.

mod password;
mod role;
mod tokens;
mod totp;

use std::collections::BTreeMap;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use rekindle_state::{Database, Keyspace, StateError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tag::Seen;

pub use role::{Role, Scope};

pub(crate) use password::{PASSWORD_MAX, PASSWORD_MIN, PasswordHash};
pub(crate) use tokens::{TokenRecord, TokenSpec, TokenView};
pub(crate) use totp::Totp;

/// Users, at below 1 KiB each.
const USERS: usize = 256;
/// API tokens of all users, at below 1 KiB each. Expired ones make room.
const TOKENS: usize = 1024;
/// The user that the admin token is. There is no other way to be it, and it cannot be removed.
pub(crate) const ADMIN: &str = "admin";
/// The longest name of a user or token, in characters.
pub(crate) const NAME_MAX: usize = 64;

/// What went wrong with a user or token, by what the caller can do.
#[derive(thiserror::Error, Debug)]
pub enum UserError {
    /// There is none of that name.
    #[error("there is no {what} {name:?}")]
    NotFound {
        /// A user or a token.
        what: &'static str,
        /// What was named.
        name: String,
    },
    /// There is one already.
    #[error("there is a user {name:?} already")]
    Exists {
        /// Who.
        name: String,
    },
    /// It was changed meanwhile: read it again.
    #[error("user {name:?} was changed meanwhile, read it again")]
    Changed {
        /// Who.
        name: String,
    },
    /// Fix the call.
    #[error("{reason}")]
    Refused {
        /// What is wrong.
        reason: String,
    },
    /// The state database failed.
    #[error("the users are not available: {0}")]
    State(#[from] StateError),
}

impl UserError {
    fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }
}

/// A user as it is kept.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
    /// `None` for [`ADMIN`], which logs in with its token.
    password: Option<PasswordHash>,
    totp: Option<Totp>,
    created_at: Timestamp,
    /// Grows with each change of what the API shows.
    pub(crate) version: u64,
}

/// A user as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct UserView {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
    pub(crate) totp: bool,
    /// Whether it is the admin token's, which has no password.
    pub(crate) built_in: bool,
    pub(crate) created_at: Timestamp,
    #[serde(skip)]
    pub(crate) version: u64,
}

impl User {
    fn admin() -> Self {
        let (role, scope) = (Role::Admin, Scope::default());
        let created_at = Timestamp::UNIX_EPOCH;
        Self { name: ADMIN.into(), role, scope, password: None, totp: None, created_at, version: 0 }
    }

    /// Its version, as an `ETag`.
    pub(crate) fn tag(&self) -> String {
        format!("\"{}\"", self.version)
    }

    pub(crate) fn has_totp(&self) -> bool {
        self.totp.as_ref().is_some_and(|totp| totp.confirmed)
    }

    pub(crate) fn password(&self) -> Option<&PasswordHash> {
        self.password.as_ref()
    }

    pub(crate) fn view(&self) -> UserView {
        UserView {
            name: self.name.clone(),
            role: self.role,
            scope: self.scope.clone(),
            totp: self.has_totp(),
            built_in: self.name == ADMIN,
            created_at: self.created_at,
            version: self.version,
        }
    }
}

/// The users and tokens of this appliance. Calls that change something block for a sync.
pub struct Users {
    db: Database,
    users: Keyspace<User>,
    tokens: Keyspace<TokenRecord>,
    known: RwLock<Known>,
    /// Held from the look at a record to its change.
    changing: Mutex<()>,
}

#[derive(Default)]
struct Known {
    users: BTreeMap<String, User>,
    tokens: BTreeMap<String, TokenRecord>,
}

impl Users {
    /// Reads what is stored.
    pub fn open(db: &Database) -> Result<Self, StateError> {
        let users: Keyspace<User> = db.keyspace("console_users")?;
        let tokens: Keyspace<TokenRecord> = db.keyspace("console_tokens")?;
        let mut known = Known::default();
        known.users.insert(ADMIN.into(), User::admin());
        known.users.extend(users.scan(b"")?.into_iter().map(|(_, user)| (user.name.clone(), user)));
        known.tokens.extend(tokens.scan(b"")?.into_iter().map(|(_, one)| (one.id.clone(), one)));
        let (db, known) = (db.clone(), RwLock::new(known));
        Ok(Self { db, users, tokens, known, changing: Mutex::default() })
    }

    pub(crate) fn get(&self, name: &str) -> Option<User> {
        self.known.read().users.get(name).cloned()
    }

    pub(crate) fn found(&self, name: &str) -> Result<User, UserError> {
        self.get(name).ok_or_else(|| UserError::NotFound { what: "user", name: name.to_owned() })
    }

    pub(crate) fn list(&self) -> Vec<UserView> {
        self.known.read().users.values().map(User::view).collect()
    }

    /// Makes a user. The password's hash is made by the caller, who knows where there is time for it.
    pub(crate) fn add(
        &self,
        name: &str,
        role: Role,
        scope: Scope,
        password: PasswordHash,
    ) -> Result<UserView, UserError> {
        check_user_name(name)?;
        let _changing = self.changing.lock();
        if self.get(name).is_some() {
            return Err(UserError::Exists { name: name.to_owned() });
        }
        if self.known.read().users.len() >= USERS {
            return Err(UserError::refused(format!("there are {USERS} users, which is the limit")));
        }
        let created_at = Timestamp::now();
        let password = Some(password);
        let user =
            User { name: name.into(), role, scope, password, totp: None, created_at, version: 1 };
        self.store(user)
    }

    /// Changes what a user may do; only if it is as the caller has seen it.
    pub(crate) fn set_grant(
        &self,
        name: &str,
        seen: &Seen,
        role: Role,
        scope: Scope,
    ) -> Result<UserView, UserError> {
        self.change(name, seen, |user| {
            if user.name == ADMIN {
                return Err(UserError::refused("what admin may do cannot be changed"));
            }
            (user.role, user.scope) = (role, scope);
            Ok(())
        })
    }

    pub(crate) fn set_password(
        &self,
        name: &str,
        password: PasswordHash,
    ) -> Result<UserView, UserError> {
        self.change(name, &Seen::default(), |user| {
            if user.name == ADMIN {
                return Err(UserError::refused("admin has no password: it is the admin token"));
            }
            user.password = Some(password);
            Ok(())
        })
    }

    /// Removes a user and its tokens.
    pub(crate) fn remove(&self, name: &str, seen: &Seen) -> Result<(), UserError> {
        let _changing = self.changing.lock();
        let user = self.found(name)?;
        if name == ADMIN {
            return Err(UserError::refused("admin cannot be removed: it is the admin token"));
        }
        same_version(&user, seen)?;
        let mut batch = self.db.batch();
        batch.delete(&self.users, name.as_bytes())?;
        for token in self.known.read().tokens.values().filter(|one| one.owner == name) {
            batch.delete(&self.tokens, token.id.as_bytes())?;
        }
        batch.commit()?;
        let mut known = self.known.write();
        known.users.remove(name);
        known.tokens.retain(|_, one| one.owner != name);
        Ok(())
    }

    /// Begins a second factor: it counts once its owner has shown a code of it.
    pub(crate) fn begin_totp(&self, name: &str, totp: Totp) -> Result<(), UserError> {
        let begin = |user: &mut User| {
            if user.has_totp() {
                let reason = "there is a second factor already: remove it first";
                return Err(UserError::refused(reason));
            }
            user.totp = Some(totp);
            Ok(())
        };
        self.change(name, &Seen::default(), begin).map(drop)
    }

    /// Whether `code` is good now. If so it is used up, durably, and the factor counts from now on.
    pub(crate) fn take_code(&self, name: &str, code: &str) -> Result<bool, UserError> {
        let unix = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        let mut taken = false;
        self.change(name, &Seen::default(), |user| {
            let Some(totp) = &mut user.totp else { return Ok(()) };
            taken = totp.take(code, unix);
            totp.confirmed |= taken;
            Ok(())
        })?;
        Ok(taken)
    }

    pub(crate) fn remove_totp(&self, name: &str) -> Result<(), UserError> {
        self.change(name, &Seen::default(), |user| {
            user.totp = None;
            Ok(())
        })
        .map(drop)
    }

    pub(crate) fn add_token(&self, spec: TokenSpec) -> Result<(TokenView, String), UserError> {
        check_label(&spec.name)?;
        let _changing = self.changing.lock();
        self.found(&spec.owner)?;
        let now = Timestamp::now();
        let (record, text) = TokenRecord::new(spec, now)
            .map_err(|e| UserError::refused(format!("no randomness: {e}")))?;
        let mut batch = self.db.batch();
        let expired = |one: &&TokenRecord| one.expires_at <= now;
        let expired: Vec<_> =
            self.known.read().tokens.values().filter(expired).map(|one| one.id.clone()).collect();
        if self.known.read().tokens.len() - expired.len() >= TOKENS {
            return Err(UserError::refused(format!("there are {TOKENS} tokens: remove one")));
        }
        for id in &expired {
            batch.delete(&self.tokens, id.as_bytes())?;
        }
        batch.put(&self.tokens, record.id.as_bytes(), &record)?;
        batch.commit()?;
        let mut known = self.known.write();
        expired.iter().for_each(|id| drop(known.tokens.remove(id)));
        let view = record.view();
        known.tokens.insert(record.id.clone(), record);
        Ok((view, text))
    }

    /// The token that `text` is, if it lives.
    pub(crate) fn token(&self, text: &str) -> Option<TokenRecord> {
        let known = self.known.read();
        let record = known.tokens.get(tokens::id_of(text)?)?;
        record.matches(text, Timestamp::now()).then(|| record.clone())
    }

    /// The tokens of `owner`, or of everyone.
    pub(crate) fn tokens(&self, owner: Option<&str>) -> Vec<TokenView> {
        let known = self.known.read();
        let wanted = |one: &&TokenRecord| owner.is_none_or(|owner| one.owner == owner);
        known.tokens.values().filter(wanted).map(TokenRecord::view).collect()
    }

    /// Removes a token; with `owner`, only one of its own.
    pub(crate) fn remove_token(&self, id: &str, owner: Option<&str>) -> Result<(), UserError> {
        let _changing = self.changing.lock();
        let known = self.known.read().tokens.get(id).map(|one| one.owner.clone());
        if known.is_none_or(|found| owner.is_some_and(|owner| owner != found)) {
            return Err(UserError::NotFound { what: "token", name: id.to_owned() });
        }
        self.tokens.delete(id.as_bytes())?;
        self.known.write().tokens.remove(id);
        Ok(())
    }

    fn change(
        &self,
        name: &str,
        seen: &Seen,
        how: impl FnOnce(&mut User) -> Result<(), UserError>,
    ) -> Result<UserView, UserError> {
        let _changing = self.changing.lock();
        let mut user = self.found(name)?;
        same_version(&user, seen)?;
        how(&mut user)?;
        user.version += 1;
        self.store(user)
    }

    /// Durable first, then seen.
    fn store(&self, user: User) -> Result<UserView, UserError> {
        self.users.put(user.name.as_bytes(), &user)?;
        let view = user.view();
        self.known.write().users.insert(user.name.clone(), user);
        Ok(view)
    }
}

fn same_version(user: &User, seen: &Seen) -> Result<(), UserError> {
    let changed = || UserError::Changed { name: user.name.clone() };
    seen.holds(&user.tag()).map_err(|_| changed())
}

fn check_user_name(name: &str) -> Result<(), UserError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.@".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
        let reason = format!(
            "a user's name has 1 to {NAME_MAX} small letters, digits, dots, dashes, underscores or @"
        );
        return Err(UserError::refused(reason));
    }
    Ok(())
}

fn check_label(name: &str) -> Result<(), UserError> {
    let fits = (1..=NAME_MAX).contains(&name.chars().count());
    if !fits || name.chars().any(char::is_control) {
        let reason = format!("a token's name has 1 to {NAME_MAX} printable characters");
        return Err(UserError::refused(reason));
    }
    Ok(())
}

/// Refuses a password that is too short to withstand guessing, or too long to be one.
pub(crate) fn check_password(password: &str) -> Result<(), UserError> {
    if password.chars().count() < PASSWORD_MIN || password.len() > PASSWORD_MAX {
        let reason = format!(
            "a password has at least {PASSWORD_MIN} characters and at most {PASSWORD_MAX} bytes"
        );
        return Err(UserError::refused(reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password() -> PasswordHash {
        PasswordHash::new("correct horse battery").unwrap()
    }

    fn spec(owner: &str) -> TokenSpec {
        let expires_at = Timestamp::now() + jiff::SignedDuration::from_hours(1);
        let (role, scope) = (Role::Viewer, Scope::default());
        TokenSpec { owner: owner.into(), name: "ci".into(), role, scope, expires_at }
    }

    #[test]
    fn users_and_tokens_survive_a_restart_and_leave_together() {
        let dir = tempfile::tempdir().unwrap();
        let text = {
            let users = Users::open(&Database::open(dir.path()).unwrap()).unwrap();
            users.add("ann", Role::Operator, Scope::default(), password()).unwrap();
            users.add_token(spec("ann")).unwrap().1
        };
        let db = Database::open(dir.path()).unwrap();
        let users = Users::open(&db).unwrap();
        assert!(users.get("ann").unwrap().password().unwrap().matches("correct horse battery"));
        assert_eq!(users.token(&text).unwrap().owner, "ann");
        assert!(users.token(&text.replace('_', "-")).is_none());
        users.remove("ann", &Seen::default()).unwrap();
        assert!(users.token(&text).is_none() && users.get("ann").is_none());
        let users = Users::open(&db).unwrap();
        assert!(users.token(&text).is_none() && users.get("ann").is_none());
        assert!(matches!(users.add_token(spec("ann")), Err(UserError::NotFound { .. })));
    }

    #[test]
    fn admin_is_there_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users::open(&Database::open(dir.path()).unwrap()).unwrap();
        assert_eq!(users.get(ADMIN).unwrap().role, Role::Admin);
        assert!(users.remove(ADMIN, &Seen::default()).is_err());
        assert!(users.set_grant(ADMIN, &Seen::default(), Role::Viewer, Scope::default()).is_err());
        assert!(users.set_password(ADMIN, password()).is_err());
        assert!(matches!(
            users.add(ADMIN, Role::Viewer, Scope::default(), password()),
            Err(UserError::Exists { .. })
        ));
        for bad in ["", "Ann", "a b", "a/b", &"a".repeat(65)] {
            assert!(users.add(bad, Role::Viewer, Scope::default(), password()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_change_of_what_was_changed_meanwhile_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users::open(&Database::open(dir.path()).unwrap()).unwrap();
        let seen = users.add("ann", Role::Viewer, Scope::default(), password()).unwrap().version;
        let seen_as = |version: u64| {
            let tag = format!("\"{version}\"").parse().unwrap();
            Seen::of(&[(axum::http::header::IF_MATCH, tag)].into_iter().collect())
        };
        let set = |version: Option<u64>| {
            let seen = version.map(seen_as).unwrap_or_default();
            users.set_grant("ann", &seen, Role::Operator, Scope::default())
        };
        let now = set(Some(seen)).unwrap().version;
        assert!(matches!(set(Some(seen)), Err(UserError::Changed { .. })));
        assert!(matches!(users.remove("ann", &seen_as(seen)), Err(UserError::Changed { .. })));
        users.remove("ann", &seen_as(now)).unwrap();
    }

    #[test]
    fn a_code_that_was_taken_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path()).unwrap();
        let users = Users::open(&db).unwrap();
        users.add("ann", Role::Viewer, Scope::default(), password()).unwrap();
        assert!(!users.take_code("ann", "000000").unwrap());
        let totp = Totp::new().unwrap();
        let code = totp.code_now();
        users.begin_totp("ann", totp).unwrap();
        assert!(!users.get("ann").unwrap().has_totp());
        assert!(users.take_code("ann", &code).unwrap());
        assert!(users.get("ann").unwrap().has_totp());
        assert!(users.begin_totp("ann", Totp::new().unwrap()).is_err());
        assert!(!users.take_code("ann", &code).unwrap());
        let users = Users::open(&db).unwrap();
        assert!(users.get("ann").unwrap().has_totp() && !users.take_code("ann", &code).unwrap());
    }
}
