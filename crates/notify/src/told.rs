//! What is told of each thing, and what is new about it. Pure: no clock, no I/O.

use rekindle_jobs::{BatchState, BatchView, JobState, JobView, Outcome};
use rekindle_repo::{Attachment, Reach};
use serde::{Deserialize, Serialize};

use crate::event::{About, EventKind, News, Severity, one_line};

/// What is kept of an error, in characters: enough to tell it from the next.
const TROUBLE_MAX: usize = 400;

/// What is told of one thing already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub(crate) enum Told {
    /// From here on changes are told; what was before is not.
    Begun,
    Job(JobTold),
    Batch {
        ended: bool,
    },
    Space {
        alarm_percent: u8,
    },
    Repository {
        away: bool,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobTold {
    started: bool,
    running: bool,
    /// What was in its way.
    trouble: Option<String>,
    end: Option<EventKind>,
}

impl JobTold {
    /// Takes a look in; what is new.
    pub(crate) fn look(&mut self, job: &JobView) -> Vec<News> {
        let before = self.clone();
        self.started = true;
        self.running |= job.serving_since.is_some();
        self.trouble = trouble(job);
        if job.state == JobState::Serving {
            // Its end may have been undone.
            self.end = None;
        }
        self.end = self.end.or_else(|| end(job));
        let trouble = self.trouble.is_some() && self.trouble != before.trouble;
        let kinds = [
            (!before.started).then_some(EventKind::JobStarted),
            (self.running && !before.running).then_some(EventKind::JobRunning),
            trouble.then_some(EventKind::JobAttention),
            self.end.filter(|end| before.end != Some(*end)),
        ];
        let new = kinds.into_iter().flatten();
        new.map(|kind| News::new(kind, summary(kind, job), About::job(job))).collect()
    }
}

/// What is in the way of a job that goes on, in a form that tells one from the next.
fn trouble(job: &JobView) -> Option<String> {
    if job.state.is_final() {
        return None;
    }
    if let Some(obstacle) = &job.obstacle {
        return Some(format!("obstacle since {}", obstacle.since));
    }
    // A job that serves with an error: its migration failed.
    let error = job.error.as_ref().filter(|_| job.state == JobState::Serving)?;
    Some(one_line(&format!("error {}: {}", error.code, error.message), TROUBLE_MAX))
}

fn end(job: &JobView) -> Option<EventKind> {
    match (job.state, job.outcome) {
        (JobState::Completed | JobState::Kept, Some(Outcome::Expired)) => {
            Some(EventKind::JobExpired)
        }
        (JobState::Completed, _) => Some(EventKind::JobDone),
        (JobState::Cancelled, _) => Some(EventKind::JobCancelled),
        (JobState::Failed, _) => Some(EventKind::JobFailed),
        (
            JobState::Queued
            | JobState::Starting
            | JobState::Serving
            | JobState::Migrating
            | JobState::CleaningUp
            | JobState::Kept
            | JobState::Stuck,
            _,
        ) => None,
    }
}

fn summary(kind: EventKind, job: &JobView) -> String {
    let (name, vm) = (&job.name, &job.vm);
    let why = job.obstacle.as_ref().map(|obstacle| &obstacle.error).or(job.error.as_ref());
    let why = why.map_or("", |error| error.message.as_str());
    match kind {
        EventKind::JobStarted => format!("Recovery of {vm} as {name} was started"),
        EventKind::JobRunning => format!("{name} runs from the appliance"),
        EventKind::JobAttention => format!("Recovery of {name} needs attention: {why}"),
        EventKind::JobFailed => format!("Recovery of {vm} as {name} failed: {why}"),
        EventKind::JobExpired => format!("{name} reached its time limit and is served no more"),
        EventKind::JobCancelled => format!("Recovery of {name} was cancelled"),
        _ => match (&job.migrated_to, job.outcome) {
            (Some(to), _) => format!("{name} is where it stays: {to}"),
            (None, Some(Outcome::Discarded)) => format!("{name} was discarded"),
            (None, _) => format!("Recovery of {name} is done"),
        },
    }
}

/// What is new about a batch.
pub(crate) fn batch(ended: &mut bool, batch: &BatchView) -> Option<News> {
    if batch.finished_at.is_none() {
        // One that was halted may go on, and end again.
        *ended = false;
        return None;
    }
    if *ended {
        return None;
    }
    *ended = true;
    let name = batch.name.as_deref().unwrap_or(batch.id.as_str());
    let (kind, summary) = match batch.state {
        BatchState::Running => return None,
        BatchState::Completed => (EventKind::BatchDone, format!("All of batch {name} is up")),
        BatchState::Incomplete => {
            (EventKind::BatchHalted, format!("Batch {name} ended, and not all of it is up"))
        }
        BatchState::Halted => {
            (EventKind::BatchHalted, format!("Batch {name} was halted: a group is not up"))
        }
        BatchState::Cancelled => (EventKind::BatchHalted, format!("Batch {name} was cancelled")),
    };
    let about = About { batch: Some(batch.id.clone()), ..About::default() };
    Some(News::new(kind, summary, about))
}

/// What is new about the space for guests' writes: `now` is the alarm as percent left, 0 for none.
pub(crate) fn space(told: &mut u8, now: u8, left_bytes: u64) -> Option<News> {
    let before = std::mem::replace(told, now);
    let about = |percent| About { alarm_percent: Some(percent), ..About::default() };
    if now != 0 && (before == 0 || now < before) {
        let left = left_bytes >> 20;
        let summary = format!("Less than {now} % is left for guests' writes: {left} MiB");
        let mut news = News::new(EventKind::SpaceLow, summary, about(now));
        if now <= 5 {
            news.severity = Severity::Error;
        }
        return Some(news);
    }
    let summary = || format!("More than {before} % is left for guests' writes again");
    (now == 0 && before != 0).then(|| News::new(EventKind::SpaceBack, summary(), about(before)))
}

/// What is new about a repository.
pub(crate) fn repository(away: &mut bool, name: &str, now: &Attachment) -> Option<News> {
    let about = About { repository: Some(name.to_owned()), ..About::default() };
    let gone = match now.state {
        Reach::Opening => return None,
        Reach::Ready => false,
        Reach::Unreachable | Reach::Refused => true,
    };
    if std::mem::replace(away, gone) == gone {
        return None;
    }
    let why = now.reason.as_deref().unwrap_or_default();
    Some(match gone {
        true => {
            let summary = format!("Repository {name} cannot be read: {why}");
            News::new(EventKind::RepositoryAway, summary, about)
        }
        false => {
            News::new(EventKind::RepositoryBack, format!("Repository {name} can be read"), about)
        }
    })
}

/// A check that found damage.
pub(crate) fn damage(name: &str, points: u64, problems: u64) -> News {
    let about = About { repository: Some(name.to_owned()), ..About::default() };
    let summary = format!(
        "A check of repository {name} found {problems} problems; {points} points are damaged"
    );
    News::new(EventKind::CheckDamaged, summary, about)
}

#[cfg(test)]
mod tests;
