use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rekindle_block::{Block, BlockHash};
use tokio::sync::watch;

use crate::ram::ByName;

/// How a flight ended. The error's type is the caller's; it is found again by downcast.
pub(crate) type Landing = Result<Block, Arc<dyn Any + Send + Sync>>;

/// The reads of ring and repository under way: at most one per block.
#[derive(Clone, Default)]
pub(crate) struct Flights {
    under_way: Arc<Mutex<HashMap<BlockHash, Watcher, ByName>>>,
}

type Watcher = watch::Receiver<Option<Landing>>;

/// What a reader finds.
pub(crate) enum Boarding {
    /// Nobody reads this block: the reader must.
    Lead(Seat),
    /// Somebody does.
    Join(Passenger),
}

impl Flights {
    pub(crate) fn board(&self, hash: BlockHash) -> Boarding {
        let mut under_way = self.under_way.lock();
        if let Some(watcher) = under_way.get(&hash) {
            return Boarding::Join(Passenger(watcher.clone()));
        }
        let (sender, watcher) = watch::channel(None);
        under_way.insert(hash, watcher);
        Boarding::Lead(Seat { flights: self.clone(), hash, sender })
    }

    pub(crate) fn count(&self) -> usize {
        self.under_way.lock().len()
    }
}

/// The one reader of a block. Dropped without [`Seat::land`] (a panic, a cancelled wait for its turn)
/// it tells the others to try for themselves.
pub(crate) struct Seat {
    flights: Flights,
    hash: BlockHash,
    sender: watch::Sender<Option<Landing>>,
}

impl Seat {
    pub(crate) fn hash(&self) -> BlockHash {
        self.hash
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
        if under_way.get(&self.hash).is_some_and(|w| w.same_channel(&self.sender.subscribe())) {
            under_way.remove(&self.hash);
        }
    }
}

/// One who waits for another's read.
pub(crate) struct Passenger(Watcher);

impl Passenger {
    /// How it ended; `None` when it was given up.
    pub(crate) async fn wait(mut self) -> Option<Landing> {
        let landed = self.0.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}
