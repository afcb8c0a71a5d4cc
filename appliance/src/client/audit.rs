use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
};

use anyhow::Context;
use rekindle_console::{AuditEnd, AuditPage, AuditRecord, Chain};
use serde_json::json;

use super::{http::Daemon, run, table, table::Table};
use crate::{
    cli::{AuditCommand, DaemonArgs},
    exit::{Failure, Kind},
};

/// Records asked for at once.
const PAGE: &str = "1000";
/// The longest line of an export: a record is below 8 KiB.
const LINE_MAX: usize = 64 << 10;

pub(crate) fn audit(what: &AuditCommand) -> Result<(), Failure> {
    match what {
        AuditCommand::Ls { last, daemon } => list(*last, daemon),
        AuditCommand::Export { daemon } => run(async {
            let mut out = std::io::stdout().lock();
            let write = |record: &AuditRecord| {
                serde_json::to_writer(&mut out, record).context("write a record")?;
                Ok(writeln!(out).context("write a record")?)
            };
            walk(&Daemon::new(daemon)?, write).await.map(drop)
        }),
        AuditCommand::Verify { file: Some(file), tip, daemon } => {
            report(daemon, verify_file(file)?, tip.as_deref())
        }
        AuditCommand::Verify { file: None, tip, daemon } => {
            let found = run(async { walk(&Daemon::new(daemon)?, |_| Ok(())).await })?;
            report(daemon, found, tip.as_deref())
        }
    }
}

fn list(last: u16, daemon: &DaemonArgs) -> Result<(), Failure> {
    let limit = last.to_string();
    let page: AuditPage = run(Daemon::new(daemon)?.get("audit", &[("limit", &limit)]))?;
    if daemon.json {
        return table::json(&page);
    }
    let mut table =
        Table::new(["NUMBER", "AT", "USER", "FROM", "ACTION", "OBJECT", "OUTCOME", "REASON"]);
    for record in page.records {
        table.row([
            record.number.to_string(),
            record.at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            record.user,
            record.from,
            record.action,
            record.object,
            record.outcome,
            record.reason.unwrap_or_default(),
        ]);
    }
    table.print();
    Ok(())
}

/// What was verified.
struct Verified {
    first: u64,
    tip: AuditEnd,
}

/// Takes the log from its beginning to where it ended when the walk began, and verifies it on the way:
/// what the appliance says of itself is not relied on.
async fn walk(
    daemon: &Daemon,
    mut each: impl FnMut(&AuditRecord) -> Result<(), Failure>,
) -> Result<Verified, Failure> {
    let ask = async |from: u64| -> Result<AuditPage, Failure> {
        daemon.get("audit", &[("from", &from.to_string()), ("limit", PAGE)]).await
    };
    let mut page = ask(0).await?;
    let (anchor, tip) = (page.anchor.clone(), page.tip.clone());
    let mut chain = Chain::from(&anchor);
    loop {
        for record in page.records.iter().filter(|record| record.number < tip.number) {
            chain.push(record).map_err(broken)?;
            each(record)?;
        }
        if page.records.is_empty() || chain.tip().number >= tip.number {
            break;
        }
        page = ask(chain.tip().number).await?;
    }
    chain.end(&tip).map_err(broken)?;
    Ok(Verified { first: anchor.number, tip })
}

/// An export proves itself from its first record on; its end is what the tip says that was kept.
fn verify_file(file: &Path) -> Result<Verified, Failure> {
    let shown = file.display();
    let open = fs::File::open(file).with_context(|| format!("read {shown}"));
    let mut lines = BufReader::new(open.map_err(|e| Failure::new(Kind::NotFound, e))?);
    let mut chain: Option<(u64, Chain)> = None;
    let mut line = String::new();
    loop {
        line.clear();
        let read = std::io::Read::take(&mut lines, LINE_MAX as u64).read_line(&mut line);
        if read.with_context(|| format!("read {shown}"))? == 0 {
            break;
        }
        let record: AuditRecord = serde_json::from_str(&line)
            .map_err(|e| Failure::refused(format!("{shown} is no export of the audit log: {e}")))?;
        let begin = || {
            let anchor = AuditEnd { number: record.number, hash: record.prev.clone() };
            (record.number, Chain::from(&anchor))
        };
        chain.get_or_insert_with(begin).1.push(&record).map_err(broken)?;
    }
    let (first, chain) = chain.ok_or_else(|| Failure::refused(format!("{shown} is empty")))?;
    Ok(Verified { first, tip: chain.tip().clone() })
}

fn broken(error: rekindle_console::Broken) -> Failure {
    Failure::new(Kind::Failed, error)
}

fn report(daemon: &DaemonArgs, found: Verified, wanted: Option<&str>) -> Result<(), Failure> {
    if wanted.is_some_and(|wanted| !wanted.eq_ignore_ascii_case(&found.tip.hash)) {
        let text =
            format!("the log is whole, but its tip is {}, not the one given", found.tip.hash);
        return Err(Failure::said(Kind::Failed, text));
    }
    let records = found.tip.number - found.first;
    if daemon.json {
        return table::json(&json!({
            "whole": true, "first": found.first, "records": records, "tip": found.tip.hash,
        }));
    }
    println!("whole: {records} records from number {}, tip {}", found.first, found.tip.hash);
    Ok(())
}
