//! The channels that are told what happens, from the configuration.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::Context;
use rekindle_notify::{
    Channel, EventKind, Mail, MailLogin, MailSettings, Medium, Severity, Syslog, Webhook,
};

use crate::{
    config::{Config, MailSection, WebhookEntry, read_secret},
    exit::{Failure, Kind},
};

/// The configured channels, with their secrets read. None is connected to yet.
pub(super) fn channels(config: &Config) -> Result<Vec<Channel>, Failure> {
    let refused = |e| Failure::new(Kind::Refused, e);
    let mut channels = Vec::new();
    for entry in &config.webhook {
        let opened = webhook(entry).with_context(|| format!("set up webhook \"{}\"", entry.name));
        channels.push(opened.map_err(refused)?);
    }
    if let Some(section) = &config.mail {
        channels.push(mail(section).context("set up mail").map_err(refused)?);
    }
    if let Some(section) = &config.syslog {
        channels.push(Channel {
            name: "syslog".into(),
            events: section.events.clone().unwrap_or_else(all),
            medium: Medium::Syslog(Syslog::new(section.address.clone(), section.facility)),
        });
    }
    Ok(channels)
}

fn webhook(entry: &WebhookEntry) -> anyhow::Result<Channel> {
    let secret = read_secret(entry.secret_file.as_deref(), entry.secret_credential.as_deref())?;
    let ca = entry.ca_file.as_deref().map(certificates).transpose()?;
    Ok(Channel {
        name: entry.name.clone(),
        events: entry.events.clone().unwrap_or_else(all),
        medium: Medium::Webhook(Webhook::new(&entry.url, &secret, ca.as_deref())?),
    })
}

fn mail(section: &MailSection) -> anyhow::Result<Channel> {
    let (file, credential) = (&section.password_file, &section.password_credential);
    let login = |user: &String| {
        let password = read_secret(file.as_deref(), credential.as_deref())?;
        anyhow::Ok(MailLogin { user: user.clone(), password })
    };
    let settings = MailSettings {
        server: section.server.clone(),
        port: section.port,
        tls: section.tls,
        ca: section.ca_file.as_deref().map(certificates).transpose()?,
        login: section.user.as_ref().map(login).transpose()?,
        from: section.from.clone(),
        to: section.to.clone(),
    };
    Ok(Channel {
        name: "mail".into(),
        events: section.events.clone().unwrap_or_else(wants_a_person),
        medium: Medium::Mail(Mail::new(settings)?),
    })
}

fn certificates(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}

fn all() -> BTreeSet<EventKind> {
    EventKind::ALL.into()
}

fn wants_a_person() -> BTreeSet<EventKind> {
    EventKind::ALL.into_iter().filter(|kind| kind.severity() > Severity::Info).collect()
}
