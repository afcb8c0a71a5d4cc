use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::EventKind;

/// A channel as it is shown. Counters are since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelView {
    /// Its name.
    pub name: String,
    /// `webhook`, `mail` or `syslog`.
    pub kind: String,
    /// Where it goes, without what may be secret in it.
    pub to: String,
    /// Which events it is told.
    pub events: BTreeSet<EventKind>,
    /// Events that wait for it.
    pub waiting: u64,
    /// Events that it took.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// Events that it did not take for a day.
    pub given_up: u64,
    /// Events that made room for newer ones.
    pub dropped: u64,
    /// When it took the last one.
    pub delivered_at: Option<Timestamp>,
    /// When an event that waits is tried next.
    pub next_try_at: Option<Timestamp>,
    /// The last attempt that failed.
    pub last_failure: Option<FailureView>,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailureView {
    /// When.
    pub at: Timestamp,
    /// What came back, or why nothing did.
    pub reason: String,
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestView {
    /// Which channel.
    pub name: String,
    /// Whether it took the event.
    pub delivered: bool,
    /// What came back, or why nothing did.
    pub answer: String,
}
