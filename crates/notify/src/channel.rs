use std::collections::BTreeSet;
use std::time::Duration;

use crate::{Event, EventKind, Mail, NotifyError, Syslog, Webhook};

/// How long an attempt may take, with all that it waits for.
const ATTEMPT: Duration = Duration::from_secs(20);
/// What is kept of an answer, in bytes.
pub(crate) const ANSWER_MAX: usize = 200;

/// Where events go, and which.
pub struct Channel {
    /// Its name: `mail`, `syslog`, or the webhook's own.
    pub name: String,
    /// Which events it is told; a test is told to all.
    pub events: BTreeSet<EventKind>,
    /// How it is told.
    pub medium: Medium,
}

/// How a channel is told. The set is closed.
pub enum Medium {
    /// A POST of JSON, signed.
    Webhook(Webhook),
    /// A mail over SMTP.
    Mail(Mail),
    /// A line (RFC 5424).
    Syslog(Syslog),
}

impl Channel {
    /// Sends the event. Says what came back, if anything does.
    pub(crate) async fn send(&self, event: &Event) -> Result<String, NotifyError> {
        let sent = async {
            match &self.medium {
                Medium::Webhook(webhook) => webhook.send(event).await,
                Medium::Mail(mail) => mail.send(event).await,
                Medium::Syslog(syslog) => syslog.send(event).await,
            }
        };
        match tokio::time::timeout(ATTEMPT, sent).await {
            Ok(sent) => sent,
            Err(_) => {
                let said = format!("no answer within {} s", ATTEMPT.as_secs());
                Err(NotifyError::Undelivered(said))
            }
        }
    }

    /// What it is, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.medium {
            Medium::Webhook(_) => "webhook",
            Medium::Mail(_) => "mail",
            Medium::Syslog(_) => "syslog",
        }
    }

    /// Where it goes, without what may be secret in it.
    pub(crate) fn to(&self) -> String {
        match &self.medium {
            Medium::Webhook(webhook) => webhook.to(),
            Medium::Mail(mail) => mail.to(),
            Medium::Syslog(syslog) => syslog.to(),
        }
    }
}
