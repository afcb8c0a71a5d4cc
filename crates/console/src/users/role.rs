use std::{collections::BTreeSet, fmt, str::FromStr};

use rekindle_jobs::{JobView, TargetRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name that a scope has for recoveries to NFS clients, which need no configured target.
const EXPORT: &str = "export";

/// What someone may do. Each may also do what those before it may.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks at everything in scope.
    Viewer,
    /// Starts, ends and cancels recoveries.
    Operator,
    /// Users, tokens of others, and the audit log.
    Admin,
}

impl Role {
    /// The role as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("{text:?} is none of viewer, operator, admin"))
    }
}

/// Which repositories and targets someone deals with; absent means all of them, also those that come
/// later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Repositories by their configured name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repositories: Option<BTreeSet<String>>,
    /// Targets by their configured name; `export` for recoveries to NFS clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<BTreeSet<String>>,
}

impl Scope {
    pub(crate) fn is_all(&self) -> bool {
        self.repositories.is_none() && self.targets.is_none()
    }

    pub(crate) fn has_repository(&self, name: &str) -> bool {
        self.repositories.as_ref().is_none_or(|names| names.contains(name))
    }

    pub(crate) fn has_target(&self, target: &TargetRef) -> bool {
        match target {
            TargetRef::Export { .. } => self.has_target_named(EXPORT),
            TargetRef::Vsphere { name, .. } => self.has_target_named(name),
            // A directory of the appliance is no target that could be named.
            TargetRef::Nowhere {} => self.targets.is_none(),
        }
    }

    pub(crate) fn has_target_named(&self, name: &str) -> bool {
        self.targets.as_ref().is_none_or(|names| names.contains(name))
    }

    pub(crate) fn has_job(&self, job: &JobView) -> bool {
        self.has_repository(&job.repository) && self.has_target(&job.request.target)
    }

    /// What is in both.
    pub(crate) fn and(&self, other: &Self) -> Self {
        Self {
            repositories: both(&self.repositories, &other.repositories),
            targets: both(&self.targets, &other.targets),
        }
    }
}

type Names = Option<BTreeSet<String>>;

fn both(one: &Names, other: &Names) -> Names {
    match (one, other) {
        (Some(one), Some(other)) => Some(one & other),
        (Some(names), None) | (None, Some(names)) => Some(names.clone()),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(repositories: &[&str]) -> Scope {
        let names = repositories.iter().map(|name| (*name).to_owned()).collect();
        Scope { repositories: Some(names), targets: None }
    }

    #[test]
    fn roles_are_in_order() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn two_scopes_allow_what_both_do() {
        let both = scope(&["a", "b"]).and(&scope(&["b", "c"]));
        assert_eq!(both, scope(&["b"]));
        assert_eq!(scope(&["a"]).and(&Scope::default()), scope(&["a"]));
        let none = scope(&["a"]).and(&scope(&["b"]));
        assert!(!none.has_repository("a") && !none.has_repository("b") && !none.is_all());
        assert!(Scope::default().has_repository("x") && Scope::default().is_all());
        let exports = Scope { targets: Some(["export".to_owned()].into()), ..Scope::default() };
        assert!(exports.has_target(&TargetRef::Export { clients: Vec::new() }));
        let elsewhere = TargetRef::Vsphere { name: "x".into(), host: None };
        assert!(!exports.has_target(&elsewhere));
    }
}
