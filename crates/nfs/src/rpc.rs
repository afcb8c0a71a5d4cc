//! Calls and replies of ONC RPC version 2 (RFC 5531).

use crate::wire::{Args, Garbage, Put};
use smallvec::SmallVec;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const VERSION: u32 = 2;
const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;
/// The longest credential or verifier body (RFC 5531 section 8.2).
const LONGEST_AUTH: usize = 400;
const LONGEST_HOST: usize = 255;
const MOST_GROUPS: u32 = 16;

/// Who the client says it calls for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    None,
    Sys { uid: u32, gid: u32, gids: SmallVec<[u32; 16]> },
}

/// The head of a call.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) xid: u32,
    pub(crate) program: u32,
    pub(crate) version: u32,
    pub(crate) procedure: u32,
    pub(crate) credential: Credential,
    pub(crate) args: Args<'a>,
}

/// Why a record is no call that could be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadCall {
    /// Not a call at all: nothing can be answered.
    NotACall,
    /// RPC of another version.
    Version(u32),
    /// The call's head is cut short.
    Garbage(u32),
    /// A credential that makes no sense, or is of a kind that is not served.
    Auth(u32, AuthError),
}

/// Why a credential is refused (RFC 5531 section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AuthError {
    BadCredential = 1,
    TooWeak = 5,
}

impl<'a> Call<'a> {
    /// Reads the head of a call.
    pub(crate) fn parse(record: &'a [u8]) -> Result<Self, BadCall> {
        let mut args = Args::new(record);
        let xid = args.u32().map_err(|_| BadCall::NotACall)?;
        if args.u32() != Ok(CALL) {
            return Err(BadCall::NotACall);
        }
        let cut = |_: Garbage| BadCall::Garbage(xid);
        if args.u32().map_err(cut)? != VERSION {
            return Err(BadCall::Version(xid));
        }
        let program = args.u32().map_err(cut)?;
        let version = args.u32().map_err(cut)?;
        let procedure = args.u32().map_err(cut)?;
        let flavor = args.u32().map_err(cut)?;
        let body = args.opaque(LONGEST_AUTH).map_err(cut)?;
        args.u32().map_err(cut)?;
        args.opaque(LONGEST_AUTH).map_err(cut)?;
        let credential = match flavor {
            AUTH_NONE => Credential::None,
            AUTH_SYS => {
                sys(Args::new(body)).map_err(|_| BadCall::Auth(xid, AuthError::BadCredential))?
            }
            _ => return Err(BadCall::Auth(xid, AuthError::TooWeak)),
        };
        Ok(Self { xid, program, version, procedure, credential, args })
    }
}

/// `authsys_parms` (RFC 5531 appendix A).
fn sys(mut body: Args<'_>) -> Result<Credential, Garbage> {
    body.u32()?;
    body.opaque(LONGEST_HOST)?;
    let (uid, gid) = (body.u32()?, body.u32()?);
    let count = body.u32()?;
    if count > MOST_GROUPS {
        return Err(Garbage);
    }
    let gids = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
    Ok(Credential::Sys { uid, gid, gids })
}

/// Begins the reply to an accepted call that succeeded; results follow.
pub(crate) fn put_success(out: &mut Vec<u8>, xid: u32) {
    put_accepted(out, xid, 0);
}

/// The reply to a call of a program that is not here.
pub(crate) fn put_program_unavailable(out: &mut Vec<u8>, xid: u32) {
    put_accepted(out, xid, 1);
}

/// The reply to a call of a version that is not here; `low..=high` are.
pub(crate) fn put_version_mismatch(out: &mut Vec<u8>, xid: u32, (low, high): (u32, u32)) {
    put_accepted(out, xid, 2);
    out.put_u32(low);
    out.put_u32(high);
}

/// The reply to a call of a procedure that is not here.
pub(crate) fn put_procedure_unavailable(out: &mut Vec<u8>, xid: u32) {
    put_accepted(out, xid, 3);
}

/// The reply to a call whose arguments cannot be read.
pub(crate) fn put_garbage(out: &mut Vec<u8>, xid: u32) {
    put_accepted(out, xid, 4);
}

/// The reply to a call whose credential is refused.
pub(crate) fn put_denied(out: &mut Vec<u8>, xid: u32, why: AuthError) {
    for word in [xid, REPLY, 1, 1, why as u32] {
        out.put_u32(word);
    }
}

fn put_accepted(out: &mut Vec<u8>, xid: u32, state: u32) {
    let mut head = [0; 24];
    for (at, word) in [xid, REPLY, 0, AUTH_NONE, 0, state].into_iter().enumerate() {
        head[at * 4..at * 4 + 4].copy_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(&head);
}

/// The reply to what could not be read as a call; false if there is nothing to be said.
pub(crate) fn put_bad_call(out: &mut Vec<u8>, bad: BadCall) -> bool {
    match bad {
        BadCall::NotACall => return false,
        BadCall::Version(xid) => {
            for word in [xid, REPLY, 1, 0, VERSION, VERSION] {
                out.put_u32(word);
            }
        }
        BadCall::Garbage(xid) => put_garbage(out, xid),
        BadCall::Auth(xid, why) => put_denied(out, xid, why),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{BadCall, Call, Credential};
    use crate::wire::Put;

    fn call(words: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        words.iter().for_each(|word| out.put_u32(*word));
        out
    }

    #[test]
    fn a_call_with_a_credential_of_sys_is_read() {
        let mut bytes = call(&[7, 0, 2, 100_003, 3, 1, 1, 36, 0, 4]);
        bytes.extend(b"host");
        bytes.extend(call(&[1000, 100, 3, 4, 24, 27, 0, 0, 0xabcd]));
        let call = Call::parse(&bytes).unwrap();
        assert_eq!((call.xid, call.program, call.version, call.procedure), (7, 100_003, 3, 1));
        let gids = [4, 24, 27].into_iter().collect();
        assert_eq!(call.credential, Credential::Sys { uid: 1000, gid: 100, gids });
        assert_eq!(call.args.rest(), 0xabcd_u32.to_be_bytes());
    }

    #[test]
    fn any_cut_of_a_call_is_told_apart() {
        let whole = call(&[7, 0, 2, 100_003, 3, 0, 0, 0, 0, 0]);
        assert!(Call::parse(&whole).is_ok());
        for len in 0..whole.len() {
            assert!(Call::parse(&whole[..len]).is_err(), "{len}");
        }
        assert_eq!(Call::parse(&call(&[7, 1, 2])).unwrap_err(), BadCall::NotACall);
        assert_eq!(Call::parse(&call(&[7, 0, 3])).unwrap_err(), BadCall::Version(7));
    }
}
