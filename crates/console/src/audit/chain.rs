use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AuditEnd, AuditPage};

/// The hash before the first record there ever was.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One record of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditRecord {
    /// Its place in the log, from 0.
    pub number: u64,
    /// When it was written.
    pub at: Timestamp,
    /// Who.
    pub user: String,
    /// What they showed: the admin token, an API token, a session.
    pub via: String,
    /// From which address.
    pub from: String,
    /// What they did.
    pub action: String,
    /// To what.
    pub object: String,
    /// Why, as they said.
    pub reason: Option<String>,
    /// `begun`, `done`, or the code of the problem it ended with.
    pub outcome: String,
    /// The number of the record of its beginning.
    pub begun: Option<u64>,
    /// The hash of the record before.
    pub prev: String,
    /// The hash of this one: BLAKE3 of it as compact JSON with this field empty.
    pub hash: String,
}

impl AuditRecord {
    pub(super) fn sealed(mut self) -> Self {
        self.hash = self.own_hash();
        self
    }

    fn own_hash(&self) -> String {
        let unsealed = Self { hash: String::new(), ..self.clone() };
        // A struct of strings and numbers has no JSON that could fail.
        let json = serde_json::to_vec(&unsealed).unwrap_or_default();
        blake3::hash(&json).to_hex().to_string()
    }
}

/// Where the chain does not hold.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// A record is not what it was when it was written.
    #[error("audit record {number} was changed")]
    Changed {
        /// Which.
        number: u64,
    },
    /// A record is not the one that belongs here.
    #[error("audit record {expected} is missing: {found} is in its place")]
    Missing {
        /// Which should be here.
        expected: u64,
        /// Which is.
        found: u64,
    },
    /// A record does not follow the one before it.
    #[error("audit record {number} does not follow the one before it")]
    Parted {
        /// Which.
        number: u64,
    },
    /// The log ends before its tip, or past it.
    #[error("the audit log ends at record {found}, it should end at {expected}")]
    Cut {
        /// The number after the last record that should be there.
        expected: u64,
        /// The number after the last that is.
        found: u64,
    },
}

/// A verification on its way along the log.
#[derive(Clone, Debug)]
pub struct Chain(AuditEnd);

impl Chain {
    /// Begins where the log does.
    pub fn from(anchor: &AuditEnd) -> Self {
        Self(anchor.clone())
    }

    /// Takes the next record.
    pub fn push(&mut self, record: &AuditRecord) -> Result<(), Broken> {
        let (number, expected) = (record.number, self.0.number);
        if number != expected {
            return Err(Broken::Missing { expected, found: number });
        }
        if record.prev != self.0.hash {
            return Err(Broken::Parted { number });
        }
        if record.own_hash() != record.hash {
            return Err(Broken::Changed { number });
        }
        self.0 = AuditEnd { number: number + 1, hash: record.hash.clone() };
        Ok(())
    }

    /// What the next record must follow.
    pub fn tip(&self) -> &AuditEnd {
        &self.0
    }

    /// Ends where the log must.
    pub fn end(&self, tip: &AuditEnd) -> Result<(), Broken> {
        if self.0 == *tip {
            return Ok(());
        }
        if self.0.number == tip.number {
            return Err(Broken::Changed { number: tip.number.saturating_sub(1) });
        }
        Err(Broken::Cut { expected: tip.number, found: self.0.number })
    }

    /// The whole log in one page.
    pub fn verify(page: &AuditPage) -> Result<(), Broken> {
        let mut chain = Self::from(&page.anchor);
        page.records.iter().try_for_each(|record| chain.push(record))?;
        chain.end(&page.tip)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn log(length: u64) -> AuditPage {
        let anchor = AuditEnd { number: 7, hash: NO_HASH.replace('0', "7") };
        let mut tip = anchor.clone();
        let mut records = Vec::new();
        for number in 7..7 + length {
            let record = AuditRecord {
                number,
                at: Timestamp::from_second(1_700_000_000 + number.cast_signed()).unwrap(),
                user: "ann".into(),
                via: "session".into(),
                from: "192.0.2.7".into(),
                action: "recovery.start".into(),
                object: format!("point {number}"),
                reason: (number % 2 == 0).then(|| "why".into()),
                outcome: "done".into(),
                begun: (number % 3 == 0).then_some(number - 1),
                prev: tip.hash,
                hash: String::new(),
            }
            .sealed();
            tip = AuditEnd { number: number + 1, hash: record.hash.clone() };
            records.push(record);
        }
        AuditPage { records, anchor, tip }
    }

    #[test]
    fn a_whole_log_holds_also_after_its_way_through_json() {
        for length in [0, 1, 20] {
            let page = log(length);
            Chain::verify(&page).unwrap();
            let text = serde_json::to_string(&page).unwrap();
            Chain::verify(&serde_json::from_str(&text).unwrap()).unwrap();
        }
    }

    #[test]
    fn each_change_of_each_field_of_each_record_is_found() {
        let whole = log(12);
        for at in 0..whole.records.len() {
            let original = serde_json::to_value(&whole.records[at]).unwrap();
            for (field, value) in original.as_object().unwrap() {
                let mut changed = original.clone();
                changed[field] = match value {
                    Value::Number(n) => json!(n.as_u64().unwrap() + 1),
                    Value::Null if field == "begun" => json!(3),
                    Value::Null => json!("x"),
                    _ if field == "at" => json!("2020-01-01T00:00:00Z"),
                    other => json!(format!("{}x", other.as_str().unwrap())),
                };
                let mut page = whole.clone();
                page.records[at] = serde_json::from_value(changed).unwrap();
                assert!(Chain::verify(&page).is_err(), "{field} of {at}");
                // Sealed anew, it does not fit what follows or the tip.
                page.records[at] = page.records[at].clone().sealed();
                let same = page.records[at] == whole.records[at];
                assert!(same || Chain::verify(&page).is_err(), "{field} of {at}, sealed anew");
            }
        }
    }

    #[test]
    fn each_record_that_is_removed_repeated_or_moved_is_found() {
        let whole = log(12);
        for at in 0..whole.records.len() {
            let mut removed = whole.clone();
            removed.records.remove(at);
            assert!(Chain::verify(&removed).is_err(), "{at} removed");
            let mut repeated = whole.clone();
            repeated.records.insert(at, whole.records[at].clone());
            assert!(Chain::verify(&repeated).is_err(), "{at} repeated");
            for to in (0..whole.records.len()).filter(|to| *to != at) {
                let mut moved = whole.clone();
                moved.records.swap(at, to);
                assert!(Chain::verify(&moved).is_err(), "{at} and {to} swapped");
            }
            let mut cut = whole.clone();
            cut.records.truncate(at);
            assert!(Chain::verify(&cut).is_err(), "cut at {at}");
        }
    }
}
