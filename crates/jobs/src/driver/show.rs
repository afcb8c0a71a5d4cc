//! A job's record as others see it.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::env::Env;
use crate::journal::{Record, StepTimes};
use crate::plan::{Next, Plan};
use crate::steps::Status;
use crate::{
    ExportedFile, ExportedVm, FileKind, JobError, JobState, JobView, Obstacle, Step, StepState,
    StepView,
};

/// The view of a record.
pub(crate) fn view(
    env: &Env,
    record: &Record,
    status: &Status,
    stuck: Option<&Obstacle>,
) -> JobView {
    let state = match stuck {
        Some(_) if is_stuck(record) => JobState::Stuck,
        _ => record.state(),
    };
    JobView {
        id: record.id.clone(),
        state,
        outcome: record.outcome,
        name: record.name.clone(),
        vm: record.vm.clone(),
        point: record.point.clone(),
        repository: record.repository.clone(),
        size_bytes: record.disks.iter().fold(0, |sum, disk| sum.saturating_add(disk.size)),
        planned: record.planned,
        request: record.request.clone(),
        created_at: record.created_at,
        serving_since: record.serving_since,
        finished_at: record.finished_at,
        expires_at: record.expires_at,
        kept_until: record.kept_until,
        waits_for: status.waits_for.lock().clone().filter(|_| !record.is_finished()),
        steps: steps(record),
        progress: status.meter.view(),
        export: export(env, record),
        migrated_to: record.migrated_to.clone(),
        pause_ms: record.pause_ms,
        compared: record.compared,
        timeline: record.timeline.clone(),
        error: stuck.map(|obstacle| obstacle.error.clone()).or_else(|| record.error.clone()),
        obstacle: stuck.cloned(),
    }
}

/// Whether something in the way keeps the job from ending.
pub(super) fn is_stuck(record: &Record) -> bool {
    let back = record.plan.is_unwinding() || record.plan.is_shelved();
    back && !record.is_finished()
}

/// The steps of the plan, and before them none; steps of a migration that was given up are not
/// shown again.
fn steps(record: &Record) -> Vec<StepView> {
    let none = StepTimes::default();
    let all = record.plan.steps().iter();
    all.map(|step| {
        let times = record.times.get(step).unwrap_or(&none);
        StepView {
            name: *step,
            state: step_state(&record.plan, *step, times),
            started_at: times.started_at,
            finished_at: times.finished_at,
            undone_at: times.undone_at,
            error: times.error.clone(),
        }
    })
    .collect()
}

fn step_state(plan: &Plan, step: Step, times: &StepTimes) -> StepState {
    match plan.next() {
        Next::Undo(undoing) if undoing == step => StepState::Undoing,
        _ if plan.has_done(step) => StepState::Done,
        _ if plan.has_begun(step) => StepState::Running,
        _ if times.undone_at.is_some() => StepState::Undone,
        _ => StepState::Pending,
    }
}

fn export(env: &Env, record: &Record) -> Option<ExportedVm> {
    if !record.plan.has_done(Step::Files) {
        return None;
    }
    let place = &record.place;
    let path = format!("/{}", place.export);
    let server = server(env, record);
    Some(ExportedVm {
        url: server.as_deref().map(|server| url(server, &path, &place.folder)),
        server,
        path,
        folder: place.folder.clone(),
        datastore: place.datastore.as_ref().map(|mount| mount.datastore.clone()),
        files: files(record),
    })
}

/// The address that clients mount from.
fn server(env: &Env, record: &Record) -> Option<String> {
    let mount = record.place.datastore.as_ref();
    match mount.and_then(|mount| env.links.get(&mount.target)) {
        Some(link) => Some(link.server()),
        None => env.config.server.map(|address| address.to_string()),
    }
}

fn url(server: &str, path: &str, folder: &str) -> String {
    let literal = server.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
    let host = if literal { format!("[{server}]") } else { server.to_owned() };
    format!("nfs://{host}{path}/{folder}")
}

fn files(record: &Record) -> Vec<ExportedFile> {
    let stem = &record.place.folder;
    let mut files = Vec::new();
    if record.request.attach_to.is_none() {
        files.push(file(format!("{stem}.vmx"), FileKind::Vmx, None));
    }
    if record.nvram {
        files.push(file(format!("{stem}.nvram"), FileKind::Nvram, None));
    }
    for disk in &record.disks {
        files.push(file(disk.descriptor.clone(), FileKind::Descriptor, None));
        files.push(file(disk.extent.clone(), FileKind::Extent, Some(disk.size)));
    }
    files
}

fn file(name: String, kind: FileKind, size: Option<u64>) -> ExportedFile {
    ExportedFile { name, kind, size }
}

/// Why a job cannot do what is asked of it now.
pub(super) fn not_now(state: JobState) -> JobError {
    let message = format!(
        "the job is {}: it can be finished or extended while it serves, its end undone while it is \
         kept, and tried again while it is stuck",
        state.as_str()
    );
    JobError::conflict("not_serving", message)
}

/// When a job expires, on the clock that timers go by.
pub(super) fn until(at: Option<Timestamp>) -> Option<Instant> {
    let left = at?.duration_since(Timestamp::now());
    Some(Instant::now() + Duration::try_from(left).unwrap_or_default())
}

/// Waits until then, or for ever.
pub(super) async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
