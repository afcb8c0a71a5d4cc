//! Answers by the key of their call, in memory only as far as they are looked for.
//!
//! ```text
//! console_answers  key: BLAKE3 of user and Idempotency-Key -> Record
//! ```
//! 1. that it is begun is durable   crash here: whether it was done is not known, and the same call says so
//! 2. it is done
//! 3. its answer is durable         crash here: as after 1
//! 4. the caller learns it          crash here: the same call is given the answer
//!
//! Neither keys nor answers can be read from what is stored: an answer is sealed with its key, and of the
//! call's body there is a hash under it.

use std::{collections::HashMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rekindle_state::{Database, Keyspace, StateError};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use super::Kept;

/// For how long an answer is kept: a day.
const LIFE: SignedDuration = SignedDuration::from_hours(24);
/// Keys that are known at once, at about 150 bytes of memory each: 600 KiB. The oldest makes room.
const KEYS: usize = 4096;
/// Bytes of all answers that are kept. The oldest make room.
const BYTES: usize = 32 << 20;

/// A call under a key.
pub(super) struct Claim {
    id: String,
    what: String,
    body: String,
    secret: [u8; 32],
}

impl Claim {
    pub(super) fn new(user: &str, key: &str, what: String, body: &[u8]) -> Self {
        let of = format!("{user}\0{key}");
        let id = blake3::derive_key("rekindle 2026 name of an idempotency key", of.as_bytes());
        let secret =
            blake3::derive_key("rekindle 2026 answer to an idempotency key", of.as_bytes());
        let body = blake3::keyed_hash(&secret, body).to_hex().to_string();
        Self { id: hex::encode(id), what, body, secret }
    }

    fn cipher(&self) -> Result<LessSafeKey, StateError> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.secret);
        Ok(LessSafeKey::new(key.map_err(|_| broken("an answer cannot be sealed"))?))
    }

    fn seal(&self, kept: &Kept) -> Result<String, StateError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| broken("there is no randomness"))?;
        let mut text = serde_json::to_vec(kept).map_err(|_| broken("an answer cannot be kept"))?;
        let sealed = self.cipher()?.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::empty(),
            &mut text,
        );
        sealed.map_err(|_| broken("an answer cannot be sealed"))?;
        Ok(hex::encode(nonce) + &hex::encode(text))
    }

    fn open(&self, sealed: &str) -> Option<Kept> {
        let mut bytes = hex::decode(sealed).ok()?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.cipher().ok()?.open_in_place(nonce, Aad::empty(), text).ok()?;
        serde_json::from_slice(text).ok()
    }
}

fn broken(what: &str) -> StateError {
    StateError::Refused(what.to_owned())
}

/// What there is of a call under a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// Nothing: it is to be made, and is on record as begun.
    New,
    /// It was made, and answered so.
    Before(Kept),
    /// It is being made.
    Now,
    /// It was begun by a process that ended, or its answer was too large.
    Unknown,
    /// Another call was made under this key.
    Other,
}

#[derive(Serialize, Deserialize)]
struct Record {
    at: Timestamp,
    what: String,
    body: String,
    sealed: Option<String>,
}

#[derive(Clone, Copy)]
struct Entry {
    at: Timestamp,
    bytes: usize,
    running: bool,
}

/// Where answers are kept, for a day.
pub const ANSWERS_KEYSPACE: &str = "console_answers";

/// The answers of the last day. Calls block for a sync.
pub struct Answers {
    keys: usize,
    records: Keyspace<Record>,
    known: Mutex<HashMap<String, Entry>>,
}

impl Answers {
    /// Finds what is kept.
    pub fn open(db: &Database) -> Result<Arc<Self>, StateError> {
        Self::keeping(db, KEYS)
    }

    fn keeping(db: &Database, keys: usize) -> Result<Arc<Self>, StateError> {
        let records: Keyspace<Record> = db.keyspace(ANSWERS_KEYSPACE)?;
        let known = records.scan(b"")?.into_iter().map(|(key, record)| {
            let bytes = record.sealed.map_or(0, |sealed| sealed.len());
            (
                String::from_utf8_lossy(&key).into_owned(),
                Entry { at: record.at, bytes, running: false },
            )
        });
        let known = Mutex::new(known.collect());
        Ok(Arc::new(Self { keys, records, known }))
    }

    /// Looks for the call, and puts it on record as begun if it is new.
    pub(super) fn begin(&self, claim: &Claim) -> Result<Begun, StateError> {
        self.begin_at(claim, Timestamp::now())
    }

    fn begin_at(&self, claim: &Claim, now: Timestamp) -> Result<Begun, StateError> {
        let mut known = self.known.lock();
        let entry = known.get(&claim.id).copied();
        match entry.filter(|entry| entry.running || now.duration_since(entry.at) < LIFE) {
            Some(entry) if entry.running => return Ok(Begun::Now),
            Some(_) => return self.found(claim),
            None => self.make_room(&mut known, now)?,
        }
        let (what, body) = (claim.what.clone(), claim.body.clone());
        let record = Record { at: now, what, body, sealed: None };
        self.records.put(claim.id.as_bytes(), &record)?;
        known.insert(claim.id.clone(), Entry { at: now, bytes: 0, running: true });
        Ok(Begun::New)
    }

    fn found(&self, claim: &Claim) -> Result<Begun, StateError> {
        let Some(record) = self.records.get(claim.id.as_bytes())? else {
            return Ok(Begun::Unknown);
        };
        if record.what != claim.what || record.body != claim.body {
            return Ok(Begun::Other);
        }
        let kept = record.sealed.and_then(|sealed| claim.open(&sealed));
        Ok(kept.map_or(Begun::Unknown, Begun::Before))
    }

    /// The call has ended: without an answer it was not done, and may be made again; one that is not kept stays unknown.
    pub(super) fn end(&self, claim: &Claim, kept: Option<Option<Kept>>) -> Result<(), StateError> {
        let mut known = self.known.lock();
        let Some(kept) = kept else {
            self.records.delete(claim.id.as_bytes())?;
            known.remove(&claim.id);
            return Ok(());
        };
        let Some(entry) = known.get_mut(&claim.id) else { return Ok(()) };
        if let Some(kept) = kept {
            let sealed = claim.seal(&kept)?;
            entry.bytes = sealed.len();
            let (what, body) = (claim.what.clone(), claim.body.clone());
            let record = Record { at: entry.at, what, body, sealed: Some(sealed) };
            self.records.put(claim.id.as_bytes(), &record)?;
        }
        entry.running = false;
        Ok(())
    }

    /// Held while a call is made: what ends without an answer is unknown, not under way for ever.
    pub(super) fn unfinished(self: &Arc<Self>, claim: &Claim) -> Unfinished {
        Unfinished { answers: Arc::clone(self), id: claim.id.clone() }
    }

    /// Lets go what is too old, and the oldest of what is too much; never what is under way.
    fn make_room(
        &self,
        known: &mut HashMap<String, Entry>,
        now: Timestamp,
    ) -> Result<(), StateError> {
        let mut ended: Vec<_> = known
            .iter()
            .filter(|(_, entry)| !entry.running)
            .map(|(id, entry)| (entry.at, entry.bytes, id.clone()))
            .collect();
        ended.sort_unstable();
        let (mut count, mut bytes) =
            (known.len(), ended.iter().map(|(_, bytes, _)| bytes).sum::<usize>());
        for (at, of_it, id) in ended {
            let fresh = now.duration_since(at) < LIFE;
            if fresh && count < self.keys && bytes <= BYTES {
                break;
            }
            self.records.delete(id.as_bytes())?;
            known.remove(&id);
            (count, bytes) = (count - 1, bytes - of_it);
        }
        Ok(())
    }
}

pub(super) struct Unfinished {
    answers: Arc<Answers>,
    id: String,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(entry) = self.answers.known.lock().get_mut(&self.id) {
            entry.running = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(key: &str, body: &str) -> Claim {
        Claim::new("ann", key, "POST /api/v1/users".into(), body.as_bytes())
    }

    fn kept(body: &str) -> Kept {
        let headers = vec![("etag".to_owned(), "\"1\"".to_owned())];
        Kept { status: 201, headers, body: body.to_owned() }
    }

    #[test]
    fn the_same_call_is_given_the_same_answer_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let call = claim("key", "body");
        {
            let answers = Answers::open(&Database::open(dir.path()).unwrap()).unwrap();
            assert_eq!(answers.begin(&call).unwrap(), Begun::New);
            assert_eq!(answers.begin(&call).unwrap(), Begun::Now);
            answers.end(&call, Some(Some(kept("secret")))).unwrap();
            assert_eq!(answers.begin(&call).unwrap(), Begun::Before(kept("secret")));
        }
        let db = Database::open(dir.path()).unwrap();
        let answers = Answers::open(&db).unwrap();
        assert_eq!(answers.begin(&call).unwrap(), Begun::Before(kept("secret")));
        assert_eq!(answers.begin(&claim("key", "other")).unwrap(), Begun::Other);
        let elsewhere = Claim::new("ann", "key", "POST /api/v1/tokens".into(), b"body");
        assert_eq!(answers.begin(&elsewhere).unwrap(), Begun::Other);
        let another = Claim::new("bob", "key", "POST /api/v1/users".into(), b"body");
        assert_eq!(answers.begin(&another).unwrap(), Begun::New);
        let stored = db.bytes("console_answers").unwrap().scan(b"").unwrap();
        let text = format!("{stored:?}");
        assert!(!text.contains(&hex::encode("secret")) && !text.contains("secret"));
    }

    #[test]
    fn what_was_begun_by_a_process_that_ended_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let call = claim("key", "body");
        let begin = || {
            let answers = Answers::open(&Database::open(dir.path()).unwrap()).unwrap();
            answers.begin(&call).unwrap()
        };
        assert_eq!((begin(), begin()), (Begun::New, Begun::Unknown));
    }

    #[test]
    fn a_refused_call_may_be_made_again_and_a_lost_one_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers::open(&Database::open(dir.path()).unwrap()).unwrap();
        let call = claim("key", "body");
        assert_eq!(answers.begin(&call).unwrap(), Begun::New);
        answers.end(&call, None).unwrap();
        assert_eq!(answers.begin(&claim("key", "right")).unwrap(), Begun::New);
        drop(answers.unfinished(&claim("key", "right")));
        assert_eq!(answers.begin(&claim("key", "right")).unwrap(), Begun::Unknown);
    }

    #[test]
    fn a_day_later_a_key_is_new_and_the_oldest_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers::keeping(&Database::open(dir.path()).unwrap(), 5).unwrap();
        let first = Timestamp::now();
        let begin = |n: usize, at| answers.begin_at(&claim(&n.to_string(), "body"), at).unwrap();
        for n in 0..8 {
            let at = first + SignedDuration::from_micros(n as i64);
            assert_eq!(begin(n, at), Begun::New);
            answers.end(&claim(&n.to_string(), "body"), Some(Some(kept("x")))).unwrap();
        }
        assert_eq!(answers.known.lock().len(), 5);
        assert_eq!(begin(3, first), Begun::Before(kept("x")));
        assert_eq!(begin(7, first + SignedDuration::from_secs(1)), Begun::Before(kept("x")));
        assert_eq!(begin(7, first + LIFE + SignedDuration::from_secs(1)), Begun::New);
        assert_eq!(answers.known.lock().len(), 1);
    }
}
