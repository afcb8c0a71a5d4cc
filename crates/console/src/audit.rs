//! Who did what, to what, why, from where, and how it ended: a chain of records.
//!
//! ```text
//! audit       key: number, 8 bytes big endian -> Record { …, prev: hash of the one before, hash }
//! audit_ends  "anchor" -> the first number kept and the hash before it
//!             "tip"    -> the next number and the hash of the last record
//! ```
//! An action is two records: `begun`, which is durable before anything is done, and how it ended, which
//! is durable before the caller learns it. A crash in between leaves `begun` alone, which tells just that.
//! Record and tip are one batch, and so are the records that make room and the new anchor.
//!
//! The chain finds what was changed, removed or reordered by someone who does not rewrite all that
//! follows. Against one who does, compare the tip with one that was kept elsewhere: `rekindle audit
//! verify` prints it.

mod chain;

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;
use rekindle_state::{Database, Keyspace, StateError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use chain::{AuditRecord, Broken, Chain};

use chain::NO_HASH;

/// Records kept, at about 500 bytes each: 50 MB.
const KEPT: u64 = 100_000;
/// Records that make room at once when there are more.
const DROPPED: u64 = 1000;
/// The longest text of any field, in characters. What is longer is cut: it came from outside.
const TEXT_MAX: usize = 512;
const ANCHOR: &[u8] = b"anchor";
const TIP: &[u8] = b"tip";

/// One end of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEnd {
    /// The number of the first record, or of the next one to be written.
    pub number: u64,
    /// The hash of the record before it.
    pub hash: String,
}

/// What is to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) user: String,
    pub(crate) via: String,
    pub(crate) from: String,
    pub(crate) action: &'static str,
    pub(crate) object: String,
    pub(crate) reason: Option<String>,
    pub(crate) outcome: String,
    /// The record of its beginning.
    pub(crate) begun: Option<u64>,
}

impl Note {
    /// A log-in, or another time that someone showed who they are.
    pub(crate) fn log_in(user: &str, from: IpAddr, outcome: &str) -> Self {
        Self {
            user: user.to_owned(),
            via: "log-in".to_owned(),
            from: from.to_string(),
            action: "session.open",
            object: String::new(),
            reason: None,
            outcome: outcome.to_owned(),
            begun: None,
        }
    }
}

/// The audit log. Calls block for a sync.
pub struct Audit {
    db: Database,
    records: Keyspace<AuditRecord>,
    ends: Keyspace<AuditEnd>,
    state: Mutex<Ends>,
    kept: u64,
}

#[derive(Clone)]
struct Ends {
    anchor: AuditEnd,
    tip: AuditEnd,
}

/// A part of the log, in order, with the ends of the whole.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AuditPage {
    /// The records.
    pub records: Vec<AuditRecord>,
    /// Where the log begins.
    pub anchor: AuditEnd,
    /// Where it ends.
    pub tip: AuditEnd,
}

impl Audit {
    /// Finds the ends of the log.
    pub fn open(db: &Database) -> Result<Arc<Self>, StateError> {
        Self::keeping(db, KEPT).map(Arc::new)
    }

    fn keeping(db: &Database, kept: u64) -> Result<Self, StateError> {
        let ends: Keyspace<AuditEnd> = db.keyspace("audit_ends")?;
        let new = || AuditEnd { number: 0, hash: NO_HASH.to_owned() };
        let anchor = ends.get(ANCHOR)?.unwrap_or_else(new);
        let tip = ends.get(TIP)?.unwrap_or_else(new);
        let state = Mutex::new(Ends { anchor, tip });
        Ok(Self { db: db.clone(), records: db.keyspace("audit")?, ends, state, kept })
    }

    /// Puts on record that the state, and this log with it, is that of a backup made then.
    pub fn restored(&self, made_at: Timestamp) -> Result<(), StateError> {
        let note = Note {
            user: "-".into(),
            via: "command line".into(),
            from: "-".into(),
            action: "state.restore",
            object: format!("backup of {made_at}"),
            reason: None,
            outcome: "done".into(),
            begun: None,
        };
        self.append(note).map(drop)
    }

    /// Appends a record; durable when it returns its number.
    pub(crate) fn append(&self, note: Note) -> Result<u64, StateError> {
        let mut state = self.state.lock();
        let number = state.tip.number;
        let record = seal(note, &state.tip);
        let mut after = state.clone();
        after.tip = AuditEnd { number: number + 1, hash: record.hash.clone() };
        let mut batch = self.db.batch();
        batch.put(&self.records, &key(number), &record)?;
        batch.put(&self.ends, TIP, &after.tip)?;
        if after.tip.number - after.anchor.number > self.kept {
            after.anchor = self.dropped(&after.anchor)?;
            for number in state.anchor.number..after.anchor.number {
                batch.delete(&self.records, &key(number))?;
            }
            batch.put(&self.ends, ANCHOR, &after.anchor)?;
        }
        batch.commit()?;
        *state = after;
        Ok(number)
    }

    /// The anchor after the oldest records have made room.
    fn dropped(&self, anchor: &AuditEnd) -> Result<AuditEnd, StateError> {
        let last = anchor.number + DROPPED.min(self.kept.div_ceil(2)) - 1;
        let missing = || StateError::Corrupt(format!("audit record {last} is missing"));
        let record = self.records.get(&key(last))?.ok_or_else(missing)?;
        Ok(AuditEnd { number: last + 1, hash: record.hash })
    }

    /// At most `limit` records with numbers from `from` on. Those that should be there and are not are
    /// left out, which the chain shows.
    pub(crate) fn page(&self, from: u64, limit: u64) -> Result<AuditPage, StateError> {
        let Ends { anchor, tip } = self.state.lock().clone();
        let from = from.max(anchor.number);
        let numbers = from..tip.number.min(from.saturating_add(limit));
        let records = numbers.filter_map(|number| self.records.get(&key(number)).transpose());
        Ok(AuditPage { records: records.collect::<Result<_, _>>()?, anchor, tip })
    }

    /// The number that the next record gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.state.lock().tip.number
    }
}

fn seal(note: Note, tip: &AuditEnd) -> AuditRecord {
    AuditRecord {
        number: tip.number,
        at: Timestamp::now(),
        user: cut(note.user),
        via: cut(note.via),
        from: cut(note.from),
        action: note.action.to_owned(),
        object: cut(note.object),
        reason: note.reason.map(cut),
        outcome: cut(note.outcome),
        begun: note.begun,
        prev: tip.hash.clone(),
        hash: String::new(),
    }
    .sealed()
}

fn cut(text: String) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(object: &str) -> Note {
        Note {
            user: "ann".into(),
            via: "session".into(),
            from: "192.0.2.7".into(),
            action: "recovery.start",
            object: object.into(),
            reason: Some("a test".into()),
            outcome: "done".into(),
            begun: None,
        }
    }

    fn whole(audit: &Audit) -> AuditPage {
        audit.page(0, u64::MAX).unwrap()
    }

    #[test]
    fn the_chain_goes_on_over_a_restart_and_what_is_taken_off_its_end_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path()).unwrap();
        let audit = Audit::open(&db).unwrap();
        for n in 0..5 {
            audit.append(note(&n.to_string())).unwrap();
        }
        let audit = Audit::open(&db).unwrap();
        assert_eq!(audit.append(note("after")).unwrap(), 5);
        let page = whole(&audit);
        assert_eq!(page.records.len(), 6);
        Chain::verify(&page).unwrap();
        audit.records.delete(&key(5)).unwrap();
        assert!(Chain::verify(&whole(&audit)).is_err());
    }

    #[test]
    fn the_log_is_bounded_and_its_chain_stays_whole() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path()).unwrap();
        let audit = Audit::keeping(&db, 10).unwrap();
        for n in 0..57 {
            audit.append(note(&n.to_string())).unwrap();
            let page = whole(&audit);
            assert!(page.records.len() <= 10 && page.records.last().unwrap().number == n);
            Chain::verify(&page).unwrap();
        }
        let page = whole(&Audit::keeping(&db, 10).unwrap());
        assert!(page.anchor.number > 40 && page.records[0].number == page.anchor.number);
        Chain::verify(&page).unwrap();
    }

    #[test]
    fn pages_make_the_whole_and_long_texts_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(&Database::open(dir.path()).unwrap()).unwrap();
        for _ in 0..7 {
            audit.append(note(&"ä".repeat(2000))).unwrap();
        }
        let pages = [audit.page(0, 3), audit.page(3, 3), audit.page(6, 3), audit.page(9, 3)];
        let lengths = pages.map(|page| page.unwrap().records.len());
        assert_eq!(lengths, [3, 3, 1, 0]);
        assert_eq!(whole(&audit).records[0].object.chars().count(), TEXT_MAX);
    }
}
