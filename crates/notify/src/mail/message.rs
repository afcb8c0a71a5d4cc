//! A mail's text (RFC 5322), in ASCII: words with other letters are encoded (RFC 2047), and so is its body.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::TimeZone;

use crate::event::one_line;
use crate::{Event, NotifyError};

/// Bytes of text in one encoded word, which has 75 characters at most.
const WORD: usize = 42;
/// Characters of base64 in a line.
const LINE: usize = 76;

/// Somebody's address: `name@example.org` or `Name <name@example.org>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    name: Option<String>,
    pub(super) mailbox: String,
}

impl FromStr for Address {
    type Err = NotifyError;

    fn from_str(text: &str) -> Result<Self, NotifyError> {
        let (name, mailbox) = match text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
            Some((name, mailbox)) => (Some(name.trim().trim_matches('"')), mailbox),
            None => (None, text.trim()),
        };
        let plain = |part: &str| {
            let bad = |c: char| !c.is_ascii_graphic() || "<>()[],;:\\\"@".contains(c);
            !part.is_empty() && !part.contains(bad)
        };
        let parts = mailbox.split_once('@');
        let good = parts.is_some_and(|(local, domain)| plain(local) && plain(domain));
        if !good || mailbox.len() > 254 || text.contains(char::is_control) {
            let why = format!("{:?} is no mail address", one_line(text, 100));
            return Err(NotifyError::refused(why));
        }
        let name = name.filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(Self { name, mailbox: mailbox.to_owned() })
    }
}

impl Address {
    fn header(&self) -> String {
        match &self.name {
            Some(name) => format!("{} <{}>", phrase(name), self.mailbox),
            None => self.mailbox.clone(),
        }
    }
}

/// A name as it stands before an address.
fn phrase(name: &str) -> String {
    match name.chars().all(|c| c.is_ascii_alphanumeric() || " -_'".contains(c)) {
        true => name.to_owned(),
        false => encoded(name),
    }
}

/// The event as a mail. Its id is the same at each attempt, so that a mail that comes twice can be told.
pub(super) fn message(event: &Event, from: &Address, to: &[Address]) -> String {
    let domain = from.mailbox.rsplit('@').next().unwrap_or_default();
    let to: Vec<_> = to.iter().map(Address::header).collect();
    let subject = format!("[rekindle] {}: {}", event.severity.as_str(), event.summary);
    // A year beyond 9999 has no form there.
    let date = jiff::fmt::rfc2822::to_string(&event.at.to_zoned(TimeZone::UTC)).unwrap_or_default();
    let mut lines = vec![
        format!("From: {}", from.header()),
        format!("To: {}", to.join(",\r\n ")),
        format!("Subject: {}", if subject.is_ascii() { subject } else { encoded(&subject) }),
        format!("Date: {date}"),
        format!("Message-ID: <{}@{domain}>", event.id),
        // RFC 3834: no machine is to answer it.
        "Auto-Submitted: auto-generated".to_owned(),
        "MIME-Version: 1.0".to_owned(),
        "Content-Type: text/plain; charset=utf-8".to_owned(),
        "Content-Transfer-Encoding: base64".to_owned(),
        String::new(),
    ];
    let body = STANDARD.encode(body(event));
    // Base64 is ASCII.
    lines.extend(
        body.as_bytes().chunks(LINE).map(|line| String::from_utf8_lossy(line).into_owned()),
    );
    lines.join("\r\n")
}

/// Text as encoded words, a line each.
fn encoded(text: &str) -> String {
    let mut words = vec![String::new()];
    for c in text.chars() {
        if words.last().is_some_and(|word| word.len() + c.len_utf8() > WORD) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let words: Vec<_> =
        words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect();
    words.join("\r\n ")
}

fn body(event: &Event) -> String {
    let mut lines = vec![
        event.summary.clone(),
        String::new(),
        format!("Event: {} ({})", event.kind.as_str(), event.severity.as_str()),
        format!("Seen at: {}", event.at.strftime("%Y-%m-%d %H:%M:%S UTC")),
        format!("Appliance: {}", event.appliance),
    ];
    if let Some(job) = &event.about.job {
        lines.push(format!("Job: {} ({})", job.id, job.state.as_str()));
        lines.push(format!("VM: {}, of {}, point {}", job.name, job.vm, job.point));
    }
    lines.extend(event.about.batch.iter().map(|batch| format!("Batch: {batch}")));
    lines.extend(event.about.repository.iter().map(|name| format!("Repository: {name}")));
    lines.push(format!("Event id: {}", event.id));
    lines.iter().map(|line| one_line(line, 900) + "\r\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{About, EventKind, News};

    #[test]
    fn a_mail_is_ascii_in_short_lines_and_can_be_told_from_others() {
        let summary = format!("web failed: \r\nBcc: x@y {}", "ü".repeat(200));
        let event = News::new(EventKind::JobFailed, summary, About::default()).into_event("here");
        let from: Address = "Käthe \"K\" <rekindle@example.org>".parse().unwrap();
        let text = message(&event, &from, &["a@example.org".parse().unwrap()]);
        assert!(text.is_ascii() && text.split("\r\n").all(|line| line.len() <= 90), "{text}");
        assert!(
            text.contains(&format!("\r\nMessage-ID: <{}@example.org>\r\n", event.id)),
            "{text}"
        );
        assert!(!text.contains("\nBcc:") && !text.contains("\r\n."), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("To: a@example.org"), "{head}");
        let body = STANDARD.decode(body.replace("\r\n", "")).unwrap();
        assert!(String::from_utf8(body).unwrap().contains("Event: job_failed (error)\r\n"));
    }

    #[test]
    fn only_addresses_are_taken_for_some() {
        let with_name: Address = "A B <a.b+c@example.org>".parse().unwrap();
        assert_eq!(with_name.header(), "A B <a.b+c@example.org>");
        assert_eq!("a@b".parse::<Address>().unwrap().header(), "a@b");
        for bad in
            ["", "a", "@b", "a@", "a@b>", "a b@c", "x <a@b", "a@b\r\nRCPT TO:<c@d>", "a@b@c", "ä@b"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
