//! Users, tokens and the audit log.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use rekindle_console::{Role, Scope};

use super::{DaemonArgs, ListArgs};

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// List users.
    Ls(ListArgs),
    /// Make a user. The password is read from the keyboard, standard input or a file.
    Add {
        /// The name to log in with.
        name: String,
        #[command(flatten)]
        grant: GrantArgs,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Change what a user may do.
    Grant {
        /// The user.
        name: String,
        #[command(flatten)]
        grant: GrantArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Set another user's password, and end its sessions.
    Passwd {
        /// The user.
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Remove a user, its sessions and its tokens.
    Rm {
        /// The user.
        name: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// API tokens: for scripts, with an end.
    Token {
        #[command(subcommand)]
        what: TokenCommand,
    },
    /// A second factor: one-time codes from an authenticator app.
    Totp {
        #[command(subcommand)]
        what: TotpCommand,
    },
}

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Show the newest records.
    Ls {
        /// How many.
        #[arg(long, default_value_t = 50, value_name = "RECORDS", value_parser = clap::value_parser!(u16).range(1..=1000))]
        last: u16,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Print the whole log, one JSON document per line, and verify it on the way.
    Export {
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Prove that no record was changed, removed or reordered, and print the log's tip.
    Verify {
        /// Verify this export instead of the appliance's log.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// The hash that the log must end with, as a verification printed it.
        #[arg(long, value_name = "HASH")]
        tip: Option<String>,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// List tokens, never their texts.
    Ls(ListArgs),
    /// Make a token and print its text, once.
    Add {
        /// What it is for.
        name: String,
        /// Whose it is [default: one's own].
        #[arg(long)]
        user: Option<String>,
        /// What it may do at most [default: what its user may].
        #[arg(long)]
        role: Option<Role>,
        /// When it ends.
        #[arg(long, default_value_t = 90, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=366))]
        expires_in_days: u16,
        #[command(flatten)]
        scope: ScopeArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Remove a token: it stops working at once.
    Rm {
        /// The token's id, as `ls` shows it.
        id: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
}

#[derive(Subcommand)]
pub(crate) enum TotpCommand {
    /// Get a secret for an authenticator app.
    Begin {
        /// The user: oneself.
        #[arg(long = "user", default_value = "admin", value_name = "USER")]
        name: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Show a code of it: it is asked for from then on.
    Confirm {
        /// The code that the app shows.
        code: String,
        /// The user: oneself.
        #[arg(long = "user", default_value = "admin", value_name = "USER")]
        name: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Remove a second factor: one's own (with --totp), or that of another as admin.
    Rm {
        /// The user.
        #[arg(long = "user", default_value = "admin", value_name = "USER")]
        name: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
}

/// What a user may do.
#[derive(Args)]
pub(crate) struct GrantArgs {
    /// viewer (looks), operator (recovers too) or admin (users and audit too).
    #[arg(long)]
    pub(crate) role: Role,
    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
}

/// With what.
#[derive(Args)]
pub(crate) struct ScopeArgs {
    /// Only with this repository; may be given more than once.
    #[arg(long = "only-repository", value_name = "NAME")]
    repositories: Vec<String>,
    /// Only with this target, or `export`; may be given more than once.
    #[arg(long = "only-target", value_name = "NAME")]
    targets: Vec<String>,
}

impl ScopeArgs {
    pub(crate) fn scope(&self) -> Scope {
        let some = |names: &[String]| (!names.is_empty()).then(|| names.iter().cloned().collect());
        Scope { repositories: some(&self.repositories), targets: some(&self.targets) }
    }
}

#[derive(Args)]
pub(crate) struct PasswordArgs {
    /// The file that holds the password.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}
