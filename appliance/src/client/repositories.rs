use serde_json::Value;

use super::{
    http::Daemon,
    run,
    table::{self, Table},
};
use crate::{cli::DaemonArgs, exit::Failure};

/// `repo state`: what the running appliance can read.
pub(crate) fn repositories(args: &DaemonArgs) -> Result<(), Failure> {
    let answer: Value = run(Daemon::new(args)?.get("repositories", &[]))?;
    if args.json {
        return table::json(&answer);
    }
    let mut shown = Table::new(["REPOSITORY", "STATE", "SINCE", "WHERE", "WHY"]);
    for one in answer["repositories"].as_array().into_iter().flatten() {
        shown.row(["name", "state", "since", "path", "reason"].map(|key| table::text(&one[key])));
    }
    shown.print();
    Ok(())
}
