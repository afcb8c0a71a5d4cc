use rekindle_notify::{Mail, MailTls, Webhook};

use super::Found;
use crate::config::{Config, MailSection, WebhookEntry};

/// Webhooks: each has a task and an outbox of 3 MiB.
const WEBHOOKS_MAX: u64 = 16;
/// Recipients of a mail.
const RECIPIENTS_MAX: u64 = 32;

pub(super) fn check(config: &Config, found: &mut Found) {
    // The others are called so.
    let others = config.mail.iter().map(|_| "mail").chain(config.syslog.iter().map(|_| "syslog"));
    found.names("webhook", config.webhook.iter().map(|entry| entry.name.as_str()).chain(others));
    found.within("number of webhooks", config.webhook.len() as u64, 0..=WEBHOOKS_MAX);
    config.webhook.iter().for_each(|entry| webhook(entry, found));
    config.mail.iter().for_each(|section| mail(section, found));
}

fn webhook(entry: &WebhookEntry, found: &mut Found) {
    let name = format!("webhook \"{}\"", entry.name);
    if let Err(error) = Webhook::check_url(&entry.url) {
        found.add(format!("{name}: {error}"));
    }
    if entry.secret_file.is_some() == entry.secret_credential.is_some() {
        found.add(format!("{name} needs one of secret_file and secret_credential"));
    }
    for (key, file) in [("secret_file", &entry.secret_file), ("ca_file", &entry.ca_file)] {
        if let Some(file) = file {
            found.absolute(&format!("{name}: {key}"), file);
        }
    }
}

fn mail(section: &MailSection, found: &mut Found) {
    for address in section.to.iter().chain([&section.from]) {
        if let Err(error) = Mail::check_address(address) {
            found.add(format!("mail: {error}"));
        }
    }
    found.within("number of mail.to", section.to.len() as u64, 1..=RECIPIENTS_MAX);
    if section.server.is_empty() || section.server.contains([':', '/']) {
        found.add("mail.server is a name or an IPv4 address; the port is in mail.port");
    }
    if section.password_file.is_some() && section.password_credential.is_some() {
        found.add("mail.password_file and mail.password_credential exclude each other");
    }
    let password = section.password_file.is_some() || section.password_credential.is_some();
    if section.user.is_some() != password {
        found.add("mail.user and mail.password_file (or password_credential) go together");
    }
    if section.user.is_some() && section.tls == MailTls::Off {
        found.add("mail.tls = \"off\" with mail.user would send the password in the clear");
    }
    for (key, file) in [("password_file", &section.password_file), ("ca_file", &section.ca_file)] {
        if let Some(file) = file {
            found.absolute(&format!("mail.{key}"), file);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{bounds::check, parse};

    fn problem(text: &str) -> String {
        match parse(text) {
            Ok(config) => check(&config).expect_err(text),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn bad_channels_are_refused() {
        let hook = "[[webhook]]\nname='a'\nurl='https://example.org'\nsecret_file='/x'\n";
        let mail = "[mail]\nserver='mail'\nfrom='a@example.org'\nto=['b@example.org']\n";
        assert_eq!(check(&parse(&format!("{hook}{mail}")).unwrap()), Ok(()));
        for (text, expected) in [
            (format!("{hook}secret_credential='y'"), "needs one of secret_file"),
            (format!("{hook}secret='y'"), "unknown field `secret`"),
            (format!("{hook}events=['job_dnoe']"), "unknown variant `job_dnoe`"),
            (format!("{hook}{hook}"), "used twice"),
            (hook.replace("'a'", "'mail'") + mail, "used twice"),
            (hook.replace("https", "ftp"), "must begin with https://"),
            (hook.replace("//", "//user:word@"), "must not have a user"),
            (format!("{mail}user='u'"), "go together"),
            (format!("{mail}user='u'\npassword_file='/x'\ntls='off'"), "in the clear"),
            (format!("{mail}password='y'"), "unknown field `password`"),
            (mail.replace("'b@example.org'", "'nobody'"), "is no mail address"),
            (mail.replace("'b@example.org'", ""), "number of mail.to = 0"),
            (mail.replace("'mail'", "'mail:25'"), "mail.port"),
            ("[syslog]\naddress='host:514'".into(), "is not udp://"),
            ("[syslog]\naddress='udp://h:514'\nfacility='kern'".into(), "unknown variant `kern`"),
        ] {
            let found = problem(&text);
            assert!(found.contains(expected), "{text}\n{found}");
            assert!(!found.contains("user:word"), "{found}");
        }
    }
}
