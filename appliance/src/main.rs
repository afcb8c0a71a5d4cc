//! Makes a backed-up virtual machine run again in seconds, without restoring it first.
//!
//! # Layout
//!
//! ```text
//! cli ─┬─ serve/    the daemon: config, wiring, start and stop order
//!      ├─ local/    repositories and ingest, without a daemon
//!      ├─ client/   everything else, as calls to a running daemon
//!      ├─ bundle/   what support needs, without secrets
//!      ├─ describe  what there is to configure, measure and call
//!      └─ pages     manual pages and completions, for the package
//! ```
//!
//! # Invariants
//!
//! 1. Exports are back before the NFS port listens.
//! 2. Two daemons never share a state directory (a locked file).
//! 3. A secret is never read from the command line or the configuration, only from files,
//!    systemd credentials and, for the client's token, the environment.
//! 4. Every failure ends with a sentence on stderr that says what to do, and an exit status that
//!    says what kind it is ([`exit`]).

mod bundle;
mod cli;
mod client;
mod config;
mod describe;
mod exit;
mod local;
mod logging;
mod pages;
mod serve;

use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;

/// An appliance runs for months, and frees on one thread what another has taken, of every size: the C library keeps most of
/// that to itself.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: cli::Command) -> Result<(), exit::Failure> {
    use cli::Command;
    match command {
        Command::Serve(args) => serve::serve(&args),
        Command::CheckConfig { file } => describe::check_config(&file),
        Command::Describe { what } => describe::describe(what),
        Command::Pages { dir } => pages::write(&dir),
        Command::Demo => Err(exit::Failure::refused(
            "the demonstration needs a sample VM and QEMU: run scripts/demo of the source tree",
        )),
        Command::Repo { what } => local::repo(what),
        Command::Ingest(args) => local::ingest(&args),
        Command::Points(args) => client::points(&args),
        Command::Recover(args) => client::recover(&args),
        Command::Jobs(args) => client::jobs(&args),
        Command::Top(args) => client::top(&args),
        Command::Finish(args) => client::finish(&args),
        Command::Extend(args) => client::extend(&args),
        Command::Undo(args) => client::undo(&args),
        Command::Keep(args) => client::keep(&args),
        Command::Retry(args) => client::retry(&args),
        Command::Cancel(args) => client::cancel(&args),
        Command::Batch { what } => client::batch(&what),
        Command::Exports(args) => client::exports(&args.daemon),
        Command::Cache(args) => client::cache(&args.daemon),
        Command::Target { what } => client::target(&what),
        Command::Notify { what } => client::notify(&what),
        Command::State { what } => local::state(what),
        Command::SupportBundle(args) => bundle::make(&args),
        Command::User { what } => client::user(&what),
        Command::Audit { what } => client::audit(&what),
    }
}
