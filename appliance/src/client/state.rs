use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{
    http::{self, Daemon},
    run,
    table::{self, Table, bytes},
};
use crate::{cli::DaemonArgs, exit::Failure};

#[derive(Deserialize)]
struct Listing {
    dir: Option<String>,
    backups: Vec<Made>,
}

#[derive(Deserialize)]
struct Made {
    file: String,
    bytes: u64,
    made_at: Timestamp,
}

/// `state backup`
pub(crate) fn back_up_state(args: &DaemonArgs) -> Result<(), Failure> {
    let answer: Value = run(Daemon::new(args)?.post("state/backups", None, None))?;
    if args.json {
        return table::json(&answer);
    }
    let made: Made = http::decode(answer)?;
    println!("{} ({})", made.file, bytes(made.bytes));
    Ok(())
}

/// `state ls`
pub(crate) fn state_backups(args: &DaemonArgs) -> Result<(), Failure> {
    let answer: Value = run(Daemon::new(args)?.get("state/backups", &[]))?;
    if args.json {
        return table::json(&answer);
    }
    let listing: Listing = http::decode(answer)?;
    if listing.dir.is_none() {
        let why = "no backups of the state are configured: set `dir` of [state_backup]";
        return Err(Failure::refused(why));
    }
    let mut table = Table::new(["MADE", "SIZE", "FILE"]);
    for one in listing.backups {
        let made = one.made_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        table.row([made, bytes(one.bytes), one.file]);
    }
    table.print();
    Ok(())
}
