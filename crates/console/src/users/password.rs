use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// The shortest password, in characters (NIST SP 800-63B asks for 8 with a second factor, 15 without).
pub(crate) const PASSWORD_MIN: usize = 12;
/// The longest, in bytes.
pub(crate) const PASSWORD_MAX: usize = 256;
/// Argon2id's memory in KiB, passes and lanes, as OWASP recommends them: about 25 ms.
const COST: Cost = Cost { memory_kib: 19_456, passes: 2, lanes: 1 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// A password as Argon2id (RFC 9106) keeps it, with the cost it was made at.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PasswordHash {
    cost: Cost,
    salt: String,
    hash: String,
}

impl PasswordHash {
    /// Takes 25 ms and 19 MiB: not on an async thread, and not for everybody at once.
    pub(crate) fn new(password: &str) -> Result<Self, String> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|e| e.to_string())?;
        let hash = hash(COST, &salt, password)?;
        Ok(Self { cost: COST, salt: hex::encode(salt), hash: hex::encode(hash) })
    }

    /// Whether it is this password; `false` too when what is stored makes no sense.
    pub(crate) fn matches(&self, password: &str) -> bool {
        let Ok(salt) = hex::decode(&self.salt) else { return false };
        let Ok(found) = hash(self.cost, &salt, password) else { return false };
        hex::encode(found).as_bytes().ct_eq(self.hash.as_bytes()).into()
    }

    /// The same work for nothing, so that the time of a log-in does not tell which users exist.
    pub(crate) fn matches_nobody(password: &str) -> bool {
        let _ = hash(COST, &[0; 16], password);
        false
    }
}

fn hash(cost: Cost, salt: &[u8], password: &str) -> Result<[u8; 32], String> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32));
    let params = params.map_err(|e| e.to_string())?;
    let mut out = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), salt, &mut out)
        .map_err(|e| e.to_string())?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_matches_and_no_two_hashes_are_alike() {
        let one = PasswordHash::new("correct horse battery").unwrap();
        assert!(one.matches("correct horse battery"));
        assert!(!one.matches("correct horse batterz") && !one.matches(""));
        assert!(PasswordHash::new("correct horse battery").unwrap() != one);
        let stored = serde_json::to_string(&one).unwrap();
        assert!(!stored.contains("horse"), "{stored}");
        let read: PasswordHash = serde_json::from_str(&stored).unwrap();
        assert!(read.matches("correct horse battery"));
    }

    #[test]
    fn a_hash_that_makes_no_sense_matches_nothing() {
        let mut one = PasswordHash::new("correct horse battery").unwrap();
        one.cost.passes = 0;
        assert!(!one.matches("correct horse battery"));
    }
}
