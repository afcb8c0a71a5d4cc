use std::ops::Range;

use super::header::Header;
use super::log::{self, Replay};
use crate::ImageError;
use crate::file::SourceFile;

/// A file as it would be after its log was replayed. The file itself is never changed.
///
/// Replaying makes the file as long as the log says it was; what it then has more is zeros, by the format's
/// definition and not by a guess.
#[derive(Debug)]
pub(super) struct Replayed {
    file: SourceFile,
    replay: Replay,
}

impl Replayed {
    pub(super) fn open(file: SourceFile, header: &Header) -> Result<Self, ImageError> {
        let replay = match &header.log {
            Some(place) => log::replay(&file, place)?,
            None => Replay::default(),
        };
        Ok(Self { file, replay })
    }

    /// The file as it is.
    pub(super) fn file(&self) -> &SourceFile {
        &self.file
    }

    pub(super) fn len(&self) -> u64 {
        self.file.len().max(self.replay.len)
    }

    pub(super) fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return self.file.read_exact_at(offset, buf);
        }
        let there = self.file.len().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (head, tail) = buf.split_at_mut(there);
        if !head.is_empty() {
            self.file.read_exact_at(offset, head)?;
        }
        tail.fill(0);
        self.replay.patches.apply(&self.file, offset, buf)
    }

    /// `len` bytes from `offset`: a table, of at most 64 KiB.
    pub(super) fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>, ImageError> {
        let mut bytes = vec![0; len];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn stored_part(
        &self,
        offset: u64,
        len: u64,
    ) -> Result<Option<Range<u64>>, ImageError> {
        match self.replay.patches.is_any_over(offset..offset.saturating_add(len)) {
            true => Ok(Some(0..len)),
            false => self.file.stored_part(offset, len),
        }
    }
}
