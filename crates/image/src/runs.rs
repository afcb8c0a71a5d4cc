//! Disks whose bytes lie in runs: each at one place of a file, or nowhere.

use std::ops::Range;

use crate::ImageError;

/// Where a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not in this disk: in its parent, else zeros.
    Absent,
    Zero,
    /// At this offset of the file.
    Stored(u64),
}

/// A place, and how many bytes lie there: at least 1.
pub(crate) type Run = (Place, u64);

/// A disk that may be the difference to another of its kind.
pub(crate) trait Runs: Sized {
    fn size(&self) -> u64;

    fn parent(&self) -> Option<&Self>;

    /// Of the bytes at `at`, at most `max`.
    fn run_at(&self, at: u64, max: u64) -> Result<Run, ImageError>;

    /// Fills `part` from `place` of the file.
    fn read_stored(&self, place: u64, part: &mut [u8]) -> Result<(), ImageError>;

    /// What of the `len` bytes at `place` of the file may be anything but zeros, relative to its start.
    fn stored_part(&self, place: u64, len: u64) -> Result<Option<Range<u64>>, ImageError>;

    /// Fills `buf` from byte `offset` of the disk.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (place, len) = self.run_at(at, (buf.len() - done) as u64)?;
            let part = &mut buf[done..done + len as usize];
            match (place, self.parent()) {
                (Place::Stored(place), _) => self.read_stored(place, part)?,
                (Place::Absent, Some(parent)) => read_below(parent, at, part)?,
                (Place::Absent | Place::Zero, _) => part.fill(0),
            }
            done += len as usize;
        }
        Ok(())
    }

    /// The first range at or behind `from`, and starting before `until`, that this disk or one below it has.
    fn next_data(&self, from: u64, until: u64) -> Result<Option<Range<u64>>, ImageError> {
        let until = until.min(self.size());
        let mut at = from;
        while at < until {
            let (place, len) = self.run_at(at, until - at)?;
            let found = match (place, self.parent()) {
                (Place::Stored(place), _) => {
                    let part = self.stored_part(place, len)?;
                    part.map(|part| at + part.start..at + part.end)
                }
                (Place::Absent, Some(parent)) => parent.next_data(at, at + len)?,
                (Place::Absent | Place::Zero, _) => None,
            };
            if found.is_some() {
                return Ok(found);
            }
            at += len;
        }
        Ok(None)
    }
}

/// What the parent has; zeros where it ends.
fn read_below(parent: &impl Runs, at: u64, part: &mut [u8]) -> Result<(), ImageError> {
    let there = parent.size().saturating_sub(at).min(part.len() as u64) as usize;
    let (head, tail) = part.split_at_mut(there);
    tail.fill(0);
    parent.read_at(at, head)
}
