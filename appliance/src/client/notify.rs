use rekindle_notify::{ChannelView, TestView};
use serde::Deserialize;
use serde_json::Value;

use super::{
    http::{self, Daemon},
    run,
    table::{self, Table},
};
use crate::{
    cli::{DaemonArgs, NotifyCommand},
    exit::{Failure, Kind},
};

#[derive(Deserialize)]
struct Channels {
    channels: Vec<ChannelView>,
}

#[derive(Deserialize)]
struct Tested {
    results: Vec<TestView>,
}

pub(crate) fn notify(what: &NotifyCommand) -> Result<(), Failure> {
    match what {
        NotifyCommand::Ls(args) => list(args),
        NotifyCommand::Test(args) => test(args),
    }
}

fn list(args: &DaemonArgs) -> Result<(), Failure> {
    let answer: Value = run(Daemon::new(args)?.get("notifications", &[]))?;
    if args.json {
        return table::json(&answer);
    }
    let listing: Channels = http::decode(answer)?;
    let mut table =
        Table::new(["CHANNEL", "KIND", "TO", "DELIVERED", "WAITING", "LOST", "LAST FAILURE"]);
    for one in listing.channels {
        table.row([
            one.name,
            one.kind,
            one.to,
            one.delivered.to_string(),
            one.waiting.to_string(),
            one.given_up.saturating_add(one.dropped).to_string(),
            one.last_failure.map_or_else(String::new, |failure| {
                format!("{}: {}", failure.at.strftime("%Y-%m-%d %H:%M:%SZ"), failure.reason)
            }),
        ]);
    }
    table.print();
    Ok(())
}

/// Fails unless each channel took it.
fn test(args: &DaemonArgs) -> Result<(), Failure> {
    let answer: Value = run(Daemon::new(args)?.post("notifications/test", None, None))?;
    let tested: Tested = http::decode(answer.clone())?;
    if args.json {
        table::json(&answer)?;
    } else {
        let mut table = Table::new(["CHANNEL", "DELIVERED", "ANSWER"]);
        for one in &tested.results {
            let delivered = if one.delivered { "yes" } else { "no" };
            table.row([one.name.clone(), delivered.to_owned(), one.answer.clone()]);
        }
        table.print();
    }
    if tested.results.is_empty() {
        let why =
            "no channel is configured: see [[webhook]], [mail] and [syslog] in the configuration";
        return Err(Failure::refused(why));
    }
    match tested.results.iter().filter(|one| !one.delivered).count() {
        0 => Ok(()),
        failed => {
            Err(Failure::said(Kind::Failed, format!("{failed} channels did not take the test")))
        }
    }
}
