//! Recoveries from sealed repositories: their request must carry a passkey, and guessing is slow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rekindle_repo::{Passkey, RepoError, Repository};
use tokio::sync::Semaphore;

use crate::{JobError, failure};

/// How long a client waits after its first wrong passkey; it doubles with each that follows.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(600);
/// A client that offered none for this long begins anew.
const FORGET: Duration = Duration::from_secs(3600);
/// Clients remembered with their repository: at about 100 bytes each, 100 KiB. Past it, who is not remembered waits.
const CLIENTS: usize = 1024;

/// What a request offers beside what is journaled of it, and who offers it.
#[derive(Debug)]
pub struct Offer {
    /// A passkey of the repository.
    pub passkey: Option<Passkey>,
    /// Where the request came from.
    pub client: IpAddr,
}

/// Who has offered wrong passkeys.
pub(crate) struct Passkeys {
    wrong: Mutex<HashMap<(String, IpAddr), Wrong>>,
    /// A check takes 64 MiB and a tenth of a second of one core: one at a time.
    one: Arc<Semaphore>,
}

impl Default for Passkeys {
    fn default() -> Self {
        Self { wrong: Mutex::default(), one: Arc::new(Semaphore::new(1)) }
    }
}

struct Wrong {
    in_row: u32,
    last: Instant,
}

impl Wrong {
    fn wait(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.in_row.saturating_sub(1)).unwrap_or(u32::MAX);
        FIRST_WAIT.saturating_mul(doubled).min(MAX_WAIT)
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.wait().saturating_sub(now.saturating_duration_since(self.last));
        (!left.is_zero()).then_some(left)
    }
}

impl Passkeys {
    /// Whether a recovery from `repository`, which is called `name`, may be started with what `offer` has.
    pub(crate) async fn admit(
        &self,
        name: &str,
        repository: &Repository,
        offer: Option<&Offer>,
    ) -> Result<(), JobError> {
        let Some(Offer { passkey: Some(passkey), client }) = offer else {
            return Err(JobError::Denied {
                code: "passkey_needed",
                message: format!("a recovery from repository {name:?} needs one of its passkeys"),
                wait: None,
            });
        };
        let key = (name.to_owned(), network(*client));
        self.may_try(&key, Instant::now())?;
        let _one = self.one.acquire().await.map_err(|e| {
            JobError::unavailable("internal", "wait for another passkey's check", e)
        })?;
        // Others of the same client may have been wrong meanwhile.
        self.may_try(&key, Instant::now())?;
        let (repository, passkey) = (repository.clone(), passkey.clone());
        let checked = tokio::task::spawn_blocking(move || repository.check_passkey(&passkey));
        let checked =
            checked.await.map_err(|e| JobError::unavailable("internal", "check a passkey", e))?;
        match checked {
            Ok(()) => {
                self.wrong.lock().remove(&key);
                Ok(())
            }
            Err(RepoError::Locked { .. }) => {
                let wait = self.was_wrong(key, Instant::now());
                tracing::warn!(repository = name, %client, "a wrong passkey for a recovery");
                Err(JobError::Denied {
                    code: "passkey_wrong",
                    message: format!("the passkey is none of repository {name:?}"),
                    wait: Some(wait),
                })
            }
            Err(other) => Err(failure::repo("check the passkey", other)),
        }
    }

    fn may_try(&self, key: &(String, IpAddr), now: Instant) -> Result<(), JobError> {
        let mut wrong = self.wrong.lock();
        wrong.retain(|_, one| now.saturating_duration_since(one.last) < FORGET);
        let wait = match wrong.get(key) {
            Some(one) => one.left(now),
            None => (wrong.len() >= CLIENTS).then_some(MAX_WAIT),
        };
        match wait {
            None => Ok(()),
            Some(wait) => Err(JobError::Denied {
                code: "too_many_passkeys",
                message: "too many wrong passkeys: wait and try again".into(),
                wait: Some(wait),
            }),
        }
    }

    fn was_wrong(&self, key: (String, IpAddr), now: Instant) -> Duration {
        let mut wrong = self.wrong.lock();
        let one = wrong.entry(key).or_insert(Wrong { in_row: 0, last: now });
        one.in_row = one.in_row.saturating_add(1);
        one.last = now;
        one.wait()
    }
}

/// An IPv6 client is its /64, since it can choose the rest freely.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: &str) -> (String, IpAddr) {
        ("main".into(), network(client.parse().unwrap()))
    }

    #[test]
    fn each_wrong_passkey_doubles_the_wait_of_its_client_only() {
        let passkeys = Passkeys::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..12 {
            passkeys.may_try(&key("2001:db8::1"), now).unwrap();
            let wait = passkeys.was_wrong(key("2001:db8::1"), now);
            let early = passkeys.may_try(&key("2001:db8::2"), now + wait - FIRST_WAIT / 2);
            assert_eq!(early.unwrap_err().code(), "too_many_passkeys");
            passkeys.may_try(&key("192.0.2.1"), now).unwrap();
            passkeys.may_try(&("other".into(), key("2001:db8::1").1), now).unwrap();
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        passkeys.may_try(&key("2001:db8::1"), now + FORGET).unwrap();
        assert!(passkeys.wrong.lock().is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let passkeys = Passkeys::default();
        let now = Instant::now();
        for n in 0..CLIENTS as u32 {
            passkeys.was_wrong(("main".into(), IpAddr::V4(n.into())), now);
        }
        assert!(passkeys.may_try(&key("203.0.113.9"), now + MAX_WAIT / 2).is_err());
        passkeys.may_try(&key("203.0.113.9"), now + FORGET).unwrap();
    }
}
