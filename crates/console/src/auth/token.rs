use subtle::ConstantTimeEq;

/// Shortest admin token that is accepted: 32 characters of hex are 128 bits,
/// which no number of attempts will find.
pub const TOKEN_MIN_CHARS: usize = 32;

/// The token is too short to withstand guessing. Make a longer one.
#[derive(thiserror::Error, Debug, Clone, Copy)]
#[error("the admin token has {found} characters, at least {TOKEN_MIN_CHARS} are needed")]
pub struct WeakToken {
    found: usize,
}

/// The one token that opens the console and the API.
///
/// Only its hash is kept, so that neither a log line nor a core dump shows
/// the token, and so that the comparison is over equal lengths.
#[derive(Clone)]
pub struct AdminToken {
    hash: [u8; 32],
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(hidden)")
    }
}

impl AdminToken {
    /// Takes the token as it stands in its file; white space around it is not part of it.
    pub fn new(token: &str) -> Result<Self, WeakToken> {
        let token = token.trim();
        let found = token.chars().count();
        if found < TOKEN_MIN_CHARS {
            return Err(WeakToken { found });
        }
        Ok(Self { hash: hash(token) })
    }

    /// Whether `offered` is the token, in a time that does not depend on how much of it is right.
    pub(crate) fn matches(&self, offered: &str) -> bool {
        hash(offered.trim()).ct_eq(&self.hash).into()
    }
}

fn hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_matches() {
        let text = "0123456789abcdef0123456789abcdef";
        let token = AdminToken::new(&format!(" {text}\n")).unwrap();
        assert!(token.matches(text));
        assert!(!token.matches(&text[..31]));
        assert!(!token.matches(""));
        assert!(AdminToken::new(&text[..31]).is_err());
        assert!(!format!("{token:?}").contains("0123"));
    }
}
