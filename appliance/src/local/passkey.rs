//! Passkeys of sealed repositories: from a file, a systemd credential or a terminal, never from the command line.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    path::Path,
};

use anyhow::Context;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use rekindle_repo::{Location, Passkey, PasskeyInfo, RepoError, Repository};
use serde_json::json;

use crate::{
    cli::{PasskeyArgs, PasskeyCommand},
    config::{RepositoryEntry, read_secret},
    exit::{Failure, Kind},
};

/// The longest line that is read from a terminal.
const LINE_MAX: u64 = 4096;

/// `repo passkey`: who can read a sealed repository.
pub(super) fn passkey(what: &PasskeyCommand) -> Result<(), Failure> {
    match what {
        PasskeyCommand::Ls { open, json } => {
            let keys = super::open(open)?.passkeys()?;
            if *json {
                println!("{:#}", json!({ "passkeys": keys }));
            } else {
                keys.iter().for_each(|key| println!("{}", line(key)));
            }
        }
        PasskeyCommand::Add { open, new_passkey_file, label } => {
            let repository = super::open(open)?;
            if !repository.is_sealed() {
                return Err(Failure::refused("the repository is not sealed: it has no passkeys"));
            }
            let new = new(new_passkey_file.as_deref(), "New passkey")?;
            println!("added passkey {}", line(&repository.add_passkey(&new, label)?));
        }
        PasskeyCommand::Remove { open, which } => {
            let removed = super::open(open)?.remove_passkey(which)?;
            println!("removed passkey {}", line(&removed));
        }
    }
    Ok(())
}

fn line(key: &PasskeyInfo) -> String {
    format!("{}  {}  {}", key.id, key.created_at, key.label)
}

/// The passkey of a file.
pub(crate) fn from_file(file: &Path) -> Result<Passkey, Failure> {
    from_secret(Some(file), None)
}

fn from_secret(file: Option<&Path>, credential: Option<&str>) -> Result<Passkey, Failure> {
    let text = read_secret(file, credential).map_err(|e| Failure::new(Kind::Refused, e))?;
    Ok(Passkey::new(&text)?)
}

/// The passkey that the configuration names for a repository.
pub(crate) fn configured(entry: &RepositoryEntry) -> Result<Option<Passkey>, Failure> {
    if entry.passkey_file.is_none() && entry.passkey_credential.is_none() {
        return Ok(None);
    }
    from_secret(entry.passkey_file.as_deref(), entry.passkey_credential.as_deref()).map(Some)
}

/// A passkey that is to be: from a file, or typed twice.
pub(super) fn new(file: Option<&Path>, prompt: &str) -> Result<Passkey, Failure> {
    if let Some(file) = file {
        return from_file(file);
    }
    let text = ask(prompt)?;
    if ask("The same again")? != text {
        return Err(Failure::refused("the two are not the same"));
    }
    Ok(Passkey::new(&text)?)
}

/// Opens the repository at `place` with the passkey that the arguments or the configuration name; without one, a
/// sealed repository asks for it if there is a terminal.
pub(super) fn open_at(
    place: impl Into<Location>,
    args: &PasskeyArgs,
    entry: Option<&RepositoryEntry>,
) -> Result<Repository, Failure> {
    let passkey = match (&args.passkey_file, entry) {
        (Some(file), _) => Some(from_file(file)?),
        (None, Some(entry)) => configured(entry)?,
        (None, None) => None,
    };
    let place = place.into();
    match Repository::open_with(place.clone(), passkey.as_ref()) {
        Err(RepoError::Locked { .. }) if passkey.is_none() => {
            let typed = Passkey::new(&ask("Passkey")?)?;
            Ok(Repository::open_with(place, Some(&typed))?)
        }
        other => Ok(other?),
    }
}

/// A line typed at the terminal and not shown there.
fn ask(prompt: &str) -> Result<String, Failure> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let terminal = terminal.map_err(|_| {
        Failure::refused("a passkey is needed and there is no terminal to ask at: name a file with --passkey-file")
    })?;
    let silent = Silent::new(&terminal).context("stop the terminal's echo")?;
    let mut line = String::new();
    (&terminal).write_all(format!("{prompt}: ").as_bytes()).context("ask for a passkey")?;
    BufReader::new((&terminal).take(LINE_MAX)).read_line(&mut line).context("read a passkey")?;
    drop(silent);
    (&terminal).write_all(b"\n").context("ask for a passkey")?;
    Ok(line)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a File) -> nix::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(terminal, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // If this fails the terminal has gone.
        let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}
