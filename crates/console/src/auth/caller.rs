use std::net::IpAddr;

use crate::{
    Console, Problem,
    users::{ADMIN, Role, Scope, User},
};

/// Who makes a call, and what it may do.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) user: String,
    pub(crate) via: Via,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
    pub(crate) from: IpAddr,
}

/// What a caller showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    AdminToken,
    /// The API token of this id.
    Token(String),
    Session,
}

impl Via {
    /// As logs spell it.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::AdminToken => "admin token".to_owned(),
            Self::Token(id) => format!("token {id}"),
            Self::Session => "session".to_owned(),
        }
    }
}

impl Caller {
    pub(super) fn of(user: &User, via: Via, from: IpAddr) -> Self {
        Self { user: user.name.clone(), via, role: user.role, scope: user.scope.clone(), from }
    }

    /// Whoever the `Authorization: Bearer` text is. Tokens cannot be guessed, so attempts are not counted.
    pub(super) fn by_token(console: &Console, text: &str, from: IpAddr) -> Result<Self, Problem> {
        if console.token.matches(text) {
            let admin = console.users.found(ADMIN)?;
            return Ok(Self::of(&admin, Via::AdminToken, from));
        }
        let wrong = || Problem::unauthorized("the token is wrong, or has expired");
        let token = console.users.token(text.trim()).ok_or_else(wrong)?;
        // What its owner may do now, and no more than the token was made for.
        let owner = console.users.get(&token.owner).ok_or_else(wrong)?;
        let mut caller = Self::of(&owner, Via::Token(token.id), from);
        caller.role = caller.role.min(token.role);
        caller.scope = caller.scope.and(&token.scope);
        Ok(caller)
    }

    pub(crate) fn has(&self, role: Role) -> Result<(), Problem> {
        if self.role >= role {
            return Ok(());
        }
        let detail = format!("{} is {}, and this needs {role}", self.user, self.role);
        Err(Problem::forbidden(&detail))
    }

    /// The call makes or changes what shows who someone is: not for a token that was left somewhere.
    pub(crate) fn in_person(&self) -> Result<(), Problem> {
        match self.via {
            Via::Session | Via::AdminToken => Ok(()),
            Via::Token(_) => Err(Problem::forbidden("an API token cannot do this: log in instead")),
        }
    }

    /// The call tells of the whole appliance, so it is not for a part of it.
    pub(crate) fn has_all(&self) -> Result<(), Problem> {
        if self.scope.is_all() {
            return Ok(());
        }
        let detail = format!("{} deals with some repositories or targets only", self.user);
        Err(Problem::forbidden(&detail))
    }
}
