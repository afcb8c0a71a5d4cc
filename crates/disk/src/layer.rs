use std::ops::Range;
use std::sync::Arc;

use crate::DiskError;
use crate::grain::{GRAIN, Owner};
use crate::overlay::Overlay;
use crate::segments::Segments;

/// How many frozen layers lie under a disk at most: a read looks at each of them. Those that no other disk lies over are
/// merged long before.
pub const LAYERS_MAX: usize = 8;

/// What a guest had written to a disk at one moment. It never changes; what is written later lies above it.
///
/// It lasts for as long as a disk lies over it. Who holds one longer can read what is in it, and put nothing over it.
pub struct Layer {
    overlay: Arc<Overlay>,
    below: Option<Arc<Layer>>,
}

/// Who answers for a run of a layer's bytes.
pub(crate) enum Found<'a> {
    /// What lies under all layers.
    Base,
    /// The data file of this one, of the layer itself or of one below it.
    Data(&'a Arc<Overlay>),
    Zero,
}

impl Layer {
    /// A layer over `below` that has what `overlay` has: no write to it is under way, and none will be.
    pub(crate) fn new(overlay: Arc<Overlay>, below: Option<Arc<Self>>) -> Self {
        Self { overlay, below }
    }

    /// The same layer over what those that lay under it were merged into.
    pub(crate) fn over(&self, below: Option<Arc<Self>>) -> Self {
        Self { overlay: self.overlay.clone(), below }
    }

    /// What it lies over.
    pub(crate) fn below(&self) -> Option<&Arc<Self>> {
        self.below.as_ref()
    }

    pub(crate) fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    /// Names it for good.
    pub(crate) fn number(&self) -> u64 {
        self.overlay.number
    }

    /// Bytes that the disk had.
    pub fn size(&self) -> u64 {
        self.overlay.size()
    }

    /// What the guest had written, in order.
    pub fn written(self: &Arc<Self>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < self.size() {
                let start = at;
                let (owner, end) = self.writer(start, self.size(), None);
                at = end;
                if owner != Owner::Base {
                    return Some(start..end);
                }
            }
            None
        })
    }

    /// It and what it lies over, the newest first.
    pub(crate) fn chain(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::successors(Some(self), |layer| layer.below.as_ref())
    }

    /// Bytes of the file system that its data takes, without what it lies over.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.overlay.data_bytes()
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.overlay.written_bytes()
    }

    pub(crate) fn allocated(&self) -> Result<u64, DiskError> {
        self.overlay.allocated()
    }

    /// Who answers for the byte at `at`, and where, at most at `end`, that ends. A disk that grew has zeros behind.
    pub(crate) fn find(self: &Arc<Self>, at: u64, mut end: u64) -> (Found<'_>, u64) {
        for layer in self.chain() {
            if at >= layer.size() {
                return (Found::Zero, end);
            }
            let (owner, until) = layer.overlay.run_at(at, end.min(layer.size()));
            end = until;
            match owner {
                Owner::Base => {}
                Owner::Data => return (Found::Data(&layer.overlay), end),
                Owner::Zero => return (Found::Zero, end),
            }
        }
        (Found::Base, end)
    }

    /// Who wrote the byte at `at` in this layer or one below it that lies above `until`, and where that ends. What was
    /// not written is the base's, also behind the end that the disk had.
    pub(crate) fn writer(
        self: &Arc<Self>,
        at: u64,
        mut end: u64,
        until: Option<u64>,
    ) -> (Owner, u64) {
        for layer in self.chain().take_while(|layer| Some(layer.number()) != until) {
            // Of a grain that the disk ended in, the rest was not written, and is zeros: it may be told with it.
            let whole = layer.size().next_multiple_of(GRAIN);
            if at >= whole {
                break;
            }
            let (owner, run) = layer.overlay.run_at(at, end.min(whole));
            end = run;
            if owner != Owner::Base {
                return (owner, end);
            }
        }
        (Owner::Base, end)
    }
}

/// Appends bytes of a data file if the page cache has them.
pub(crate) fn push_cached(overlay: &Overlay, at: u64, len: u64, out: &mut Segments) -> bool {
    let mut bytes = vec![0; len as usize];
    let read = overlay.read_cached(&mut bytes, at);
    if read {
        out.push(bytes.into());
    }
    read
}
