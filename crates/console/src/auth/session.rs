use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Sessions open at once. The one used longest ago makes room for a new one.
const SESSIONS: usize = 64;
/// A session ends this long after it was opened.
pub(crate) const SESSION_AGE: Duration = Duration::from_secs(12 * 3600);
/// A session ends this long after it was last used.
const SESSION_IDLE: Duration = Duration::from_secs(2 * 3600);

/// The browser sessions that log-ins opened. They live in memory: after a restart
/// one logs in again.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<[u8; 32], Session>>,
}

struct Session {
    user: String,
    opened: Instant,
    used: Instant,
}

impl Session {
    fn live(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.opened) < SESSION_AGE
            && now.saturating_duration_since(self.used) < SESSION_IDLE
    }
}

impl Sessions {
    /// Opens a session and returns its secret for the cookie: 64 characters of hex.
    pub(crate) fn open(&self, user: &str, now: Instant) -> Result<String, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        let mut open = self.open.lock();
        open.retain(|_, session| session.live(now));
        if open.len() >= SESSIONS {
            let oldest = open.iter().min_by_key(|(_, session)| session.used).map(|(key, _)| *key);
            oldest.and_then(|key| open.remove(&key));
        }
        let text = hex::encode(secret);
        open.insert(key(&text), Session { user: user.to_owned(), opened: now, used: now });
        Ok(text)
    }

    /// Whose live session the secret is; the session counts as used by that.
    pub(crate) fn touch(&self, secret: &str, now: Instant) -> Option<String> {
        match self.open.lock().get_mut(&key(secret)) {
            Some(session) if session.live(now) => {
                session.used = now;
                Some(session.user.clone())
            }
            _ => None,
        }
    }

    /// Ends every session of `user`.
    pub(crate) fn close_all(&self, user: &str) {
        self.open.lock().retain(|_, session| session.user != user);
    }

    /// Ends the session, if there is one.
    pub(crate) fn close(&self, secret: &str) {
        self.open.lock().remove(&key(secret));
    }
}

/// Looked up by hash, so that the time of a look-up tells nothing about a secret.
fn key(secret: &str) -> [u8; 32] {
    *blake3::hash(secret.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_expire_and_close() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let secret = sessions.open("ann", start).unwrap();
        assert!(sessions.touch("other", start).is_none());
        let mut now = start;
        while now.duration_since(start) + SESSION_IDLE / 2 < SESSION_AGE {
            now += SESSION_IDLE / 2;
            assert!(sessions.touch(&secret, now).is_some());
        }
        assert!(sessions.touch(&secret, start + SESSION_AGE).is_none());
        let idle = sessions.open("ann", start).unwrap();
        assert!(sessions.touch(&idle, start + SESSION_IDLE).is_none());
        let closed = sessions.open("ann", start).unwrap();
        sessions.close(&closed);
        assert!(sessions.touch(&closed, start).is_none());
    }

    #[test]
    fn the_session_used_longest_ago_makes_room() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let first = sessions.open("ann", start).unwrap();
        let second = sessions.open("ann", start + Duration::from_secs(1)).unwrap();
        assert!(sessions.touch(&first, start + Duration::from_secs(2)).is_some());
        for n in 0..SESSIONS as u64 - 1 {
            sessions.open("ann", start + Duration::from_secs(3 + n)).unwrap();
        }
        let now = start + Duration::from_secs(100);
        assert!(sessions.touch(&first, now).is_some());
        assert!(sessions.touch(&second, now).is_none());
    }

    #[test]
    fn the_sessions_of_one_user_end_together() {
        let sessions = Sessions::default();
        let now = Instant::now();
        let (ann, bob) = (sessions.open("ann", now).unwrap(), sessions.open("bob", now).unwrap());
        sessions.close_all("ann");
        assert_eq!(sessions.touch(&ann, now), None);
        assert_eq!(sessions.touch(&bob, now).as_deref(), Some("bob"));
    }
}
