use jiff::Timestamp;
use rekindle_jobs::{JobId, JobState, JobView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest summary, in characters.
const SUMMARY_MAX: usize = 300;
/// The longest name of a VM or recovery point in it.
const NAME_MAX: usize = 150;

/// What happened.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A recovery was accepted.
    JobStarted,
    /// Its VM runs, or may be run, from the export.
    JobRunning,
    /// It cannot get past something, or its migration failed: a person should look.
    JobAttention,
    /// It could not be done.
    JobFailed,
    /// It ended as it should: migrated, or discarded.
    JobDone,
    /// It was ended by its time limit.
    JobExpired,
    /// It was taken back.
    JobCancelled,
    /// All groups of a batch are up.
    BatchDone,
    /// A batch ended otherwise.
    BatchHalted,
    /// Less than 20, 10 or 5 % is left for guests' writes.
    SpaceLow,
    /// The last such alarm is taken back.
    SpaceBack,
    /// A check found damage in a repository.
    CheckDamaged,
    /// A repository does not answer, or cannot be opened.
    RepositoryAway,
    /// It answers again.
    RepositoryBack,
    /// Somebody tries whether events arrive.
    Test,
}

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Info,
    /// It went on, degraded.
    Warning,
    /// A person must look.
    Error,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::JobStarted,
        Self::JobRunning,
        Self::JobAttention,
        Self::JobFailed,
        Self::JobDone,
        Self::JobExpired,
        Self::JobCancelled,
        Self::BatchDone,
        Self::BatchHalted,
        Self::SpaceLow,
        Self::SpaceBack,
        Self::CheckDamaged,
        Self::RepositoryAway,
        Self::RepositoryBack,
        Self::Test,
    ];

    /// The kind as it is spelled everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JobStarted => "job_started",
            Self::JobRunning => "job_running",
            Self::JobAttention => "job_attention",
            Self::JobFailed => "job_failed",
            Self::JobDone => "job_done",
            Self::JobExpired => "job_expired",
            Self::JobCancelled => "job_cancelled",
            Self::BatchDone => "batch_done",
            Self::BatchHalted => "batch_halted",
            Self::SpaceLow => "space_low",
            Self::SpaceBack => "space_back",
            Self::CheckDamaged => "check_damaged",
            Self::RepositoryAway => "repository_away",
            Self::RepositoryBack => "repository_back",
            Self::Test => "test",
        }
    }

    /// How much it matters.
    pub fn severity(self) -> Severity {
        match self {
            Self::JobStarted
            | Self::JobRunning
            | Self::JobDone
            | Self::JobExpired
            | Self::JobCancelled
            | Self::BatchDone
            | Self::SpaceBack
            | Self::RepositoryBack
            | Self::Test => Severity::Info,
            Self::BatchHalted | Self::SpaceLow | Self::RepositoryAway => Severity::Warning,
            Self::JobAttention | Self::JobFailed | Self::CheckDamaged => Severity::Error,
        }
    }
}

impl Severity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// A recovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobAbout>,
    /// A batch's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<JobId>,
    /// A repository's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Percent left for guests' writes that the alarm stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm_percent: Option<u8>,
}

/// A recovery, as an event names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobAbout {
    /// Which job.
    pub id: JobId,
    /// The recovered VM's name.
    pub name: String,
    /// The backed-up VM's name.
    pub vm: String,
    /// The recovery point.
    pub point: String,
    /// Where the job stood.
    pub state: JobState,
}

impl About {
    pub(crate) fn job(job: &JobView) -> Self {
        let about = JobAbout {
            id: job.id.clone(),
            name: job.name.clone(),
            vm: one_line(&job.vm, NAME_MAX),
            point: one_line(&job.point, NAME_MAX),
            state: job.state,
        };
        Self { job: Some(about), repository: Some(job.repository.clone()), ..Self::default() }
    }
}

/// Something that happened, as it is sent: the body of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The same at each attempt, and no other event's: 32 hexadecimal digits.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// How much it matters.
    pub severity: Severity,
    /// When it was seen.
    pub at: Timestamp,
    /// The appliance's host name.
    pub appliance: String,
    /// One line for people.
    pub summary: String,
    /// What it is about.
    #[serde(flatten)]
    pub about: About,
}

/// What is to be told, before it is an event of this appliance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) kind: EventKind,
    pub(crate) severity: Severity,
    pub(crate) summary: String,
    pub(crate) about: About,
}

impl News {
    pub(crate) fn new(kind: EventKind, summary: String, about: About) -> Self {
        Self { kind, severity: kind.severity(), summary, about }
    }

    pub(crate) fn into_event(self, appliance: &str) -> Event {
        let mut id = [0; 16];
        // Without randomness ids would repeat: the time keeps them apart then.
        if getrandom::fill(&mut id).is_err() {
            id = Timestamp::now().as_nanosecond().to_be_bytes();
        }
        Event {
            id: hex::encode(id),
            kind: self.kind,
            severity: self.severity,
            at: Timestamp::now(),
            appliance: appliance.to_owned(),
            summary: one_line(&self.summary, SUMMARY_MAX),
            about: self.about,
        }
    }
}

/// Text from elsewhere, as one line of at most so many characters.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_spelled_alike_everywhere() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn a_summary_is_one_short_line() {
        let news = News::new(EventKind::Test, "a\r\nBcc: x\u{1b}".repeat(100), About::default());
        let event = news.into_event("here");
        assert_eq!(event.summary.chars().count(), SUMMARY_MAX);
        assert!(!event.summary.contains(char::is_control), "{:?}", event.summary);
        assert_eq!(event.id.len(), 32);
    }
}
