use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::{Role, Scope};

/// What every token begins with, so that scanners of source code find one that was left there.
const PREFIX: &str = "rkd_";

/// An API token as it is kept: its hash only.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    pub(crate) id: String,
    pub(crate) owner: String,
    /// What its owner calls it.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    hash: String,
}

/// An API token as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct TokenView {
    id: String,
    owner: String,
    name: String,
    role: Role,
    scope: Scope,
    created_at: Timestamp,
    expires_at: Timestamp,
}

/// What a token is to be.
pub(crate) struct TokenSpec {
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
    pub(crate) expires_at: Timestamp,
}

impl TokenRecord {
    /// A new token and its text, `rkd_ID_SECRET`, which is told once. The secret has 160 random bits: a
    /// plain hash of it cannot be reversed.
    pub(crate) fn new(spec: TokenSpec, now: Timestamp) -> Result<(Self, String), getrandom::Error> {
        let (mut id, mut secret) = ([0; 6], [0; 20]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        let id = hex::encode(id);
        let text = format!("{PREFIX}{id}_{}", hex::encode(secret));
        let record = Self {
            id,
            owner: spec.owner,
            name: spec.name,
            role: spec.role,
            scope: spec.scope,
            created_at: now,
            expires_at: spec.expires_at,
            hash: hash(&text),
        };
        Ok((record, text))
    }

    pub(crate) fn matches(&self, text: &str, now: Timestamp) -> bool {
        let right: bool = hash(text).as_bytes().ct_eq(self.hash.as_bytes()).into();
        right && now < self.expires_at
    }

    pub(crate) fn view(&self) -> TokenView {
        TokenView {
            id: self.id.clone(),
            owner: self.owner.clone(),
            name: self.name.clone(),
            role: self.role,
            scope: self.scope.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
        }
    }
}

/// The id in a token's text.
pub(crate) fn id_of(text: &str) -> Option<&str> {
    text.strip_prefix(PREFIX)?.split_once('_').map(|(id, _)| id)
}

fn hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matches_until_it_expires_and_its_text_is_not_kept() {
        let now: Timestamp = "2025-01-31T12:00:00Z".parse().unwrap();
        let later: Timestamp = "2025-01-31T13:00:00Z".parse().unwrap();
        let spec = TokenSpec {
            owner: "ann".into(),
            name: "ci".into(),
            role: Role::Viewer,
            scope: Scope::default(),
            expires_at: later,
        };
        let (record, text) = TokenRecord::new(spec, now).unwrap();
        assert_eq!(id_of(&text), Some(record.id.as_str()));
        assert!(record.matches(&text, now) && !record.matches(&text, later));
        assert!(!record.matches(&text[..text.len() - 1], now));
        let secret = text.rsplit('_').next().unwrap();
        assert!(!serde_json::to_string(&record).unwrap().contains(secret));
        assert!(!serde_json::to_string(&record.view()).unwrap().contains(&record.hash));
    }
}
