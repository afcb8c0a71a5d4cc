//! Manual pages and shell completions, made of the command line itself: what the package ships.

use std::{fs, path::Path};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::{cli::Cli, exit::Failure};

/// Writes `man1/*.1` and a completion for each shell into `dir`, which is made.
pub(crate) fn write(dir: &Path) -> Result<(), Failure> {
    let shown = || format!("write pages to {}", dir.display());
    let manual = dir.join("man1");
    fs::create_dir_all(&manual).with_context(shown)?;
    clap_mangen::generate_to(Cli::command(), &manual).with_context(shown)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = Cli::command();
        clap_complete::generate_to(shell, &mut command, "rekindle", dir).with_context(shown)?;
    }
    Ok(())
}
