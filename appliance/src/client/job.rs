use jiff::Timestamp;
use rekindle_jobs::{ErrorView, JobView, Phase, Progress, StepState, StepView};

use super::table::{bytes, printable, seconds};

/// What matters most about a job, in a few words.
pub(super) fn note(job: &JobView) -> String {
    if let Some(error) = &job.error {
        return error.message.clone();
    }
    if let Some(waits) = &job.waits_for {
        return format!("waits for {waits}");
    }
    if let Some(now) = &job.progress {
        return progress(now);
    }
    match (&job.migrated_to, &job.export) {
        (Some(to), _) => format!("moved to {to}"),
        (None, Some(export)) if !job.state.is_final() => {
            export.url.clone().unwrap_or_else(|| format!("{}/{}", export.path, export.folder))
        }
        _ => String::new(),
    }
}

/// One line of progress: `copy 41 %, 4.1 GiB of 10.0 GiB, 512.0 MiB/s, 12 s to go`.
pub(super) fn progress(now: &Progress) -> String {
    let share = (now.done_bytes.saturating_mul(100)).checked_div(now.total_bytes).unwrap_or(0);
    let eta = now.eta_seconds.map(|left| format!(", {} to go", seconds(left))).unwrap_or_default();
    format!(
        "{} {share} %, {} of {}, {}/s{eta}",
        phase(now.phase),
        bytes(now.done_bytes),
        bytes(now.total_bytes),
        bytes(now.rate_bytes_per_second),
    )
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Warm => "warm",
        Phase::Relocate => "relocate",
        Phase::Copy => "copy",
        Phase::Verify => "verify",
        Phase::Settle => "settle",
    }
}

/// Prints a job with its steps and what it serves.
pub(super) fn print(job: &JobView) {
    println!("{}  {}  {}", job.id, job.state.as_str(), printable(&job.name));
    println!("  of {} ({} in {})", printable(&job.vm), job.point, printable(&job.repository));
    if let Some(source) = &job.request.from_job {
        println!("  as job {source} had it");
    }
    if let Some(waits) = &job.waits_for {
        println!("  waits for {}", printable(waits));
    }
    for step in &job.steps {
        println!("  {}", step_line(step));
    }
    if let Some(now) = &job.progress {
        println!("  {}", progress(now));
    }
    print_export(job);
    if let Some(at) = job.expires_at.filter(|_| !job.state.is_final()) {
        println!("  ends by itself at {}", at.strftime("%Y-%m-%d %H:%M:%SZ"));
    }
    if let Some(to) = &job.migrated_to {
        println!("  moved to {}", printable(to));
    }
    if let Some(until) = job.kept_until {
        println!("  what its guest wrote is kept until {}", until.strftime("%Y-%m-%d %H:%M:%SZ"));
    }
    if let Some(obstacle) = &job.obstacle {
        println!(
            "  in its way since {}, tried {} times, again at {}",
            obstacle.since.strftime("%H:%M:%SZ"),
            obstacle.tries,
            obstacle.next_try_at.strftime("%H:%M:%SZ")
        );
    }
    if let Some(error) = &job.error {
        println!("  problem: {}", error_text(error));
    }
}

fn print_export(job: &JobView) {
    let Some(export) = job.export.as_ref().filter(|_| !job.state.is_final()) else { return };
    let server = export.server.as_deref().unwrap_or("THIS-APPLIANCE");
    println!("  served at {server}:{} in folder {}", export.path, printable(&export.folder));
    for file in &export.files {
        let size = file.size.map(bytes).unwrap_or_default();
        println!("    {size:>10}  {}", printable(&file.name));
    }
}

/// One step: mark, name, how long it took, what went wrong.
pub(super) fn step_line(step: &StepView) -> String {
    let mark = match (step.state, &step.error) {
        (_, Some(_)) => "!",
        (StepState::Pending, None) => " ",
        (StepState::Running | StepState::Undoing, None) => ">",
        (StepState::Done, None) => "*",
        (StepState::Undone, None) => "<",
    };
    let took = match (step.started_at, step.finished_at) {
        (Some(from), Some(to)) => format!("  {}", millis(from, to)),
        _ => String::new(),
    };
    let error = step.error.as_ref().map(|e| format!("  {}", error_text(e))).unwrap_or_default();
    format!("{mark} {}{took}{error}", step_name(step))
}

/// A step's name as the API spells it.
pub(super) fn step_name(step: &StepView) -> String {
    match serde_json::to_value(step.name) {
        Ok(serde_json::Value::String(name)) => name.replace('_', " "),
        _ => format!("{:?}", step.name),
    }
}

fn error_text(error: &ErrorView) -> String {
    format!("{} ({})", printable(&error.message), printable(&error.code))
}

fn millis(from: Timestamp, to: Timestamp) -> String {
    let millis = to.as_millisecond() - from.as_millisecond();
    if millis < 10_000 { format!("{millis} ms") } else { format!("{} s", millis / 1000) }
}
