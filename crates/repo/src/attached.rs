//! A configured repository from the appliance's start on: opened as soon as it answers.
//!
//! One thread opens it, trying again with growing pauses, and asks an open one whose store does not answer whether it
//! is back. It ends when nobody has the repository any more.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use crate::seal::Passkey;
use crate::store::{Location, Near, Store};
use crate::{RepoError, Repository};

/// The pause after an attempt to open that failed; it doubles up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_AT_MOST: Duration = Duration::from_secs(10);
/// How often an open repository is looked at, and asked if its store did not answer of late.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A repository that may not be open yet. Cheap to clone.
#[derive(Clone)]
pub struct Attached(Arc<Inner>);

struct Inner {
    location: Location,
    seen: watch::Receiver<Seen>,
    /// Dropped with the last of us, which ends the thread.
    _alive: mpsc::Sender<()>,
}

#[derive(Clone)]
enum Seen {
    Opening { since: Timestamp },
    Failed { since: Timestamp, why: Arc<RepoError> },
    Open { since: Timestamp, repository: Repository },
}

/// Whether a repository can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// It has not answered yet.
    Opening,
    /// It is open and answers.
    Ready,
    /// It does not answer; it is asked again by itself.
    Unreachable,
    /// It answers and cannot be opened: a person must look. It is tried again all the same.
    Refused,
}

/// How a repository is, and since when.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Attachment {
    /// Whether it can be read.
    pub state: Reach,
    /// Since when it is so.
    pub since: Timestamp,
    /// Why it cannot be read.
    pub reason: Option<String>,
}

impl From<Repository> for Attached {
    /// One that is open.
    fn from(repository: Repository) -> Self {
        let location = repository.location().clone();
        let seen = Seen::Open { since: Timestamp::now(), repository };
        Self(Arc::new(Inner { location, seen: watch::channel(seen).1, _alive: mpsc::channel().0 }))
    }
}

impl Attached {
    /// Begins to open the repository at `location`, which the log calls `name`. Returns at once.
    pub fn open(
        name: &str,
        location: Location,
        passkey: Option<Passkey>,
        near: Near,
    ) -> Result<Self, RepoError> {
        let (sender, seen) = watch::channel(Seen::Opening { since: Timestamp::now() });
        let (_alive, ended) = mpsc::channel();
        let opener = Opener {
            name: name.to_owned(),
            location: location.clone(),
            passkey,
            near,
            store: None,
            seen: sender,
            ended,
        };
        std::thread::Builder::new()
            .name("attach".into())
            .spawn(move || opener.run())
            .map_err(|e| RepoError::io("start to open a repository", e))?;
        Ok(Self(Arc::new(Inner { location, seen, _alive })))
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.0.location
    }

    /// The repository, or why it is not open. Never waits.
    pub fn get(&self) -> Result<Repository, RepoError> {
        match &*self.0.seen.borrow() {
            Seen::Open { repository, .. } => Ok(repository.clone()),
            Seen::Failed { why, .. } => Err(match why.same() {
                // It is configured: what is missing is not what the caller asked for.
                RepoError::NotFound { what } => {
                    RepoError::refused(format!("{what} does not exist"))
                }
                other => other,
            }),
            Seen::Opening { .. } => Err(RepoError::Unavailable {
                what: "open the repository".into(),
                source: anyhow::anyhow!("it has not answered yet"),
            }),
        }
    }

    /// How it is now.
    pub fn attachment(&self) -> Attachment {
        let (state, since, reason) = match &*self.0.seen.borrow() {
            Seen::Opening { since } => (Reach::Opening, *since, None),
            Seen::Failed { since, why } => {
                let state = match **why {
                    RepoError::Unavailable { .. } => Reach::Unreachable,
                    _ => Reach::Refused,
                };
                (state, *since, Some(why.told()))
            }
            Seen::Open { since, repository } => match repository.store().outage() {
                None => (Reach::Ready, *since, None),
                Some(outage) => (Reach::Unreachable, outage.since, Some(outage.reason)),
            },
        };
        Attachment { state, since, reason }
    }

    /// Returns when the first attempt to open it has ended, well or not.
    pub async fn tried(&self) {
        self.wait_for(|seen| !matches!(seen, Seen::Opening { .. })).await;
    }

    /// Returns when it is open.
    pub async fn opened(&self) {
        self.wait_for(|seen| matches!(seen, Seen::Open { .. })).await;
    }

    async fn wait_for(&self, wanted: impl FnMut(&Seen) -> bool) {
        let mut seen = self.0.seen.clone();
        if seen.wait_for(wanted).await.is_err() {
            // The thread has died: what it did not bring about does not come any more.
            std::future::pending::<()>().await;
        }
    }
}

/// The thread that opens one repository.
struct Opener {
    name: String,
    location: Location,
    passkey: Option<Passkey>,
    near: Near,
    /// Kept over attempts: it knows whether the store answers.
    store: Option<Store>,
    seen: watch::Sender<Seen>,
    ended: mpsc::Receiver<()>,
}

impl Opener {
    fn run(mut self) {
        let mut pause = PAUSE;
        let mut since = None;
        let repository = loop {
            let why = match self.attempt() {
                Ok(repository) => break repository,
                Err(why) => why,
            };
            let first = since.is_none();
            let since = *since.get_or_insert_with(Timestamp::now);
            if first {
                self.log(&why);
            }
            self.seen.send_replace(Seen::Failed { since, why: Arc::new(why) });
            if !self.pause(pause) {
                return;
            }
            pause = (pause * 2).min(PAUSE_AT_MOST);
        };
        if since.is_some() {
            tracing::info!(repository = self.name, "the repository is open");
        }
        self.seen
            .send_replace(Seen::Open { since: Timestamp::now(), repository: repository.clone() });
        while matches!(self.location, Location::S3(_)) && self.pause(LOOK_EVERY) {
            if repository.store().outage().is_some() {
                // The store itself notes whether it answers.
                let _ = repository.ask();
            }
        }
    }

    fn attempt(&mut self) -> Result<Repository, RepoError> {
        let store = match &self.store {
            Some(store) => store.clone(),
            None => self.store.insert(Store::open(&self.location)?).clone(),
        };
        let near = self.near.clone();
        Repository::open_in(store, self.location.clone(), self.passkey.as_ref(), near)
    }

    fn log(&self, why: &RepoError) {
        let (repository, why) = (&self.name, why.told());
        tracing::warn!(repository, "the repository is not open yet, it is tried again: {why}");
    }

    /// False if nobody has the repository any more.
    fn pause(&self, pause: Duration) -> bool {
        self.ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::CreateOptions;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    fn attach(dir: &Path) -> Attached {
        Attached::open("main", dir.into(), None, Near::default()).unwrap()
    }

    #[test]
    fn it_is_opened_once_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("repository");
        let attached = attach(&place);
        block_on(attached.tried());
        let before = attached.attachment();
        assert_eq!(before.state, Reach::Refused);
        assert!(before.reason.unwrap().contains("does not exist"));
        assert!(matches!(attached.get(), Err(RepoError::Refused { .. })));
        let made = Repository::create(&place, &CreateOptions::default()).unwrap();
        block_on(attached.opened());
        assert_eq!(attached.get().unwrap().id(), made.id());
        let now = attached.attachment();
        assert!(now.state == Reach::Ready && now.since >= before.since && now.reason.is_none());
    }

    /// A port where nobody listens: the store is away, and nobody waits for it.
    #[test]
    fn a_store_that_does_not_answer_is_unreachable() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        std::fs::write(&keys, "[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
            .unwrap();
        let mut place = crate::S3Location::new("bucket", "").unwrap();
        place.endpoint = Some(format!("http://127.0.0.1:{port}"));
        place.credentials = crate::S3Credentials::File { path: keys, profile: None };
        let attached = Attached::open("main", place.into(), None, Near::default()).unwrap();
        assert_eq!(attached.attachment().state, Reach::Opening);
        assert!(matches!(attached.get(), Err(RepoError::Unavailable { .. })));
        block_on(attached.tried());
        let seen = attached.attachment();
        assert_eq!(seen.state, Reach::Unreachable);
        assert!(seen.reason.as_ref().unwrap().contains("refused"), "{seen:?}");
        assert!(matches!(attached.get(), Err(RepoError::Unavailable { .. })));
    }

    #[test]
    fn the_thread_ends_with_the_last_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let attached = attach(&dir.path().join("nowhere"));
        block_on(attached.tried());
        let mut seen = attached.0.seen.clone();
        drop(attached);
        // The sender goes with the thread.
        block_on(async { while seen.changed().await.is_ok() {} });
    }
}
