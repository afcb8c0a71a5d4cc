use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use rekindle_cache::Priority;

use super::Disk;
use crate::DiskError;
use crate::grain::Owner;
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
        // Before the check: what was hidden may have been lost instead of shown.
        if self.overlay.is_hidden(&range) {
            return None;
        }
        if let Err(error) = self.check(&range) {
            return Some(Err(error));
        }
        let mut out = Segments::new();
        let mut at = range.start;
        while at < range.end {
            let (owner, end) = self.overlay.run_at(at, range.end);
            match owner {
                Owner::Base if self.base.try_read(at..end, &mut out) => {}
                Owner::Base => return None,
                Owner::Zero => push_zeros(&mut out, end - at),
                Owner::Data => {
                    let mut bytes = vec![0; (end - at) as usize];
                    if !self.overlay.read_cached(&mut bytes, at) {
                        return None;
                    }
                    out.push(bytes.into());
                }
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
        self.check(&range)?;
        if range.end - range.start > READ_MAX {
            return Err(DiskError::Refused(format!("a read of more than {READ_MAX} bytes")));
        }
        self.overlay.until_shown(&range).await;
        // After the wait: what it waited for may have been lost instead.
        self.check(&range)?;
        if priority == Priority::Guest {
            self.ahead.waits(&self.base, &range);
            self.recorder.touch(|| self.base.block_size().touched(range.clone()));
        }
        let parts = stream::iter(self.parts(range)).map(|part| self.read_part(part, priority));
        let join = |mut out: Segments, part: Segments| async {
            out.extend(part);
            Ok(out)
        };
        parts.buffered(PARTS_AT_ONCE).try_fold(Segments::new(), join).await
    }

    /// Cuts a range by who answers for it, now.
    fn parts(&self, range: Range<u64>) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (owner, end) = self.overlay.run_at(at, range.end);
            match owner {
                Owner::Base => parts.extend(self.base.parts(at..end).map(Part::Base)),
                Owner::Data => parts.push(Part::Data(at..end)),
                Owner::Zero => parts.push(Part::Zeros(end - at)),
            }
            at = end;
        }
        parts
    }

    async fn read_part(&self, part: Part, priority: Priority) -> Result<Segments, DiskError> {
        match part {
            Part::Base(range) => self.base.read_part(range, priority).await,
            Part::Data(range) => self.read_data(range).await,
            Part::Zeros(len) => {
                let mut out = Segments::new();
                push_zeros(&mut out, len);
                Ok(out)
            }
        }
    }

    async fn read_data(&self, range: Range<u64>) -> Result<Segments, DiskError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        if !self.overlay.read_cached(&mut bytes, range.start) {
            let overlay = self.overlay.clone();
            bytes = blocking(move || {
                overlay.read_data(&mut bytes, range.start)?;
                Ok(bytes)
            })
            .await?;
        }
        Ok(Segments::from_elem(bytes.into(), 1))
    }
}

/// Runs `call`, which blocks, where it may.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) => {
            Err(DiskError::Unavailable { verb: "run blocking call", source: Arc::new(error) })
        }
    }
}
