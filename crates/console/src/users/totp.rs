use ring::hmac;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// Seconds per code (RFC 6238, section 4).
const STEP_SECONDS: u64 = 30;
/// Codes on either side of the current one that are taken too: clocks differ.
const DRIFT: u64 = 1;
const DIGITS: u32 = 6;

/// A time-based second factor: HMAC-SHA-1, 30 s, 6 digits, as every authenticator app takes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totp {
    secret: String,
    /// Whether its owner has shown a code: until then it is not asked for.
    pub(crate) confirmed: bool,
    /// The step of the last code that was taken. A code is good once.
    last_step: u64,
}

impl Totp {
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 20];
        getrandom::fill(&mut secret)?;
        Ok(Self { secret: hex::encode(secret), confirmed: false, last_step: 0 })
    }

    /// The secret as apps take it: base32 (RFC 4648) without padding.
    pub(crate) fn secret(&self) -> String {
        base32(&hex::decode(&self.secret).unwrap_or_default())
    }

    /// The URI that a QR code for apps carries.
    pub(crate) fn uri(&self, user: &str) -> String {
        format!("otpauth://totp/Rekindle:{user}?secret={}&issuer=Rekindle", self.secret())
    }

    /// Whether `code` is good at `unix` seconds. If so it is used up: it and all before it are refused
    /// from now on, once the changed record is stored.
    pub(crate) fn take(&mut self, code: &str, unix: u64) -> bool {
        let Ok(secret) = hex::decode(&self.secret) else { return false };
        let now = unix / STEP_SECONDS;
        let good = |step: &u64| {
            *step > self.last_step
                && bool::from(digits(&secret, *step).as_bytes().ct_eq(code.trim().as_bytes()))
        };
        match (now.saturating_sub(DRIFT)..=now + DRIFT).find(good) {
            Some(step) => {
                self.last_step = step;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
impl Totp {
    pub(crate) fn code_now(&self) -> String {
        let unix = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
        digits(&hex::decode(&self.secret).unwrap(), unix / STEP_SECONDS)
    }
}

/// The code of a step (RFC 4226, section 5.3).
fn digits(secret: &[u8], step: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let at = usize::from(tag[tag.len() - 1] & 0xf);
    let word = u32::from_be_bytes([tag[at] & 0x7f, tag[at + 1], tag[at + 2], tag[at + 3]]);
    format!("{:06}", word % 10_u32.pow(DIGITS))
}

fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bit = |n: usize| bytes.get(n / 8).map_or(0, |byte| byte >> (7 - n % 8) & 1);
    let letter = |group: usize| {
        let index = (0..5).fold(0, |index, n| index << 1 | bit(group * 5 + n));
        char::from(ALPHABET[usize::from(index)])
    };
    (0..(bytes.len() * 8).div_ceil(5)).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238's examples, and the last six digits of its codes.
    const SECRET: &[u8] = b"12345678901234567890";
    const EXAMPLES: [(u64, &str); 6] = [
        (59, "287082"),
        (1_111_111_109, "081804"),
        (1_111_111_111, "050471"),
        (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
        (20_000_000_000, "353130"),
    ];

    fn totp() -> Totp {
        Totp { secret: hex::encode(SECRET), confirmed: true, last_step: 0 }
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        for (unix, code) in EXAMPLES {
            assert!(totp().take(code, unix), "{unix}");
            assert!(totp().take(code, unix + 30) && totp().take(code, unix - 30), "{unix}");
            assert!(!totp().take(code, unix + 90), "{unix}");
            assert!(!totp().take("000000", unix) && !totp().take("", unix), "{unix}");
        }
    }

    #[test]
    fn a_code_is_good_once_and_so_are_those_before_it() {
        let mut totp = totp();
        let (unix, code) = EXAMPLES[2];
        let (_, before) = EXAMPLES[1];
        assert!(totp.take(code, unix));
        assert!(!totp.take(code, unix));
        assert!(!totp.take(before, unix));
        let stored = serde_json::to_string(&totp).unwrap();
        let mut read: Totp = serde_json::from_str(&stored).unwrap();
        assert!(!read.take(code, unix));
    }

    #[test]
    fn a_secret_is_written_as_apps_read_it() {
        // RFC 4648, section 10.
        assert_eq!(base32(b"foobar"), "MZXW6YTBOI");
        assert_eq!(base32(b"foob"), "MZXW6YQ");
        assert_eq!(base32(b""), "");
        assert_eq!(Totp::new().unwrap().secret().len(), 32);
    }
}
