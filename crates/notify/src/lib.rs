//! Tells people and machines elsewhere what happens: webhooks, mail, syslog.
//!
//! # Layout
//!
//! ```text
//!   jobs, batches, space, upkeep, repositories
//!        │ each second, by one task
//!   lookout ── told: what of each is told already ──► event
//!        │ one batch of the state database
//!   outbox   <channel> 0 <number> -> event            durable, bounded
//!        │ one task for each channel
//!   courier ── webhook | mail | syslog
//! ```
//!
//! # Invariants
//!
//! 1. An event and the note that it is told are durable together, before anything is sent: none is decided twice, and one
//!    that was decided before a crash is sent after it. What changed while the process was away is found at its start, and what
//!    began and ended between two looks is told from what is left of it: 500 ended jobs are remembered, durably, and no second
//!    sees as many. Alone the end of a check is not durable: a crash in the second after it leaves the marks of its points.
//! 2. An event leaves the outbox when its channel took it, or loudly: after a day, or when the outbox is full.
//! 3. An event has the same id at each attempt. A crash between its delivery and the note of it sends it twice. Events come in
//!    order unless one is not taken, which stands in no other's way.
//! 4. A channel that does not answer delays no other, and no recovery.
//! 5. No secret and no path of a webhook's address is in a log line, an answer or the outbox.
//! 6. Redirects are not followed: what is signed goes where it is configured to go, and nowhere else.
//!
//! # Locking
//!
//! The outbox has one lock, held for a map operation; its changes have another, held over a sync on a blocking thread.
//! Neither is held across an await.
//!
//! # Crash
//!
//! 1. event and "told" are durable      crash before: the next start finds the change and decides it then
//! 2. the channel takes it              crash before: the next start sends it
//! 3. it is out of the outbox           crash before: the next start sends it again
//!
//! # Cancellation
//!
//! A stop drops the attempts under way; what they sent may be sent again.
//!
//! # Bounds
//!
//! 16 webhooks, one mail server, one syslog. 1000 events wait for each channel, below 3 KiB each; the oldest makes room. An
//! attempt takes 20 s at most and reads 200 bytes of an answer. One is made at a time for each channel.

mod channel;
mod courier;
mod error;
mod event;
mod lookout;
mod mail;
mod notifier;
mod outbox;
mod syslog;
mod told;
mod view;
mod webhook;

pub use channel::{Channel, Medium};
pub use error::NotifyError;
pub use event::{About, Event, EventKind, JobAbout, Severity};
pub use mail::{Mail, MailLogin, MailSettings, MailTls};
pub use notifier::{Notifier, Sources};
pub use outbox::OUTBOX_KEYSPACE;
pub use syslog::{Facility, Syslog, SyslogAddress};
pub use view::{ChannelView, FailureView, TestView};
pub use webhook::{SECRET_MIN_BYTES, Webhook};
