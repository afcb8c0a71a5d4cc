use std::{io::Read, path::Path, time::Duration};

use anyhow::Context;
use rekindle_jobs::{BatchState, BatchView, GroupState};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    because,
    http::{self, Daemon},
    run,
    table::{self, Table},
};
use crate::{
    cli::{BatchCommand, DaemonArgs, RecoverArgs, ResumeArgs, StartArgs},
    config::read_secret,
    exit::{Failure, Kind},
    local::passkey,
};

/// The largest file that is read.
const FILE_MAX: u64 = 1 << 20;
/// Between two looks at a batch that is followed.
const PACE: Duration = Duration::from_secs(1);

pub(crate) fn batch(what: &BatchCommand) -> Result<(), Failure> {
    match what {
        BatchCommand::Start(args) => start(args),
        BatchCommand::Ls(args) => list(args),
        BatchCommand::Show(args) => {
            let daemon = Daemon::new(&args.daemon)?;
            let path = http::batch_path(&args.id)?;
            if args.watch {
                return run(follow(&daemon, &args.daemon, &path));
            }
            show(&args.daemon, &run(daemon.get(&path, &[]))?)
        }
        BatchCommand::Cancel(args) => {
            let daemon = Daemon::new(&args.daemon)?;
            let path = format!("{}/cancel", http::batch_path(&args.id)?);
            let body = because(json!({}), args.reason.as_deref());
            show(&args.daemon, &run(daemon.post(&path, Some(&body), None))?)
        }
        BatchCommand::Resume(args) => resume(args),
    }
}

fn resume(args: &ResumeArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let path = http::batch_path(&args.id)?;
    let failed = if args.skip { "skip" } else { "retry" };
    let body = because(json!({ "failed": failed }), args.reason.as_deref());
    run(async {
        let batch: BatchView = daemon.post(&format!("{path}/resume"), Some(&body), None).await?;
        match args.watch {
            true => follow(&daemon, &args.daemon, &path).await,
            false => show(&args.daemon, &batch),
        }
    })
}

fn start(args: &StartArgs) -> Result<(), Failure> {
    let mut body = read(&args.file)?;
    if !body.is_object() {
        return Err(Failure::refused("the file must have a JSON object, with `groups`"));
    }
    if let Some(file) = &args.passkey_file {
        // Checked here, so that a bad one is not sent; sent as it stands in the file.
        passkey::from_file(file)?;
        body["passkey"] = read_secret(Some(file), None)?.into();
    }
    let body = because(body, args.reason.as_deref());
    begin(&args.daemon, &body, args.watch)
}

/// `recover '*'`: each VM that suits, by what was said of one.
pub(super) fn each(args: &RecoverArgs, mut each: Value) -> Result<(), Failure> {
    let mut take = |field| each.as_object_mut().and_then(|fields| fields.remove(field));
    let mut select = json!({});
    for field in ["tag", "before"] {
        if let Some(value) = take(field) {
            select[field] = value;
        }
    }
    let passkey = take("passkey");
    if let Some(since) = args.since {
        select["since"] = since.to_string().into();
    }
    select["each"] = each;
    let mut body = json!({ "groups": [{ "select": select }] });
    if let Some(passkey) = passkey {
        body["passkey"] = passkey;
    }
    begin(&args.daemon, &because(body, args.reason.as_deref()), args.wait)
}

fn begin(args: &DaemonArgs, body: &Value, watch: bool) -> Result<(), Failure> {
    let daemon = Daemon::new(args)?;
    run(async {
        let batch: BatchView = daemon.post("batches", Some(body), None).await?;
        match watch {
            true => follow(&daemon, args, &http::batch_path(batch.id.as_str())?).await,
            false => show(args, &batch),
        }
    })
}

fn read(file: &Path) -> Result<Value, Failure> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().take(FILE_MAX).read_to_string(&mut text),
        false => std::fs::File::open(file)
            .and_then(|opened| opened.take(FILE_MAX).read_to_string(&mut text)),
    };
    read.with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text)
        .map_err(|e| Failure::refused(format!("{} is not JSON: {e}", file.display())))
}

fn list(args: &DaemonArgs) -> Result<(), Failure> {
    let answer = run(Daemon::new(args)?.list("batches", &[], "batches"))?;
    if args.json {
        return table::json(&answer);
    }
    let listing: Batches = http::decode(answer)?;
    let mut table = Table::new(["BATCH", "NAME", "STATE", "ACCEPTED", "VMS UP"]);
    for batch in &listing.batches {
        let vms: Vec<_> = batch.groups.iter().flat_map(|group| &group.vms).collect();
        let up = vms.iter().filter(|vm| vm.up == Some(true)).count();
        table.row([
            batch.id.to_string(),
            batch.name.clone().unwrap_or_default(),
            state(batch.state).to_owned(),
            batch.created_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            format!("{up} of {}", vms.len()),
        ]);
    }
    table.print();
    Ok(())
}

#[derive(Deserialize)]
struct Batches {
    batches: Vec<BatchView>,
}

/// Looks at a batch until it has ended; its end is the exit status.
async fn follow(daemon: &Daemon, args: &DaemonArgs, path: &str) -> Result<(), Failure> {
    let batch = loop {
        let batch: BatchView = daemon.get(path, &[]).await?;
        if batch.finished_at.is_some() {
            break batch;
        }
        sleep(PACE).await;
    };
    show(args, &batch)?;
    match batch.state {
        BatchState::Running | BatchState::Completed => Ok(()),
        bad @ (BatchState::Incomplete | BatchState::Halted | BatchState::Cancelled) => {
            let why = format!("batch {} is {}", batch.id, state(bad));
            Err(Failure::said(Kind::JobFailed, why))
        }
    }
}

fn show(args: &DaemonArgs, batch: &BatchView) -> Result<(), Failure> {
    if args.json {
        return table::json(batch);
    }
    println!("batch {} {}", batch.id, state(batch.state));
    let mut table = Table::new(["GROUP", "STATE", "VM OR GATE", "JOB", "UP", "NOTE"]);
    let told = |error: &Option<rekindle_jobs::ErrorView>| {
        error.as_ref().map(|error| error.message.clone()).unwrap_or_default()
    };
    let known = |up: Option<bool>| up.map_or("", |up| if up { "yes" } else { "no" }).to_owned();
    for (number, group) in batch.groups.iter().enumerate() {
        let name = group.name.clone().unwrap_or_else(|| (number + 1).to_string());
        let state = if group.skipped { "passed over" } else { group_state(group.state) };
        let row = [name, state.to_owned()];
        for vm in &group.vms {
            let job = vm.job.as_ref().map(ToString::to_string).unwrap_or_default();
            let [name, state] = row.clone();
            table.row([name, state, vm.point.clone(), job, known(vm.up), told(&vm.error)]);
        }
        for gate in &group.gates {
            let [name, state] = row.clone();
            table.row([
                name,
                state,
                gate.gate.to_string(),
                String::new(),
                known(gate.open),
                told(&gate.error),
            ]);
        }
    }
    table.print();
    Ok(())
}

fn state(state: BatchState) -> &'static str {
    match state {
        BatchState::Running => "running",
        BatchState::Completed => "completed",
        BatchState::Incomplete => "incomplete",
        BatchState::Halted => "halted",
        BatchState::Cancelled => "cancelled",
    }
}

fn group_state(state: GroupState) -> &'static str {
    match state {
        GroupState::Pending => "pending",
        GroupState::Starting => "starting",
        GroupState::Waiting => "waiting",
        GroupState::Checking => "checking",
        GroupState::Up => "up",
        GroupState::Failed => "failed",
    }
}
