//! Calls that come again: replies kept for those that must not be done twice, and the order of WRITEs.
//!
//! A client that got no reply sends its call again with the same xid, often over a new connection from another port.
//! The key of a call is the client's address, xid, procedure, credential and all of the arguments. It counts as sent
//! again if it comes over the connection of the first, or that one is closed or made no call since, or the new one was
//! opened after the first came, or a second has passed. Two live connections of one host may use the same xid for two
//! calls; so one that comes within that second over another connection waits for it to pass: if the first connection is
//! closed meanwhile, it was sent again.
//!
//! # Bounds
//!
//! Replies are kept for 15 minutes and up to `replay_bytes`; the oldest go first.

mod write_log;

pub(crate) use write_log::{Seen, WriteLog, write_key};

use crate::export::CallKey;
use crate::rpc::{Call, Credential};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

const KEPT: Duration = Duration::from_secs(15 * 60);
/// What an entry takes beside its reply.
const OVERHEAD: usize = 200;
/// From this age on a call over another live connection of the client is taken for the same.
const SETTLED: Duration = Duration::from_secs(1);

/// The replies that are kept.
#[derive(Clone)]
pub(crate) struct Drc(Arc<Mutex<Kept>>, Arc<Notify>);

struct Kept {
    limit: usize,
    bytes: usize,
    entries: HashMap<CallKey, Entry>,
    /// Keys of finished calls, oldest first.
    order: VecDeque<(Instant, CallKey)>,
    /// The connections that are open, and how many calls each has made.
    open: HashMap<u64, Arc<AtomicU64>>,
    /// The newest connection's number.
    newest: u64,
}

struct Entry {
    connection: u64,
    /// How many calls that connection had made when the call came, this one among them.
    calls: u64,
    /// The newest connection when the call came.
    newest: u64,
    came: Instant,
    state: State,
}

enum State {
    Running(Vec<oneshot::Sender<Bytes>>),
    Done(Bytes),
}

/// What is known of a call.
pub(crate) enum Begun {
    /// It was done: this was its reply.
    Done(Bytes),
    /// It is being done.
    Running(oneshot::Receiver<Bytes>),
    /// The same came a moment ago over another connection that is open.
    Unsure,
    /// It is new; the ticket is for who does it.
    New(oneshot::Receiver<Bytes>, Ticket),
}

/// The duty to finish a call. Dropped without, those who wait get nothing and the call may be done again.
pub(crate) struct Ticket {
    drc: Drc,
    /// None where two connections use one key at a time: then only the waiter is told.
    key: Option<CallKey>,
    alone: Option<oneshot::Sender<Bytes>>,
}

impl Drc {
    pub(crate) fn new(limit: usize) -> Self {
        let kept = Mutex::new(Kept {
            limit,
            bytes: 0,
            entries: HashMap::new(),
            order: VecDeque::new(),
            open: HashMap::new(),
            newest: 0,
        });
        Self(Arc::new(kept), Arc::default())
    }

    /// A connection was opened. Numbers go up.
    pub(crate) fn opened(&self, connection: u64, calls: Arc<AtomicU64>) {
        let mut kept = self.0.lock();
        kept.open.insert(connection, calls);
        kept.newest = kept.newest.max(connection);
    }

    pub(crate) fn closed(&self, connection: u64) {
        self.0.lock().open.remove(&connection);
        self.1.notify_waiters();
    }

    /// What to do with a call that was [`Begun::Unsure`]: waits until that is known.
    pub(crate) async fn settle(&self, key: CallKey, connection: u64) -> Begun {
        let settled = timeout(SETTLED, async {
            loop {
                let mut closed = std::pin::pin!(self.1.notified());
                closed.as_mut().enable();
                match self.begin(key, connection) {
                    Begun::Unsure => closed.await,
                    begun => return begun,
                }
            }
        });
        settled.await.unwrap_or_else(|_| {
            let (sender, receiver) = oneshot::channel();
            let ticket = Ticket { drc: self.clone(), key: None, alone: Some(sender) };
            Begun::New(receiver, ticket)
        })
    }

    /// Looks a call up and, if it is new, notes that it is being done.
    pub(crate) fn begin(&self, key: CallKey, connection: u64) -> Begun {
        let mut kept = self.0.lock();
        let (sender, receiver) = oneshot::channel();
        let again = kept.entries.get(&key).map(|entry| {
            entry.connection == connection
                || kept.calls(entry.connection).is_none_or(|calls| calls == entry.calls)
                || connection > entry.newest
                || entry.came.elapsed() >= SETTLED
        });
        match (again, kept.entries.get_mut(&key)) {
            (Some(true), Some(entry)) => match &mut entry.state {
                State::Done(reply) => Begun::Done(reply.clone()),
                State::Running(waiting) => {
                    waiting.push(sender);
                    Begun::Running(receiver)
                }
            },
            (Some(false), _) => Begun::Unsure,
            _ => {
                let state = State::Running(vec![sender]);
                let newest = kept.newest;
                let calls = kept.calls(connection).unwrap_or(0);
                let entry = Entry { connection, calls, newest, came: Instant::now(), state };
                kept.entries.insert(key, entry);
                Begun::New(receiver, Ticket { drc: self.clone(), key: Some(key), alone: None })
            }
        }
    }
}

impl Ticket {
    /// The call was done, with this reply.
    pub(crate) fn finish(mut self, reply: Bytes) {
        if let Some(alone) = self.alone.take() {
            // Who waited may have hung up; so below.
            let _ = alone.send(reply.clone());
        }
        let Some(key) = self.key.take() else { return };
        let waiting = self.drc.0.lock().finish(key, reply.clone());
        for waiter in waiting {
            let _ = waiter.send(reply.clone());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.drc.0.lock().entries.remove(&key);
        }
    }
}

impl Kept {
    /// How many calls a connection has made, if it is open.
    fn calls(&self, connection: u64) -> Option<u64> {
        self.open.get(&connection).map(|calls| calls.load(Ordering::Relaxed))
    }

    fn finish(&mut self, key: CallKey, reply: Bytes) -> Vec<oneshot::Sender<Bytes>> {
        let Some(entry) = self.entries.get_mut(&key) else { return Vec::new() };
        self.bytes += reply.len() + OVERHEAD;
        let was = std::mem::replace(&mut entry.state, State::Done(reply));
        self.order.push_back((Instant::now(), key));
        self.expire();
        match was {
            State::Running(waiting) => waiting,
            State::Done(_) => Vec::new(),
        }
    }

    fn expire(&mut self) {
        while let Some((at, key)) = self.order.front()
            && (self.bytes > self.limit || at.elapsed() > KEPT)
        {
            if let Some(Entry { state: State::Done(reply), .. }) = self.entries.remove(key) {
                self.bytes -= reply.len() + OVERHEAD;
            }
            self.order.pop_front();
        }
    }
}

/// The key of a call.
pub(crate) fn call_key(secret: &[u8; 32], client: IpAddr, call: &Call<'_>) -> CallKey {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    match client.to_canonical() {
        IpAddr::V4(ip) => hasher.update(&ip.octets()),
        IpAddr::V6(ip) => hasher.update(&ip.octets()),
    };
    for word in [call.xid, call.program, call.version, call.procedure] {
        hasher.update(&word.to_be_bytes());
    }
    if let Credential::Sys { uid, gid, .. } = &call.credential {
        hasher.update(&uid.to_be_bytes()).update(&gid.to_be_bytes());
    }
    hasher.update(call.args.rest());
    let mut key = CallKey::default();
    hasher.finalize_xof().fill(&mut key);
    key
}

#[cfg(test)]
mod tests {
    use super::{Arc, AtomicU64, Begun, Bytes, Drc, OVERHEAD, Ordering, Ticket};

    fn new(drc: &Drc, key: u8, connection: u64) -> Ticket {
        match drc.begin([key; 16], connection) {
            Begun::New(_, ticket) => ticket,
            _ => panic!("call {key} is not new"),
        }
    }

    fn opened(drc: &Drc, connection: u64) -> Arc<AtomicU64> {
        let calls = Arc::new(AtomicU64::new(1));
        drc.opened(connection, calls.clone());
        calls
    }

    #[test]
    fn a_reply_is_replayed_over_a_connection_opened_later() {
        let drc = Drc::new(1 << 20);
        opened(&drc, 1);
        new(&drc, 7, 1).finish(Bytes::from_static(b"reply"));
        assert!(matches!(drc.begin([7; 16], 1), Begun::Done(r) if r == "reply"));
        opened(&drc, 2);
        assert!(matches!(drc.begin([7; 16], 2), Begun::Done(_)));
    }

    #[tokio::test]
    async fn two_live_connections_may_use_one_xid_for_two_calls() {
        let drc = Drc::new(1 << 20);
        let first = opened(&drc, 1);
        opened(&drc, 2);
        new(&drc, 7, 1).finish(Bytes::from_static(b"first"));
        let again = drc.begin([7; 16], 2);
        assert!(matches!(again, Begun::Done(_)), "the first made no call since");
        first.fetch_add(1, Ordering::Relaxed);
        assert!(matches!(drc.begin([7; 16], 2), Begun::Unsure));
        let Begun::New(second, ticket) = drc.settle([7; 16], 2).await else { panic!() };
        ticket.finish(Bytes::from_static(b"second"));
        assert_eq!(second.await.unwrap(), "second");
    }

    #[tokio::test]
    async fn a_call_is_the_same_once_the_first_connection_is_closed() {
        let drc = Drc::new(1 << 20);
        let first = opened(&drc, 1);
        opened(&drc, 2);
        new(&drc, 7, 1).finish(Bytes::from_static(b"first"));
        first.fetch_add(1, Ordering::Relaxed);
        let (closing, waiting) = (drc.clone(), drc.clone());
        let settled = tokio::spawn(async move { waiting.settle([7; 16], 2).await });
        tokio::task::yield_now().await;
        closing.closed(1);
        assert!(matches!(settled.await.unwrap(), Begun::Done(r) if r == "first"));
    }

    #[tokio::test]
    async fn a_call_sent_again_while_it_runs_gets_the_one_reply() {
        let drc = Drc::new(1 << 20);
        let Begun::New(first, ticket) = drc.begin([7; 16], 1) else { panic!() };
        let Begun::Running(second) = drc.begin([7; 16], 1) else { panic!() };
        ticket.finish(Bytes::from_static(b"once"));
        assert_eq!((first.await.unwrap(), second.await.unwrap()), ("once".into(), "once".into()));
    }

    #[test]
    fn a_call_that_came_to_grief_may_be_done_again() {
        let drc = Drc::new(1 << 20);
        drop(new(&drc, 7, 1));
        drop(new(&drc, 7, 1));
    }

    #[test]
    fn bytes_are_bounded_and_the_oldest_go() {
        let drc = Drc::new(10 * (OVERHEAD + 5));
        for key in 0..20 {
            new(&drc, key, 1).finish(Bytes::from_static(b"reply"));
        }
        assert!(matches!(drc.begin([19; 16], 1), Begun::Done(_)));
        drop(new(&drc, 0, 1));
        let kept = drc.0.lock();
        assert_eq!((kept.entries.len(), kept.bytes), (10, 10 * (OVERHEAD + 5)));
    }
}
