//! Following a job by its event stream until something is true of it.

use std::{io::IsTerminal, time::Duration};

use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use rekindle_jobs::{JobState, JobView, StepState};
use tokio::time::{Instant, sleep, timeout};

use super::{
    http::{Daemon, job_path},
    job,
};
use crate::exit::{Failure, Kind};

/// The stream writes at least every 15 s; after this much silence it is opened again.
const SILENCE: Duration = Duration::from_secs(45);
/// How long an appliance that does not answer is asked again: a restart takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two such attempts.
const AGAIN: Duration = Duration::from_millis(500);
/// The largest event that is read; a job with everything in it is far below.
const EVENT_MAX: usize = 8 << 20;

/// Whether the VM is served, or never will be.
pub(super) fn serves(job: &JobView) -> bool {
    match job.state {
        JobState::Serving | JobState::Migrating | JobState::Stuck => true,
        JobState::Kept | JobState::Completed | JobState::Cancelled | JobState::Failed => true,
        JobState::Queued | JobState::Starting | JobState::CleaningUp => false,
    }
}

/// Whether the job has ended, or waits for a person.
pub(super) fn ended(job: &JobView) -> bool {
    job.state.is_final() || matches!(job.state, JobState::Stuck | JobState::Kept)
}

/// The exit status that a job's state means.
pub(super) fn verdict(job: &JobView) -> Result<(), Failure> {
    let bad = matches!(job.state, JobState::Failed | JobState::Cancelled | JobState::Stuck);
    if !bad {
        return Ok(());
    }
    let why = job.error.as_ref().map(|e| format!(": {}", e.message)).unwrap_or_default();
    Err(Failure::said(Kind::JobFailed, format!("job {} is {}{why}", job.id, job.state.as_str())))
}

/// After a cancel: fine if the job was cancelled.
pub(super) async fn cancelled(daemon: &Daemon, id: &str) -> Result<(), Failure> {
    let job: JobView = daemon.get(&job_path(id)?, &[]).await?;
    if job.state == JobState::Cancelled { Ok(()) } else { verdict(&job) }
}

/// Follows a job until `done`, through restarts of the appliance.
pub(super) async fn until(
    daemon: &Daemon,
    id: &str,
    done: fn(&JobView) -> bool,
    shown: bool,
) -> Result<JobView, Failure> {
    let mut display = Display::new(shown);
    let mut heard = Instant::now();
    loop {
        match once(daemon, id, done, &mut display, &mut heard).await {
            Ok(Some(job)) => return Ok(job),
            Ok(None) => {}
            Err(e) if e.kind != Kind::Unavailable || heard.elapsed() > PATIENCE => return Err(e),
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
}

/// One stream, until `done` or until it breaks.
async fn once(
    daemon: &Daemon,
    id: &str,
    done: fn(&JobView) -> bool,
    display: &mut Display,
    heard: &mut Instant,
) -> Result<Option<JobView>, Failure> {
    let path = format!("{}/events", job_path(id)?);
    let mut stream = daemon.stream(&path).await?.bytes_stream();
    let mut buffer = Vec::new();
    while let Ok(Some(Ok(piece))) = timeout(SILENCE, stream.next()).await {
        *heard = Instant::now();
        buffer.extend_from_slice(&piece);
        while let Some(event) = take_event(&mut buffer) {
            let Some(job) = parse(&event)? else { continue };
            display.show(&job);
            if done(&job) {
                return Ok(Some(job));
            }
        }
        if buffer.len() > EVENT_MAX {
            return Err(Failure::said(Kind::Failed, "an event of the appliance is too long"));
        }
    }
    Ok(None)
}

/// Cuts the first whole event (up to the empty line) off the buffer.
fn take_event(buffer: &mut Vec<u8>) -> Option<String> {
    let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
    let event: Vec<u8> = buffer.drain(..end + 2).collect();
    Some(String::from_utf8_lossy(&event).into_owned())
}

/// The job in an event; keep-alives and the end carry none.
fn parse(event: &str) -> Result<Option<JobView>, Failure> {
    if !event.lines().any(|line| line.trim_end() == "event: job") {
        return Ok(None);
    }
    let data: Vec<_> = event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    serde_json::from_str(&data.join("\n"))
        .map(Some)
        .map_err(|e| Failure::from(anyhow::Error::from(e).context("read an event of the job")))
}

/// What a person sees meanwhile: a bar on a terminal, a line for each change elsewhere.
struct Display {
    shown: bool,
    bar: Option<ProgressBar>,
    last: String,
}

impl Display {
    fn new(shown: bool) -> Self {
        let bar = (shown && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::default_spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { shown, bar, last: String::new() }
    }

    fn show(&mut self, job: &JobView) {
        if let Some(bar) = &self.bar {
            bar.set_message(doing(job, true));
        } else if self.shown {
            let line = doing(job, false);
            if line != self.last {
                eprintln!("{line}");
                self.last = line;
            }
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The job's state, the step under way and, where there is room for changing text, its progress.
fn doing(job: &JobView, moving: bool) -> String {
    let under_way = |state| matches!(state, StepState::Running | StepState::Undoing);
    let step = job.steps.iter().find(|step| under_way(step.state));
    let mut text = job.state.as_str().to_owned();
    if let Some(step) = step {
        text.push_str(&format!(": {}", job::step_name(step)));
    }
    match &job.progress {
        Some(now) if moving => text.push_str(&format!(", {}", job::progress(now))),
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_at_empty_lines() {
        let mut buffer = b": keep\n\nevent: end\ndata: {}\n\nevent: jo".to_vec();
        assert_eq!(take_event(&mut buffer).as_deref(), Some(": keep\n\n"));
        let end = take_event(&mut buffer).unwrap();
        assert!(parse(&end).unwrap().is_none());
        assert_eq!(take_event(&mut buffer), None);
        assert_eq!(buffer, b"event: jo");
        assert!(parse("event: job\ndata: {\"bad\":1}\n\n").is_err());
    }
}
