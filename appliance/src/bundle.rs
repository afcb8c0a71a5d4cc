//! The support bundle: one text file with what a person far away needs to help, and no secret.
//!
//! What cannot be had is named with its reason, so that a bundle can be made of an appliance that does not run. All text
//! goes through [`Redactor`], wherever it came from; VM names, addresses and paths stay in it.
//!
//! # Bounds
//!
//! Each part is cut at 4 MiB, keeping its end: 64 MiB in all.

mod redact;

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context;

use crate::{
    cli::{BundleArgs, DaemonArgs},
    client,
    config::{self, Config},
    exit::{Failure, Kind},
};
use redact::Redactor;

const PART_MAX: usize = 4 << 20;
/// Lines of the journal.
const LINES: &str = "10000";
/// What the API is asked for.
const ASKED: [&str; 9] = [
    "/readyz",
    "/metrics",
    "jobs",
    "exports",
    "cache",
    "repositories",
    "targets",
    "notifications",
    "openapi.json",
];

/// Files of the system that tell what it is and how it fares.
const SYSTEM: [&str; 6] = [
    "/etc/os-release",
    "/proc/version",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/self/mounts",
];

/// Programs whose output helps; each ends by itself.
const PROGRAMS: [&[&str]; 5] = [
    &["systemctl", "status", "--no-pager", "--full", "rekindle.service"],
    &["systemctl", "cat", "--no-pager", "rekindle.service"],
    &[
        "journalctl",
        "--no-pager",
        "--lines",
        LINES,
        "--output=short-iso",
        "--unit=rekindle.service",
    ],
    &["ip", "-brief", "address"],
    &["df", "--print-type"],
];

/// Makes the bundle and says where it is.
pub(crate) fn make(args: &BundleArgs) -> Result<(), Failure> {
    let config = config::load(&args.config);
    let mut bundle = Bundle::new(secrets(args, config.as_ref().ok()));
    bundle.part("rekindle", env!("CARGO_PKG_VERSION"));
    configuration(args, &config, &mut bundle);
    for (path, answer) in client::ask(&daemon(args, config.as_ref().ok()), &ASKED) {
        bundle.outcome(&format!("API: {path}"), answer.map_err(|failure| failure.cause));
    }
    if let Ok(config) = &config {
        bundle.part("state directory", &listing(&config.state_dir));
    }
    for path in SYSTEM {
        bundle.outcome(path, fs::read_to_string(path).map_err(Into::into));
    }
    for command in PROGRAMS {
        bundle.outcome(&command.join(" "), output(command));
    }
    let to = args.out.clone().unwrap_or_else(|| default_name().into());
    bundle.write(&to)?;
    println!("{}", to.display());
    Ok(())
}

/// How the appliance is reached: with its own token, unless another is named.
fn daemon(args: &BundleArgs, config: Option<&Config>) -> DaemonArgs {
    let mut daemon = args.daemon.clone();
    if daemon.token_file.is_none() && std::env::var_os("REKINDLE_TOKEN").is_none() {
        daemon.token_file = config.map(|config| config.state_dir.join("admin-token"));
    }
    daemon
}

fn default_name() -> String {
    format!("rekindle-support-{}.txt", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"))
}

/// Every secret that can be read from here: none may be in the bundle.
fn secrets(args: &BundleArgs, config: Option<&Config>) -> Vec<String> {
    let mut found = Vec::new();
    let variables = ["REKINDLE_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    found.extend(variables.into_iter().filter_map(|name| std::env::var(name).ok()));
    let mut files: Vec<PathBuf> = args.daemon.token_file.clone().into_iter().collect();
    if let Some(config) = config {
        files.push(config.state_dir.join("admin-token"));
        files.extend(config.console.token_file.clone());
        files.extend(config.cache.key_file.clone());
        files.extend(config.target.iter().filter_map(|target| target.password_file.clone()));
        files.extend(config.repository.iter().filter_map(|entry| entry.credentials_file.clone()));
        files.extend(config.webhook.iter().filter_map(|webhook| webhook.secret_file.clone()));
        files.extend(config.mail.iter().filter_map(|mail| mail.password_file.clone()));
    }
    // The packaged unit's credentials.
    let credentials = fs::read_dir(config::CREDENTIALS).into_iter().flatten().flatten();
    files.extend(credentials.map(|entry| entry.path()));
    for text in files.iter().filter_map(|file| fs::read_to_string(file).ok()) {
        // A file of the AWS tools' format has a secret in each of some lines.
        let values = text.lines().filter_map(|line| line.split_once('=')).map(|(_, value)| value);
        found.extend(values.map(|value| value.trim().to_owned()));
        found.push(text);
    }
    found
}

fn configuration(args: &BundleArgs, config: &Result<Config, Failure>, bundle: &mut Bundle) {
    let file = args.config.config.as_deref().unwrap_or(Path::new(config::DEFAULT_FILE));
    bundle.outcome(&file.display().to_string(), fs::read_to_string(file).map_err(Into::into));
    match config {
        Ok(config) => bundle.part("configuration as it is understood", &format!("{config:#?}")),
        Err(failure) => bundle.part("configuration", &format!("(refused: {:#})", failure.cause)),
    }
}

/// Names and sizes below the state directory, two folders deep; nothing is opened.
fn listing(dir: &Path) -> String {
    let mut text = String::new();
    list(dir, 2, &mut text);
    text
}

fn list(dir: &Path, depth: usize, text: &mut String) {
    let mut entries: Vec<_> = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().collect(),
        Err(error) => {
            let _ = writeln!(text, "{}: (cannot be read: {error})", dir.display());
            return;
        }
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if text.len() > PART_MAX {
            return;
        }
        let Ok(meta) = entry.metadata() else { continue };
        let _ = writeln!(text, "{:>16} {}", meta.len(), entry.path().display());
        if meta.is_dir() && depth > 0 {
            list(&entry.path(), depth - 1, text);
        }
    }
}

fn output(command: &[&str]) -> anyhow::Result<String> {
    let (program, arguments) = command.split_first().context("no program")?;
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok(text.into_owned())
}

/// The text of a bundle, without secrets.
struct Bundle {
    redactor: Redactor,
    text: String,
}

impl Bundle {
    fn new(secrets: Vec<String>) -> Self {
        let mut bundle = Self { redactor: Redactor::new(secrets), text: String::new() };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let head = format!(
            "Made {now}. Tokens and passwords are left out. Names of VMs, addresses and paths are not: look through it \
             before you send it."
        );
        bundle.part("Rekindle support bundle", &head);
        bundle
    }

    fn outcome(&mut self, title: &str, text: anyhow::Result<String>) {
        match text {
            Ok(text) => self.part(title, &text),
            Err(error) => self.part(title, &format!("(not to be had: {error:#})")),
        }
    }

    fn part(&mut self, title: &str, text: &str) {
        let clean = self.redactor.clean(text);
        let kept = end_of(&clean, PART_MAX);
        let cut = if kept.len() < clean.len() { "(its beginning is cut off)\n" } else { "" };
        let title = self.redactor.clean(title);
        self.text.push_str(&format!("=== {title}\n{cut}{}\n\n", kept.trim_end()));
    }

    fn write(&self, to: &Path) -> Result<(), Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
        file.and_then(|mut file| file.write_all(self.text.as_bytes())).map_err(|e| {
            Failure::said(Kind::Refused, format!("cannot write {}: {e}", to.display()))
        })
    }
}

/// The last `most` bytes of a text, or a few less.
fn end_of(text: &str, most: usize) -> &str {
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}
