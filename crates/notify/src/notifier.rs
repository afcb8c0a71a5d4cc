use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rekindle_jobs::{Batches, Jobs};
use rekindle_repo::Attached;
use rekindle_state::Database;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::event::{About, News};
use crate::lookout::{Lookout, host_name};
use crate::outbox::{Changes, Outbox};
use crate::view::{ChannelView, TestView};
use crate::{Channel, EventKind, NotifyError, courier};

/// What is looked at.
#[derive(Clone)]
pub struct Sources {
    /// Recoveries, the space for guests' writes, and upkeep.
    pub jobs: Arc<Jobs>,
    /// Many recoveries by one request.
    pub batches: Arc<Batches>,
    /// Repositories by their configured name.
    pub repositories: BTreeMap<String, Attached>,
}

/// Tells the configured channels what happens.
pub struct Notifier {
    outbox: Arc<Outbox>,
    channels: Vec<Arc<Channel>>,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl Notifier {
    /// Reads what waits. Nothing is sent before [`Notifier::run`]. Channels have names of their own.
    pub fn open(db: &Database, channels: Vec<Channel>) -> Result<Arc<Self>, NotifyError> {
        let channels: Vec<_> = channels.into_iter().map(Arc::new).collect();
        let outbox = Arc::new(Outbox::open(db, &channels)?);
        if channels.is_empty() {
            // Whoever configures one later is told what happens from then on.
            let told = outbox.told()?;
            let forgotten: Changes = told.into_keys().map(|key| (key, None)).collect();
            outbox.add(Vec::new(), &forgotten)?;
        }
        let (stop, tasks) = (CancellationToken::new(), Mutex::default());
        Ok(Arc::new(Self { outbox, channels, stop, tasks }))
    }

    /// Begins to look and to deliver, if there is a channel. What happens once this has returned is told.
    pub async fn run(&self, sources: Sources) -> Result<(), NotifyError> {
        if self.channels.is_empty() {
            return Ok(());
        }
        let mut lookout = Lookout::new(Arc::clone(&self.outbox), sources)?;
        lookout.begin().await?;
        let stop = self.stop.clone();
        let mut tasks = self.tasks.lock();
        tasks.spawn(async move {
            stop.run_until_cancelled(lookout.run()).await;
        });
        for channel in &self.channels {
            let (outbox, channel) = (Arc::clone(&self.outbox), Arc::clone(channel));
            tasks.spawn(courier::run(outbox, channel, self.stop.clone()));
        }
        Ok(())
    }

    /// Drops the attempts under way. What waits is sent after the next start.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }

    /// The channels and how each is.
    pub fn channels(&self) -> Vec<ChannelView> {
        self.channels.iter().filter_map(|channel| self.view(channel)).collect()
    }

    fn view(&self, channel: &Channel) -> Option<ChannelView> {
        self.outbox.show(&channel.name, |queue, waiting, due| ChannelView {
            name: channel.name.clone(),
            kind: channel.kind().to_owned(),
            to: channel.to(),
            events: channel.events.clone(),
            waiting: waiting as u64,
            delivered: queue.delivered,
            failed_attempts: queue.failed_attempts,
            given_up: queue.given_up,
            dropped: queue.dropped,
            delivered_at: queue.delivered_at,
            next_try_at: due.map(at),
            last_failure: queue.last_failure.clone(),
        })
    }

    /// Sends a test event to each channel at once and says what came back. It is not kept, and tried once.
    pub async fn test(&self) -> Vec<TestView> {
        let summary = "A test: events of this appliance arrive here".to_owned();
        let event = News::new(EventKind::Test, summary, About::default());
        let event = Arc::new(event.into_event(&host_name()));
        let mut attempts = JoinSet::new();
        for channel in &self.channels {
            let (channel, event) = (Arc::clone(channel), Arc::clone(&event));
            attempts.spawn(async move {
                let sent = channel.send(&event).await;
                let delivered = sent.is_ok();
                let answer = sent.unwrap_or_else(|error| error.to_string());
                TestView { name: channel.name.clone(), delivered, answer }
            });
        }
        let mut results = attempts.join_all().await;
        results.sort_by(|a, b| a.name.cmp(&b.name));
        results
    }
}

/// A moment as people tell it.
fn at(due: Instant) -> Timestamp {
    let left = SignedDuration::try_from(due.saturating_duration_since(Instant::now()));
    let now = Timestamp::now();
    left.ok().and_then(|left| now.checked_add(left).ok()).unwrap_or(now)
}
