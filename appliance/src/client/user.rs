use std::{
    fs,
    io::{IsTerminal, Read, Write},
    path::Path,
};

use anyhow::Context;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use reqwest::Method;
use serde_json::{Value, json};

use super::{http::Daemon, run, table, table::Table};
use crate::{
    cli::{GrantArgs, TokenCommand, TotpCommand, UserCommand},
    exit::Failure,
};

/// The longest password that is read, in bytes.
const PASSWORD_MAX: u64 = 4096;
const DAY_SECONDS: u64 = 86_400;

pub(crate) fn user(what: &UserCommand) -> Result<(), Failure> {
    match what {
        UserCommand::Ls(args) => {
            let answer: Value = run(Daemon::new(&args.daemon)?.get("users", &[]))?;
            if args.daemon.json {
                return table::json(&answer);
            }
            let mut table = Table::new(["USER", "ROLE", "REPOSITORIES", "TARGETS", "TOTP"]);
            for user in answer["users"].as_array().into_iter().flatten() {
                let scope = |part: &str| all_or(&user["scope"][part]);
                let [name, role, totp] =
                    ["name", "role", "totp"].map(|key| table::text(&user[key]));
                table.row([name, role, scope("repositories"), scope("targets"), totp]);
            }
            table.print();
            Ok(())
        }
        UserCommand::Add { name, grant, password, daemon } => {
            let mut body = grant_body(grant);
            body["name"] = name.as_str().into();
            body["password"] = read_password(password.password_file.as_deref(), true)?.into();
            let made = call(daemon, Method::POST, "users", Some(&body))?;
            said(daemon.json, &made, &format!("user {name} is made"))
        }
        UserCommand::Grant { name, grant, daemon } => {
            let path = user_path(name, "")?;
            let made = call(daemon, Method::PUT, &path, Some(&grant_body(grant)))?;
            said(daemon.json, &made, &format!("user {name} is {} now", grant.role))
        }
        UserCommand::Passwd { name, password, daemon } => {
            let text = read_password(password.password_file.as_deref(), true)?;
            let body = json!({ "password": text });
            let path = user_path(name, "/password")?;
            let answer = call(daemon, Method::POST, &path, Some(&body))?;
            said(daemon.json, &answer, &format!("user {name} has a new password, and no sessions"))
        }
        UserCommand::Rm { name, daemon } => {
            let answer = call(daemon, Method::DELETE, &user_path(name, "")?, None)?;
            said(daemon.json, &answer, &format!("user {name} is removed"))
        }
        UserCommand::Token { what } => token(what),
        UserCommand::Totp { what } => totp(what),
    }
}

fn token(what: &TokenCommand) -> Result<(), Failure> {
    match what {
        TokenCommand::Ls(args) => {
            let answer: Value = run(Daemon::new(&args.daemon)?.get("tokens", &[]))?;
            if args.daemon.json {
                return table::json(&answer);
            }
            let mut table = Table::new(["TOKEN", "USER", "NAME", "ROLE", "EXPIRES"]);
            for token in answer["tokens"].as_array().into_iter().flatten() {
                let keys = ["id", "owner", "name", "role", "expires_at"];
                table.row(keys.map(|key| table::text(&token[key])));
            }
            table.print();
            Ok(())
        }
        TokenCommand::Add { name, user, role, expires_in_days, scope, daemon } => {
            let mut body = json!({
                "name": name,
                "expires_in_seconds": u64::from(*expires_in_days) * DAY_SECONDS,
                "scope": scope.scope(),
            });
            if let Some(user) = user {
                body["user"] = user.as_str().into();
            }
            if let Some(role) = role {
                body["role"] = role.as_str().into();
            }
            let made = call(daemon, Method::POST, "tokens", Some(&body))?;
            let text = table::text(&made["token"]);
            // The token alone, so that it can be put into a file.
            said(daemon.json, &made, &text)
        }
        TokenCommand::Rm { id, daemon } => {
            let answer = call(daemon, Method::DELETE, &part("tokens", id, "")?, None)?;
            said(daemon.json, &answer, &format!("token {id} is removed"))
        }
    }
}

fn totp(what: &TotpCommand) -> Result<(), Failure> {
    match what {
        TotpCommand::Begin { name, daemon } => {
            let made = call(daemon, Method::POST, &user_path(name, "/totp")?, None)?;
            let [secret, uri] = ["secret", "uri"].map(|key| table::text(&made[key]));
            let text = format!(
                "{secret}\n{uri}\nput it into an authenticator app, then: rekindle user totp confirm CODE"
            );
            said(daemon.json, &made, &text)
        }
        TotpCommand::Confirm { code, name, daemon } => {
            let body = json!({ "code": code });
            let path = user_path(name, "/totp/confirm")?;
            let answer = call(daemon, Method::POST, &path, Some(&body))?;
            said(daemon.json, &answer, &format!("user {name} has a second factor now"))
        }
        TotpCommand::Rm { name, daemon } => {
            let answer = call(daemon, Method::DELETE, &user_path(name, "/totp")?, None)?;
            said(daemon.json, &answer, &format!("user {name} has no second factor any more"))
        }
    }
}

fn call(
    args: &crate::cli::DaemonArgs,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    run(Daemon::new(args)?.call(method, path, body))
}

fn said(json: bool, answer: &Value, text: &str) -> Result<(), Failure> {
    if json {
        return table::json(answer);
    }
    println!("{text}");
    Ok(())
}

fn user_path(name: &str, rest: &str) -> Result<String, Failure> {
    part("users", name, rest)
}

/// A path with a name in it, which must be one segment as it is.
fn part(list: &str, name: &str, rest: &str) -> Result<String, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Failure::refused(format!("{name:?} cannot be in {list}")));
    }
    Ok(format!("{list}/{name}{rest}"))
}

fn grant_body(grant: &GrantArgs) -> Value {
    json!({ "role": grant.role.as_str(), "scope": grant.scope.scope() })
}

fn all_or(names: &Value) -> String {
    if names.is_null() { "all".to_owned() } else { table::text(names) }
}

/// A password from a file, from the keyboard (twice, and not shown) or from standard input.
fn read_password(file: Option<&Path>, twice: bool) -> Result<String, Failure> {
    let text = match file {
        Some(file) => {
            let shown = file.display();
            fs::File::open(file).and_then(bounded).map_err(|e| {
                Failure::refused(format!("cannot read the password in {shown}: {e}"))
            })?
        }
        None if std::io::stdin().is_terminal() => typed(twice)?,
        None => bounded(std::io::stdin()).context("read the password")?,
    };
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn bounded(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(PASSWORD_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn typed(twice: bool) -> Result<String, Failure> {
    let first = Unseen::begin()?.line("Password: ")?;
    if twice && Unseen::begin()?.line("Again: ")? != first {
        return Err(Failure::refused("the two passwords differ"));
    }
    Ok(first)
}

/// A terminal that shows nothing of what is typed, until dropped.
struct Unseen(nix::sys::termios::Termios);

impl Unseen {
    fn begin() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("look at the terminal")?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &quiet).context("hide what is typed")?;
        Ok(Self(before))
    }

    fn line(self, prompt: &str) -> anyhow::Result<String> {
        eprint!("{prompt}");
        std::io::stderr().flush()?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        eprintln!();
        Ok(line)
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
