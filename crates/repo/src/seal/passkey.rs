use std::fmt;

use zeroize::Zeroizing;

use crate::RepoError;

/// Fewer characters are guessed too soon, whatever a guess costs.
const MIN_CHARS: usize = 8;
const MAX_BYTES: usize = 1024;

/// What opens a sealed repository. It is shown nowhere, and its memory is cleared when it is dropped.
#[derive(Clone)]
pub struct Passkey(Zeroizing<String>);

impl Passkey {
    /// Takes `text` as it is, but for line ends behind it. At least 8 characters and at most 1024 bytes.
    pub fn new(text: &str) -> Result<Self, RepoError> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.chars().count() < MIN_CHARS || text.len() > MAX_BYTES {
            return Err(RepoError::refused(format!(
                "a passkey has at least {MIN_CHARS} characters and at most {MAX_BYTES} bytes"
            )));
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passkey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passkeys_are_bounded_and_not_shown() {
        assert!(Passkey::new("1234567").is_err());
        assert!(Passkey::new("1234567\r\n\n").is_err());
        assert!(Passkey::new(&"x".repeat(1025)).is_err());
        let passkey = Passkey::new("correct horse\n").unwrap();
        assert_eq!(passkey.as_bytes(), b"correct horse");
        assert!(!format!("{passkey:?}").contains("horse"));
    }
}
