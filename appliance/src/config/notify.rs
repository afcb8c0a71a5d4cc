//! Where what happens is told.

use std::{collections::BTreeSet, path::PathBuf};

use rekindle_notify::{EventKind, Facility, MailTls, SyslogAddress};
use serde::{Deserialize, Serialize};

/// A webhook by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookEntry {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) secret_file: Option<PathBuf>,
    pub(crate) secret_credential: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    /// Every kind when absent.
    pub(crate) events: Option<BTreeSet<EventKind>>,
}

/// Who gets mail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MailSection {
    pub(crate) server: String,
    pub(crate) port: Option<u16>,
    #[serde(default = "starttls")]
    pub(crate) tls: MailTls,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) password_credential: Option<String>,
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    /// Those that want a person when absent.
    pub(crate) events: Option<BTreeSet<EventKind>>,
}

/// A syslog server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SyslogSection {
    pub(crate) address: SyslogAddress,
    #[serde(default)]
    pub(crate) facility: Facility,
    /// Every kind when absent.
    pub(crate) events: Option<BTreeSet<EventKind>>,
}

fn starttls() -> MailTls {
    MailTls::Starttls
}
