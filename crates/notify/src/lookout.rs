//! One task that looks at everything once a second, and decides what is to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};

use crate::event::News;
use crate::notifier::Sources;
use crate::outbox::{Changes, Outbox};
use crate::told::{self, JobTold, Told};
use crate::{Event, NotifyError};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The note that changes are told from here on.
const BEGUN: &str = "begun";

pub(crate) struct Lookout {
    outbox: Arc<Outbox>,
    sources: Sources,
    appliance: String,
    told: BTreeMap<String, Told>,
    /// When the last check of each repository that was looked at ended. What a check found since the start is shown.
    checks: BTreeMap<String, Timestamp>,
    /// The last decision could not be kept, which was said.
    failing: bool,
}

/// What one look finds.
#[derive(Default)]
struct Found {
    news: Vec<News>,
    changes: Changes,
    checks: BTreeMap<String, Timestamp>,
    seen: BTreeSet<String>,
}

impl Found {
    fn take(
        &mut self,
        key: String,
        before: Option<&Told>,
        now: Told,
        news: impl IntoIterator<Item = News>,
    ) {
        if before != Some(&now) {
            self.changes.insert(key.clone(), Some(now));
        }
        self.news.extend(news);
        self.seen.insert(key);
    }
}

impl Lookout {
    pub(crate) fn new(outbox: Arc<Outbox>, sources: Sources) -> Result<Self, NotifyError> {
        let told = outbox.told()?;
        let checks = BTreeMap::new();
        Ok(Self { outbox, sources, appliance: host_name(), told, checks, failing: false })
    }

    /// The first look: what changes after it is told.
    pub(crate) async fn begin(&mut self) -> Result<(), NotifyError> {
        let found = self.look();
        self.keep(found).await
    }

    /// Looks until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let found = self.look();
            let kept = self.keep(found).await;
            if let Err(error) = &kept
                && !self.failing
            {
                tracing::error!("cannot keep what is to be told, trying on: {error}");
            }
            self.failing = kept.is_err();
        }
    }

    fn look(&self) -> Found {
        let mut found = Found::default();
        self.sources.jobs.visit(|job| {
            let key = format!("job/{}", job.id);
            let before = self.told.get(&key);
            let mut told = match before {
                Some(Told::Job(told)) => told.clone(),
                _ => JobTold::default(),
            };
            let news = told.look(job);
            found.take(key, before, Told::Job(told), news);
        });
        for batch in self.sources.batches.list() {
            let key = format!("batch/{}", batch.id);
            let before = self.told.get(&key);
            let mut ended = matches!(before, Some(Told::Batch { ended: true }));
            let news = told::batch(&mut ended, &batch);
            found.take(key, before, Told::Batch { ended }, news);
        }
        if !self.told.contains_key(BEGUN) {
            // How recoveries stood before is no news.
            found.news.clear();
        }
        found.take(BEGUN.into(), self.told.get(BEGUN), Told::Begun, None);
        self.look_at_space(&mut found);
        self.look_at_repositories(&mut found);
        let gone = self.told.keys().filter(|key| !found.seen.contains(*key));
        found.changes.extend(gone.map(|key| (key.clone(), None)));
        found
    }

    fn look_at_space(&self, found: &mut Found) {
        let before = self.told.get("space");
        let mut alarm_percent = match before {
            Some(Told::Space { alarm_percent }) => *alarm_percent,
            _ => 0,
        };
        let now = self.sources.jobs.space();
        let news = told::space(&mut alarm_percent, now.alarm_percent, now.left_bytes);
        found.take("space".into(), before, Told::Space { alarm_percent }, news);
    }

    fn look_at_repositories(&self, found: &mut Found) {
        for (name, attached) in &self.sources.repositories {
            let key = format!("repository/{name}");
            let before = self.told.get(&key);
            let mut away = matches!(before, Some(Told::Repository { away: true }));
            let news = told::repository(&mut away, name, &attached.attachment());
            found.take(key, before, Told::Repository { away }, news);
            // What has no upkeep has no checks.
            let check = self.sources.jobs.upkeep(name).ok().and_then(|upkeep| upkeep.check);
            let Some(check) = check else { continue };
            let report = check.report.filter(|report| !report.is_sound());
            if let Some(report) = report
                && self.checks.get(name) != Some(&check.ended_at)
            {
                found.news.push(told::damage(name, report.damaged_points, report.problem_count));
            }
            found.checks.insert(name.clone(), check.ended_at);
        }
    }

    /// Makes durable what was decided; what could not be is decided again at the next look.
    async fn keep(&mut self, found: Found) -> Result<(), NotifyError> {
        let Found { news, changes, checks, .. } = found;
        if !news.is_empty() || !changes.is_empty() {
            let events: Vec<Event> =
                news.into_iter().map(|one| one.into_event(&self.appliance)).collect();
            let (outbox, kept) = (Arc::clone(&self.outbox), changes.clone());
            let added = tokio::task::spawn_blocking(move || outbox.add(events, &kept)).await;
            added.unwrap_or_else(|e| Err(NotifyError::undelivered(&e)))?;
        }
        self.checks = checks;
        for (key, told) in changes {
            match told {
                Some(told) => _ = self.told.insert(key, told),
                None => _ = self.told.remove(&key),
            }
        }
        Ok(())
    }
}

/// This machine's name.
pub(crate) fn host_name() -> String {
    // The first is not there in a unit that sees of /proc what is of processes alone.
    let names = ["/proc/sys/kernel/hostname", "/etc/hostname"].map(std::fs::read_to_string);
    let mut names = names.into_iter().flatten().map(|name| name.trim().to_owned());
    names.find(|name| !name.is_empty()).unwrap_or_else(|| "rekindle".to_owned())
}
