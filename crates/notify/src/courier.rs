//! One task for each channel: takes what is due out of the outbox, once the channel has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::outbox::{Due, Outbox};
use crate::{Channel, NotifyError};

/// Until what could not be noted is noted again.
const NOTED_AGAIN: Duration = Duration::from_secs(2);

/// Delivers until `stop`.
pub(crate) async fn run(outbox: Arc<Outbox>, channel: Arc<Channel>, stop: CancellationToken) {
    let news = outbox.news(&channel.name);
    let mut courier = Courier { outbox, channel, failing: false };
    let deliver = async {
        loop {
            match courier.outbox.next(&courier.channel.name) {
                Some(due) if due.at <= Instant::now() => courier.attempt(due).await,
                // Who is woken twice looks twice.
                Some(later) => tokio::select! {
                    () = sleep_until(later.at) => {}
                    () = news.notified() => {}
                },
                None => news.notified().await,
            }
        }
    };
    stop.run_until_cancelled(deliver).await;
}

struct Courier {
    outbox: Arc<Outbox>,
    channel: Arc<Channel>,
    /// The last attempt failed, which was said.
    failing: bool,
}

impl Courier {
    async fn attempt(&mut self, due: Due) {
        let sent = self.channel.send(&due.event).await;
        let name = self.channel.name.as_str();
        match &sent {
            Ok(_) if self.failing => tracing::info!(channel = name, "events are delivered again"),
            Err(error) if !self.failing => {
                tracing::warn!(channel = name, "cannot deliver events, trying on: {error}");
            }
            Ok(_) | Err(_) => {}
        }
        self.failing = sent.is_err();
        let failure = sent.err().map(|error| error.to_string());
        self.note(due.number, failure).await;
    }

    /// Goes on until it is noted: what was delivered is not sent again because the disk is full.
    async fn note(&self, number: u64, failure: Option<String>) {
        let mut said = false;
        while let Err(error) = self.try_note(number, failure.clone()).await {
            if !said {
                let channel = self.channel.name.as_str();
                tracing::warn!(channel, "cannot note what became of an event: {error}");
                said = true;
            }
            sleep(NOTED_AGAIN).await;
        }
    }

    async fn try_note(&self, number: u64, failure: Option<String>) -> Result<(), NotifyError> {
        let (outbox, name) = (Arc::clone(&self.outbox), self.channel.name.clone());
        let noted = tokio::task::spawn_blocking(move || match failure {
            None => outbox.delivered(&name, number),
            Some(reason) => outbox.failed(&name, number, reason),
        });
        noted.await.unwrap_or_else(|e| Err(NotifyError::undelivered(&e)))
    }
}
