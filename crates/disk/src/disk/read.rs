use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use rekindle_cache::Priority;

use super::{Disk, Top};
use crate::DiskError;
use crate::grain::Owner;
use crate::layer::push_cached;
use crate::overlay::Overlay;
use crate::segments::{Segments, push_zeros};

/// The longest read, in bytes: what one call may hold in memory.
pub const READ_MAX: u64 = 16 << 20;
/// Parts of one read that are waited for at once. With blocks of 256 KiB: 2 MiB under way.
const PARTS_AT_ONCE: usize = 8;

/// A part of a read that one source answers.
enum Part {
    Base(Range<u64>),
    Data(Range<u64>),
    Zeros(u64),
}

impl Disk {
    /// Bytes `range` of the disk if they are at hand: in the cache, in the page cache, or zeros.
    ///
    /// Never blocks and never waits: `None` means that [`Disk::read`] must. Allocates nothing for
    /// what the recovery point answers, and one buffer for each run of the overlay's grains.
    #[inline]
    pub fn try_read(&self, range: Range<u64>) -> Option<Result<Segments, DiskError>> {
        let top = self.top.read();
        // Before the check: what was hidden may have been lost instead of shown.
        if top.overlay.is_hidden(&range) {
            return None;
        }
        if let Err(error) = self.check(&top, &range) {
            return Some(Err(error));
        }
        let mut out = Segments::new();
        let mut at = range.start;
        while at < range.end {
            let (owner, end) = top.overlay.run_at(at, range.end);
            match owner {
                Owner::Base if top.under.try_read(at..end, &mut out) => {}
                Owner::Base => return None,
                Owner::Zero => push_zeros(&mut out, end - at),
                Owner::Data if push_cached(&top.overlay, at, end - at, &mut out) => {}
                Owner::Data => return None,
            }
            at = end;
        }
        self.ahead.passed(&self.base, &range);
        self.recorder.touch(|| self.base.block_size().touched(range));
        Some(Ok(out))
    }

    /// Bytes `range` of the disk, at most [`READ_MAX`]. Waits for the device or the repository;
    /// readers of one block share one fetch.
    ///
    /// A read that runs while a write to the same bytes does may see either; one that begins after
    /// the write was acknowledged sees the write. May be dropped at any time.
    pub async fn read(&self, range: Range<u64>, priority: Priority) -> Result<Segments, DiskError> {
        let top = self.top();
        self.check(&top, &range)?;
        if range.end - range.start > READ_MAX {
            return Err(DiskError::Refused(format!("a read of more than {READ_MAX} bytes")));
        }
        top.overlay.until_shown(&range).await;
        // After the wait: what it waited for may have been lost instead.
        self.check(&top, &range)?;
        if priority == Priority::Guest {
            self.ahead.waits(&self.base, &range);
            self.recorder.touch(|| self.base.block_size().touched(range.clone()));
        }
        let parts = stream::iter(top.parts(range)).map(|part| top.read_part(part, priority));
        let join = |mut out: Segments, part: Segments| async {
            out.extend(part);
            Ok(out)
        };
        parts.buffered(PARTS_AT_ONCE).try_fold(Segments::new(), join).await
    }
}

impl Top {
    /// Cuts a range by who answers for it, now.
    fn parts(&self, range: Range<u64>) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (owner, end) = self.overlay.run_at(at, range.end);
            match owner {
                Owner::Base => parts.extend(self.under.parts(at..end).map(Part::Base)),
                Owner::Data => parts.push(Part::Data(at..end)),
                Owner::Zero => parts.push(Part::Zeros(end - at)),
            }
            at = end;
        }
        parts
    }

    async fn read_part(&self, part: Part, priority: Priority) -> Result<Segments, DiskError> {
        match part {
            Part::Base(range) => self.under.read_part(range, priority).await,
            Part::Data(range) => {
                Ok(Segments::from_elem(self.overlay.clone().read(range).await?, 1))
            }
            Part::Zeros(len) => {
                let mut out = Segments::new();
                push_zeros(&mut out, len);
                Ok(out)
            }
        }
    }
}

impl Overlay {
    /// Bytes of the data file.
    pub(crate) async fn read(self: Arc<Self>, range: Range<u64>) -> Result<Bytes, DiskError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        if self.read_cached(&mut bytes, range.start) {
            return Ok(bytes.into());
        }
        blocking(move || {
            self.read_data(&mut bytes, range.start)?;
            Ok(bytes.into())
        })
        .await
    }
}

/// Runs `call`, which blocks, where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) => {
            Err(DiskError::Unavailable { verb: "run blocking call", source: Arc::new(error) })
        }
    }
}
