//! The configuration: one TOML file, or none.

mod bounds;
mod file;
mod hot;
mod location;
mod notify;
mod secrets;
mod settings;
mod upkeep;

use std::path::{Path, PathBuf};

pub(crate) use file::{Config, RepositoryEntry, RepositoryKind, TargetEntry, TargetKind, TlsUse};
pub(crate) use hot::HotCopySection;
pub(crate) use notify::{MailSection, SyslogSection, WebhookEntry};
pub(crate) use secrets::{AdminTokenFile, admin_token, read_secret, ring_key};
pub(crate) use settings::settings;

use crate::{
    cli::ConfigArgs,
    exit::{Failure, Kind},
};

/// Read when no other file is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/rekindle/rekindle.toml";
/// Whose files the packaged unit gives to the daemon as credentials.
pub(crate) const CREDENTIALS: &str = "/etc/rekindle/credentials";
/// The name of the repository that exists without configuration.
pub(crate) const DEFAULT_REPOSITORY: &str = "local";

/// The configuration that the arguments ask for, checked.
pub(crate) fn load(args: &ConfigArgs) -> Result<Config, Failure> {
    let mut config = match (&args.config, &args.state_dir) {
        (Some(file), _) => read(file)?,
        (None, Some(_)) => Config::default(),
        (None, None) if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
        (None, None) => Config::default(),
    };
    if let Some(dir) = &args.state_dir {
        config.state_dir = absolute(dir)?;
    }
    bounds::check(&config).map_err(Failure::refused)?;
    Ok(config)
}

/// Reads and checks a file.
pub(crate) fn read_checked(file: &Path) -> Result<Config, Failure> {
    let config = read(file)?;
    bounds::check(&config).map_err(|e| Failure::refused(format!("{}: {e}", file.display())))?;
    Ok(config)
}

fn read(file: &Path) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Refused,
        };
        Failure::said(kind, format!("cannot read the configuration {}: {e}", file.display()))
    })?;
    parse(&text).map_err(|e| Failure::refused(format!("{}: {e}", file.display())))
}

/// The configuration as `text` has it; unknown keys are errors. Not yet checked.
pub(crate) fn parse(text: &str) -> Result<Config, toml::de::Error> {
    toml::from_str(text)
}

fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(dir)
        .map_err(|e| Failure::refused(format!("cannot use --state-dir {}: {e}", dir.display())))
}
