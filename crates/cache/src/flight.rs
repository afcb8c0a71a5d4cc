use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rekindle_block::{Block, BlockHash};
use tokio::sync::watch;

use crate::ram::ByName;
use crate::schedule::Ticket;

/// How a flight ended. The error's type is the caller's; it is found again by downcast.
pub(crate) type Landing = Result<Block, Arc<dyn Any + Send + Sync>>;

/// The reads of ring and repository under way: at most one per block.
#[derive(Clone, Default)]
pub(crate) struct Flights {
    under_way: Arc<Mutex<HashMap<BlockHash, Flight, ByName>>>,
}

type Watcher = watch::Receiver<Option<Landing>>;

/// A read under way: how to learn of its end, and its place among all reads.
#[derive(Clone)]
struct Flight {
    watcher: Watcher,
    ticket: Arc<Ticket>,
}

/// What a reader finds.
pub(crate) enum Boarding {
    /// Nobody reads this block: the reader must.
    Lead(Seat),
    /// Somebody does.
    Join(Passenger),
}

impl Flights {
    pub(crate) fn board(&self, hash: BlockHash, ticket: &Arc<Ticket>) -> Boarding {
        let mut under_way = self.under_way.lock();
        if let Some(flight) = under_way.get(&hash) {
            return Boarding::Join(Passenger(flight.clone()));
        }
        let (sender, watcher) = watch::channel(None);
        let ticket = ticket.clone();
        under_way.insert(hash, Flight { watcher, ticket: ticket.clone() });
        Boarding::Lead(Seat { flights: self.clone(), hash, ticket, sender })
    }

    pub(crate) fn count(&self) -> usize {
        self.under_way.lock().len()
    }
}

/// The one reader of a block. Dropped without [`Seat::land`] (a panic, a read that was given up)
/// it tells the others to try for themselves.
pub(crate) struct Seat {
    flights: Flights,
    hash: BlockHash,
    ticket: Arc<Ticket>,
    sender: watch::Sender<Option<Landing>>,
}

impl Seat {
    pub(crate) fn hash(&self) -> BlockHash {
        self.hash
    }

    pub(crate) fn ticket(&self) -> &Arc<Ticket> {
        &self.ticket
    }

    /// Tells everyone who joined. The flight leaves the map first: who comes later finds the block in the cache, or tries anew after an error.
    pub(crate) fn land(self, landing: Landing) {
        self.flights.under_way.lock().remove(&self.hash);
        self.sender.send_replace(Some(landing));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way.lock();
        // After `land` another flight for the same block may be in the map: it is not ours to end.
        let ours = self.sender.subscribe();
        if under_way.get(&self.hash).is_some_and(|f| f.watcher.same_channel(&ours)) {
            under_way.remove(&self.hash);
        }
    }
}

/// One who waits for another's read.
pub(crate) struct Passenger(Flight);

impl Passenger {
    /// The read's place, for who is in a hurry.
    pub(crate) fn ticket(&self) -> &Arc<Ticket> {
        &self.0.ticket
    }

    /// How it ended; `None` when it was given up.
    pub(crate) async fn wait(mut self) -> Option<Landing> {
        let landed = self.0.watcher.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}
