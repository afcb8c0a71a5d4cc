//! Small objects that carry the checksum of their own body, and are sealed whole in a sealed repository.
//!
//! The plain form is JSON, but read as bytes, so that the checksum covers exactly what was written:
//! `{"version":1,"blake3":"<64 digits>","<field>":<body>}`. The sealed form has the plain one in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rekindle_block::BlockHash;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::RepoError;
use crate::seal::{Scope, Seal};

/// The one format version that this build reads and writes.
const VERSION: u32 = 1;
const END: &[u8] = b"}\n";
const SEALED_HEAD: &str = "{\"version\":1,\"sealed\":\"";
const SEALED_END: &str = "\"}\n";

fn head(field: &str, hash: &BlockHash) -> String {
    format!("{{\"version\":{VERSION},\"blake3\":\"{hash}\",\"{field}\":")
}

/// The stored form of `value`, for the object `object`.
pub(crate) fn encode<T: Serialize>(
    seal: &Seal,
    object: &str,
    field: &str,
    value: &T,
) -> Result<Vec<u8>, RepoError> {
    let body = serde_json::to_vec(value)
        .map_err(|error| RepoError::refused(format!("cannot encode {object}: {error}")))?;
    self::seal(seal, object, wrap(field, &body))
}

/// Reads what [`encode`] wrote, in the same place. Untrusted.
pub(crate) fn decode<T: DeserializeOwned>(
    seal: &Seal,
    object: &str,
    field: &str,
    bytes: &[u8],
) -> Result<T, RepoError> {
    let plain = open(seal, object, bytes)?;
    let body = unwrap(field, &plain).map_err(|problem| problem.into_error(object))?;
    serde_json::from_slice(body).map_err(|error| RepoError::corrupt(object, error.to_string()))
}

/// The plain form of `body`.
pub(crate) fn wrap(field: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = head(field, &BlockHash::of(body)).into_bytes();
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(END);
    bytes
}

/// The body of a plain form, checked.
pub(crate) fn unwrap<'b>(field: &str, bytes: &'b [u8]) -> Result<&'b [u8], Unread> {
    let damaged = |detail: &str| Unread::Damaged(detail.into());
    let rest = bytes.strip_prefix(b"{\"version\":").ok_or_else(|| damaged("no version"))?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).take(9).count();
    let version = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
    match version {
        Some(VERSION) => {}
        Some(version) => return Err(Unread::Newer(version)),
        None => return Err(damaged("no version")),
    }
    let head_len = head(field, &BlockHash::from_bytes([0; 32])).len();
    let body = bytes
        .get(head_len..)
        .and_then(|rest| rest.strip_suffix(END))
        .ok_or_else(|| damaged("it ends too early"))?;
    if bytes[..head_len] != *head(field, &BlockHash::of(body)).as_bytes() {
        return Err(damaged("its checksum does not match"));
    }
    Ok(body)
}

/// The stored form of a plain one.
pub(crate) fn seal(seal: &Seal, object: &str, plain: Vec<u8>) -> Result<Vec<u8>, RepoError> {
    if !seal.is_sealed() {
        return Ok(plain);
    }
    let sealed = STANDARD.encode(seal.seal(Scope::Object(object), b"", &plain)?);
    Ok(format!("{SEALED_HEAD}{sealed}{SEALED_END}").into_bytes())
}

/// The plain form of a stored one, in the same place.
pub(crate) fn open(seal: &Seal, object: &str, bytes: &[u8]) -> Result<Vec<u8>, RepoError> {
    if !seal.is_sealed() {
        return Ok(bytes.to_vec());
    }
    let corrupt = |detail: &str| RepoError::corrupt(object, detail);
    let sealed = bytes
        .strip_prefix(SEALED_HEAD.as_bytes())
        .and_then(|rest| rest.strip_suffix(SEALED_END.as_bytes()))
        .and_then(|text| STANDARD.decode(text).ok())
        .ok_or_else(|| corrupt("it is not sealed as this repository is"))?;
    let plain = seal.open(Scope::Object(object), b"", sealed);
    plain.map_err(|_| corrupt("it is not what was sealed"))
}

/// Why there is no body.
pub(crate) enum Unread {
    Damaged(String),
    Newer(u32),
}

impl Unread {
    pub(crate) fn into_error(self, what: &str) -> RepoError {
        match self {
            Self::Damaged(detail) => RepoError::corrupt(what, detail),
            Self::Newer(version) => RepoError::refused(format!(
                "{what} has format version {version}; this build reads version {VERSION}"
            )),
        }
    }
}
