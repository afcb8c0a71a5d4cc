//! Every call of the API: where it is, who may make it, what it takes, does and answers. The router, the
//! guard and the documents are made of this list.

mod list;

use std::{collections::BTreeSet, sync::Arc};

use axum::{http::Method, routing::MethodRouter};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::{Console, users::Role};

pub(crate) use list::CALLS;

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Everyone who is known, for what is in their scope.
    Viewer,
    /// Everyone who is known and whose scope is everything.
    Whole,
    /// Operators, for what is in their scope.
    Operate,
    /// The same; with a one-time code where that is configured.
    Restore,
    /// Admins whose scope is everything.
    Admin,
}

impl Need {
    /// Who that is, in a word.
    pub(crate) fn who(self) -> &'static str {
        match self {
            Self::Viewer | Self::Whole => Role::Viewer.as_str(),
            Self::Operate | Self::Restore => Role::Operator.as_str(),
            Self::Admin => Role::Admin.as_str(),
        }
    }
}

/// A type's schema, by the same attributes that serde reads.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a call takes as its body.
#[derive(Clone, Copy)]
pub(crate) enum Takes {
    Nothing,
    Json(SchemaOf),
    /// The body may be absent.
    MayJson(SchemaOf),
}

/// What a call answers when it is done.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    Nothing,
    Json(SchemaOf),
    /// The same as JSON, or for people.
    JsonOr(SchemaOf, &'static [&'static str]),
    /// JSON that is described elsewhere.
    Any,
    /// Text of this type.
    Text(&'static str),
}

/// One call.
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// `None`: open to everyone.
    pub(crate) need: Option<Need>,
    pub(crate) route: fn() -> MethodRouter<Arc<Console>>,
    pub(crate) what: &'static str,
    pub(crate) takes: Takes,
    /// Its query: an object whose fields are the parameters.
    pub(crate) query: Option<SchemaOf>,
    pub(crate) status: u16,
    pub(crate) content: Content,
    /// How else it ends, beside what is the same for all calls of its kind.
    fails: &'static [u16],
    pub(crate) headers: Headers,
}

/// Where it is known what was made under an `Idempotency-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Once {
    /// In the journal of jobs.
    Job,
    /// Among the answers that are kept.
    Kept,
}

/// Which headers a call knows.
#[derive(Clone, Copy, Default)]
pub(crate) struct Headers {
    /// Answers with an `ETag`.
    pub(crate) tagged: bool,
    /// Honours `If-Match`.
    pub(crate) matched: bool,
    /// Answers with a `Location`.
    pub(crate) located: bool,
    /// Honours `Idempotency-Key`.
    pub(crate) once: Option<Once>,
    /// Honours `If-None-Match`.
    pub(crate) cached: bool,
    /// May need a one-time code.
    pub(crate) code: bool,
}

const fn call(
    method: &'static str,
    path: &'static str,
    need: Option<Need>,
    route: fn() -> MethodRouter<Arc<Console>>,
    what: &'static str,
) -> Call {
    let headers = Headers {
        tagged: false,
        matched: false,
        located: false,
        once: None,
        cached: false,
        code: false,
    };
    let (takes, content) = (Takes::Nothing, Content::Nothing);
    Call {
        method,
        path,
        need,
        route,
        what,
        takes,
        query: None,
        status: 204,
        content,
        fails: &[],
        headers,
    }
}

/// The schema of a body.
const fn json<T: JsonSchema>() -> SchemaOf {
    SchemaGenerator::subschema_for::<T>
}

/// The schema of a query, whose fields are told one by one.
const fn fields<T: JsonSchema>() -> SchemaOf {
    T::json_schema
}

impl Call {
    const fn takes(mut self, body: SchemaOf) -> Self {
        self.takes = Takes::Json(body);
        self
    }

    const fn may_take(mut self, body: SchemaOf) -> Self {
        self.takes = Takes::MayJson(body);
        self
    }

    const fn asks(mut self, query: SchemaOf) -> Self {
        self.query = Some(query);
        self
    }

    const fn answers(mut self, status: u16, content: Content) -> Self {
        self.status = status;
        self.content = content;
        self
    }

    const fn fails(mut self, fails: &'static [u16]) -> Self {
        self.fails = fails;
        self
    }

    const fn tagged(mut self) -> Self {
        self.headers.tagged = true;
        self
    }

    const fn matched(mut self) -> Self {
        self.headers.matched = true;
        self
    }

    const fn located(mut self) -> Self {
        self.headers.located = true;
        self
    }

    const fn once(mut self, known: Once) -> Self {
        self.headers.once = Some(known);
        self
    }

    /// Answers with its version, and with nothing else to who has that.
    const fn cached(mut self) -> Self {
        self.headers.tagged = true;
        self.headers.cached = true;
        self
    }

    const fn with_code(mut self) -> Self {
        self.headers.code = true;
        self
    }

    /// Whether it may change something.
    pub(crate) fn changes(&self) -> bool {
        self.method != "GET"
    }

    /// Whether it may need a one-time code.
    pub(crate) fn may_need_code(&self) -> bool {
        self.headers.code || self.need == Some(Need::Restore)
    }

    /// Every status that a problem of this call can have.
    pub(crate) fn problems(&self) -> BTreeSet<u16> {
        // Too many calls, our fault, and too late may befall each.
        let mut all: BTreeSet<u16> = [429, 500, 504].into();
        all.extend(self.fails);
        if self.need.is_some() {
            all.insert(401);
        }
        if self.changes() || self.need.is_some_and(|need| need != Need::Viewer) {
            all.insert(403);
        }
        if self.changes() {
            // Of the audit log.
            all.insert(503);
        }
        if self.path.contains('{') {
            all.extend([400, 404]);
        }
        if self.query.is_some() {
            // A cursor that is none is a text all the same.
            all.extend([400, 422]);
        }
        if self.headers.once.is_some() {
            all.extend([400, 409]);
        }
        if self.headers.once == Some(Once::Kept) {
            all.extend([413, 507]);
        }
        if self.headers.matched {
            all.insert(412);
        }
        if !matches!(self.takes, Takes::Nothing) {
            all.extend([400, 413, 415]);
        }
        all
    }
}

const VIEWER: Option<Need> = Some(Need::Viewer);
const WHOLE: Option<Need> = Some(Need::Whole);
const OPERATE: Option<Need> = Some(Need::Operate);
const RESTORE: Option<Need> = Some(Need::Restore);
const ADMIN: Option<Need> = Some(Need::Admin);

/// The call, if it is on the list.
pub(crate) fn known(method: &Method, path: &str) -> Option<&'static Call> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    CALLS.iter().find(|call| call.path == path && call.method == method.as_str())
}

/// What a call needs. One that is not on the list is nobody's but an admin's.
pub(crate) fn need(method: &Method, path: Option<&str>) -> Need {
    let Some(path) = path else { return Need::Viewer };
    known(method, path).and_then(|call| call.need).unwrap_or(Need::Admin)
}

/// One line per call, for people.
pub fn describe() -> String {
    let line = |call: &Call| {
        let who = call.need.map_or("-", Need::who);
        format!("{:<7}{:<35}{who:<9}{}\n", call.method, call.path, call.what)
    };
    let lines: String = CALLS.iter().map(line).collect();
    format!(
        "{lines}GET    {:<35}-        200 while the process answers\n\n\
         The third column is the least role that may make the call, `-` for everyone. A call carries\n\
         `Authorization: Bearer TOKEN`: the admin token, or an API token. Errors are problem documents\n\
         (RFC 9457) whose `code` is stable. /api/v1/openapi.json has what each takes and answers.\n",
        "/healthz"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_on_the_list_is_for_admins() {
        assert_eq!(need(&Method::GET, Some("/api/v1/jobs")), Need::Viewer);
        assert_eq!(need(&Method::HEAD, Some("/metrics")), Need::Whole);
        assert_eq!(need(&Method::POST, Some("/api/v1/recoveries")), Need::Restore);
        assert_eq!(need(&Method::DELETE, Some("/api/v1/jobs")), Need::Admin);
        assert_eq!(need(&Method::GET, Some("/api/v1/other")), Need::Admin);
    }

    #[test]
    fn what_changes_something_is_never_for_the_unknown() {
        for call in CALLS.iter().filter(|call| call.method != "GET") {
            assert!(call.need.is_some() || call.path == "/api/v1/session", "{}", call.path);
        }
    }
}
