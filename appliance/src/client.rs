//! Commands that are calls to a running appliance.

mod audit;
mod batch;
mod check;
mod follow;
mod forecast;
mod http;
mod job;
mod keep;
mod notify;
mod recover;
mod repositories;
mod state;
mod table;
mod top;
mod trust;
mod upkeep;
mod user;

use rekindle_jobs::{Forecast, JobView, Report};
use rekindle_repo::{CheckDepth, Tier};
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use audit::audit;
pub(crate) use batch::batch;
pub(crate) use check::{check, print_check};
pub(crate) use keep::keep;
pub(crate) use notify::notify;
pub(crate) use repositories::repositories;
pub(crate) use state::{back_up_state, state_backups};
pub(crate) use table::{bytes, seconds};
pub(crate) use top::top;
pub(crate) use upkeep::{print_report, prune, upkeep};
pub(crate) use user::user;

use crate::{
    cli::{
        Action, CancelArgs, DaemonArgs, ExtendArgs, FinishArgs, JobArgs, JobsArgs, PointsArgs,
        RecoverArgs, ReportFormat, TargetCommand,
    },
    exit::Failure,
};
use http::Daemon;
use table::Table;

/// Runs one client command to its end.
fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::from(anyhow::Error::from(e)))?
        .block_on(work)
}

/// What a running appliance answers at each of these paths (below `/api/v1/`, or from `/` on), as text.
pub(crate) fn ask(
    args: &DaemonArgs,
    paths: &[&'static str],
) -> Vec<(&'static str, Result<String, Failure>)> {
    let ask = |daemon: &Daemon, path| run(daemon.text(path)).map(|text| table::indented(&text));
    match Daemon::new(args) {
        Ok(daemon) => paths.iter().map(|path| (*path, ask(&daemon, path))).collect(),
        Err(failure) => vec![("none", Err(failure))],
    }
}

pub(crate) fn points(args: &PointsArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let mut query = Vec::new();
    query.extend(args.vm.as_deref().map(|vm| ("vm", vm)));
    query.extend(args.repository.as_deref().map(|name| ("repository", name)));
    query.extend(args.check.map(|found| ("check", found.as_str())));
    if args.condemned {
        query.push(("condemned", "true"));
    }
    let answer = run(daemon.list("points", &query, "points"))?;
    if args.daemon.json {
        return table::json(&answer);
    }
    let listing: Points = http::decode(answer)?;
    let mut table = Table::new([
        "POINT",
        "VM",
        "TAKEN",
        "SIZE",
        "STORED",
        "TIER",
        "CHECK",
        "REPOSITORY",
        "HOT COPY",
        "TAGS",
    ]);
    for point in listing.points {
        table.row([
            point.id,
            point.vm.name,
            point.created_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            bytes(point.size_bytes),
            bytes(point.stored_bytes),
            point.tier.map_or("-", Tier::name).to_owned(),
            point.check.as_ref().map_or_else(|| "-".to_owned(), Check::text),
            point.repository,
            if point.hot_copy { "yes" } else { "-" }.to_owned(),
            match point.goes_after {
                Some(at) => format!("deleted after {}", at.strftime("%Y-%m-%d %H:%M:%SZ")),
                None => point.tags.join(","),
            },
        ]);
    }
    table.print();
    for problem in listing.problems {
        let name = problem.name.unwrap_or_default();
        eprintln!("rekindle: repository {} {name}: {}", problem.repository, problem.detail);
    }
    Ok(())
}

#[derive(Deserialize)]
struct Points {
    points: Vec<Point>,
    problems: Vec<Damage>,
}

#[derive(Deserialize)]
struct Point {
    repository: String,
    id: String,
    vm: Vm,
    created_at: jiff::Timestamp,
    size_bytes: u64,
    stored_bytes: u64,
    tags: Vec<String>,
    check: Option<Check>,
    tier: Option<Tier>,
    goes_after: Option<jiff::Timestamp>,
    hot_copy: bool,
}

#[derive(Deserialize)]
struct Check {
    checked_at: jiff::Timestamp,
    depth: CheckDepth,
    sound: bool,
}

impl Check {
    fn text(&self) -> String {
        let found = if self.sound { "sound" } else { "DAMAGED" };
        format!("{found} ({}, {})", self.depth.as_str(), self.checked_at.strftime("%Y-%m-%d"))
    }
}

#[derive(Deserialize)]
struct Vm {
    name: String,
}

#[derive(Deserialize)]
struct Damage {
    repository: String,
    name: Option<String>,
    detail: String,
}

pub(crate) fn recover(args: &RecoverArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let request = recover::request(args)?;
    if args.point.as_deref() == Some("*") && !args.forecast {
        return batch::each(args, request);
    }
    if args.since.is_some() {
        return Err(Failure::refused(
            "--since goes with `*`: of one VM, --before chooses the point",
        ));
    }
    if args.forecast {
        let forecast: Forecast = run(daemon.post("recoveries/forecast", Some(&request), None))?;
        if args.daemon.json {
            return table::json(&forecast);
        }
        forecast::print(&forecast);
        return Ok(());
    }
    let request = because(request, args.reason.as_deref());
    let key = match &args.idempotency_key {
        Some(key) => key.clone(),
        None => recover::random_key()?,
    };
    run(async {
        let job: JobView = daemon.post("recoveries", Some(&request), Some(&key)).await?;
        let job = match args.wait {
            true => {
                follow::until(&daemon, job.id.as_str(), follow::serves, !args.daemon.json).await?
            }
            false => job,
        };
        show(&args.daemon, &job)?;
        if args.wait { follow::verdict(&job) } else { Ok(()) }
    })
}

pub(crate) fn jobs(args: &JobsArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let Some(id) = &args.id else { return list_jobs(&daemon, &args.daemon) };
    if args.watch {
        return run(watch(&daemon, &args.daemon, id));
    }
    let job: JobView = run(daemon.get(&http::job_path(id)?, &[]))?;
    let Some(format) = args.report else { return show(&args.daemon, &job) };
    let report = Report::of(&job);
    match format {
        ReportFormat::Json => return table::json(&report),
        ReportFormat::Csv => print!("{}", report.csv()),
        ReportFormat::Html => print!("{}", report.html()),
    }
    Ok(())
}

fn list_jobs(daemon: &Daemon, args: &DaemonArgs) -> Result<(), Failure> {
    let answer = run(daemon.list("jobs", &[], "jobs"))?;
    if args.json {
        return table::json(&answer);
    }
    let listing: Jobs = http::decode(answer)?;
    let mut table = Table::new(["JOB", "STATE", "NAME", "VM", "ACCEPTED", "NOTE"]);
    for job in &listing.jobs {
        table.row([
            job.id.to_string(),
            job.state.as_str().to_owned(),
            job.name.clone(),
            job.vm.clone(),
            job.created_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            job::note(job),
        ]);
    }
    table.print();
    Ok(())
}

#[derive(Deserialize)]
struct Jobs {
    jobs: Vec<JobView>,
}

pub(crate) fn finish(args: &FinishArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let body = finish_body(args)?;
    let path = format!("{}/finish", http::job_path(&args.id)?);
    let body = because(body, args.reason.as_deref());
    if let Action::Keep = args.action {
        keep::before_discard(&daemon, args)?;
    }
    run(end(&daemon, &args.daemon, &args.id, &path, Some(&body), args.watch))
}

/// A body with the reason that was given.
fn because(mut body: Value, reason: Option<&str>) -> Value {
    if let Some(reason) = reason {
        body["reason"] = reason.into();
    }
    body
}

fn finish_body(args: &FinishArgs) -> Result<Value, Failure> {
    let to = recover::destination(
        args.to_directory.as_deref(),
        args.format,
        args.to_datastore.as_deref(),
    )?;
    let cut_over = recover::cut_over::key(&args.cut_over);
    let verify = recover::cut_over::verify(&args.cut_over)?;
    match (args.action, to) {
        (Action::Discard | Action::Keep | Action::Commit, _)
            if cut_over.is_some() || verify.is_some() =>
        {
            Err(Failure::refused(
                "--cut-over, --stop, --stop-within and --verify belong to migrate",
            ))
        }
        (Action::Migrate | Action::Discard | Action::Keep, _) if args.remove_original => {
            Err(Failure::refused("--remove-original belongs to commit"))
        }
        (Action::Migrate, to) => {
            let mut body = json!({ "action": "migrate" });
            to.into_iter().for_each(|to| body["to"] = to);
            cut_over.into_iter().for_each(|cut_over| body["cut_over"] = cut_over);
            verify.into_iter().for_each(|verify| body["verify"] = verify);
            Ok(body)
        }
        (Action::Discard | Action::Keep, None) => Ok(json!({ "action": "discard" })),
        (Action::Discard | Action::Keep, Some(_)) => {
            Err(Failure::refused("discard and keep take no --to-directory or --to-datastore"))
        }
        (Action::Commit, None) => {
            Ok(json!({ "action": "commit", "remove_original": args.remove_original }))
        }
        (Action::Commit, Some(_)) => {
            Err(Failure::refused("commit takes no --to-directory or --to-datastore"))
        }
    }
}

pub(crate) fn extend(args: &ExtendArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let body = json!({ "expires_in_seconds": args.expires_in_seconds });
    let body = because(body, args.reason.as_deref());
    let path = format!("{}/extend", http::job_path(&args.id)?);
    run(end(&daemon, &args.daemon, &args.id, &path, Some(&body), false))
}

pub(crate) fn undo(args: &JobArgs) -> Result<(), Failure> {
    act(args, "undo")
}

pub(crate) fn retry(args: &JobArgs) -> Result<(), Failure> {
    act(args, "retry")
}

/// A call that is about a job and takes nothing else.
fn act(args: &JobArgs, what: &str) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let path = format!("{}/{what}", http::job_path(&args.id)?);
    let body = because(json!({}), args.reason.as_deref());
    run(end(&daemon, &args.daemon, &args.id, &path, Some(&body), false))
}

pub(crate) fn cancel(args: &CancelArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let path = format!("{}/cancel", http::job_path(&args.id)?);
    run(async {
        let body = because(json!({}), args.reason.as_deref());
        match end(&daemon, &args.daemon, &args.id, &path, Some(&body), args.watch).await {
            // To be cancelled was what was asked.
            Err(failure) if failure.kind == crate::exit::Kind::JobFailed => {
                follow::cancelled(&daemon, &args.id).await
            }
            ended => ended,
        }
    })
}

async fn end(
    daemon: &Daemon,
    args: &DaemonArgs,
    id: &str,
    path: &str,
    body: Option<&Value>,
    watched: bool,
) -> Result<(), Failure> {
    let job: JobView = daemon.post(path, body, None).await?;
    if watched { watch(daemon, args, id).await } else { show(args, &job) }
}

async fn watch(daemon: &Daemon, args: &DaemonArgs, id: &str) -> Result<(), Failure> {
    let job = follow::until(daemon, id, follow::ended, !args.json).await?;
    show(args, &job)?;
    follow::verdict(&job)
}

fn show(args: &DaemonArgs, job: &JobView) -> Result<(), Failure> {
    if args.json {
        return table::json(job);
    }
    job::print(job);
    Ok(())
}

pub(crate) fn exports(args: &DaemonArgs) -> Result<(), Failure> {
    let answer: Value = run(Daemon::new(args)?.get("exports", &[]))?;
    if args.json {
        return table::json(&answer);
    }
    let mut table = Table::new(["EXPORT", "MAY MOUNT", "IN USE BY"]);
    for export in answer["exports"].as_array().into_iter().flatten() {
        table.row([
            table::text(&export["path"]),
            table::text(&export["clients"]),
            table::text(&export["mounted_by"]),
        ]);
    }
    table.print();
    Ok(())
}

pub(crate) fn cache(args: &DaemonArgs) -> Result<(), Failure> {
    let answer: Value = run(Daemon::new(args)?.get("cache", &[]))?;
    if args.json {
        return table::json(&answer);
    }
    for group in ["cache", "overlay", "mover"] {
        let values = &answer[group];
        for (name, value) in values.as_object().into_iter().flatten() {
            let shown = match value.as_u64() {
                Some(count) if name.contains("bytes") => bytes(count),
                _ => table::text(value),
            };
            println!("{group}.{name:<26} {shown}");
        }
    }
    Ok(())
}

pub(crate) fn target(what: &TargetCommand) -> Result<(), Failure> {
    let TargetCommand::Ls(args) = what else {
        return Err(Failure::refused(
            "targets are added as [[target]] in the configuration file in this version",
        ));
    };
    let answer: Value = run(Daemon::new(&args.daemon)?.get("targets", &[]))?;
    if args.daemon.json {
        return table::json(&answer);
    }
    let mut table = Table::new(["TARGET", "KIND", "URL", "HOST"]);
    for target in answer["targets"].as_array().into_iter().flatten() {
        table.row(["name", "kind", "url", "host"].map(|key| table::text(&target[key])));
    }
    table.print();
    Ok(())
}
