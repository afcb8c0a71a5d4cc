use std::collections::BTreeMap;
use std::ops::Range;

use super::log::SECTOR;
use crate::ImageError;
use crate::file::SourceFile;

/// What a log changes of a file: by its first byte each range with its end. None lies over another.
///
/// The data stays where it is, in the log: 48 bytes a sector, at most 400 KiB for 32 MiB of log.
#[derive(Debug, Default)]
pub(super) struct Patches(BTreeMap<u64, (u64, Patch)>);

#[derive(Clone, Copy, Debug)]
pub(super) enum Patch {
    Zero,
    /// A sector at this place of the file, but for its first and last bytes.
    Sector {
        at: u64,
        first: [u8; 8],
        last: [u8; 4],
    },
}

impl Patch {
    /// The sector at `at` of `descriptor`: `"desc" | 4 last bytes 4 | 8 first bytes 8 | 16 place 8 | 24 sequence 8`.
    pub(super) fn sector(at: u64, descriptor: &[u8; 32]) -> Self {
        let first = descriptor[8..].first_chunk().copied().unwrap_or_default();
        let last = descriptor[4..].first_chunk().copied().unwrap_or_default();
        Self::Sector { at, first, last }
    }

    /// Fills `part` from byte `skip` of what the patch puts in.
    fn read(&self, file: &SourceFile, skip: u64, part: &mut [u8]) -> Result<(), ImageError> {
        let Self::Sector { at, first, last } = self else {
            part.fill(0);
            return Ok(());
        };
        let mut sector = [0; SECTOR as usize];
        file.read_exact_at(*at, &mut sector)?;
        sector[..8].copy_from_slice(first);
        sector[SECTOR as usize - 4..].copy_from_slice(last);
        part.copy_from_slice(&sector[skip as usize..skip as usize + part.len()]);
        Ok(())
    }
}

impl Patches {
    /// Puts a patch over those before it. Ranges are whole sectors, so that only zeros are ever cut.
    pub(super) fn insert(&mut self, range: Range<u64>, patch: Patch) {
        if let Some((_, (end, below))) = self.0.range_mut(..range.start).next_back()
            && *end > range.start
        {
            let (cut, below) = (*end, *below);
            *end = range.start;
            if cut > range.end {
                self.0.insert(range.end, (cut, below));
            }
        }
        let covered: Vec<u64> = self.0.range(range.clone()).map(|(start, _)| *start).collect();
        for start in covered {
            if let Some((end, below)) = self.0.remove(&start)
                && end > range.end
            {
                self.0.insert(range.end, (end, below));
            }
        }
        self.0.insert(range.start, (range.end, patch));
    }

    /// Those that lie over `range`, each with its own.
    fn over(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, &Patch)> {
        let before = self.0.range(..range.start).next_back();
        let all = before.into_iter().chain(self.0.range(range.clone()));
        let all = all.map(|(start, (end, patch))| (*start..*end, patch));
        all.filter(move |(own, _)| own.end > range.start)
    }

    pub(super) fn is_any_over(&self, range: Range<u64>) -> bool {
        self.over(range).next().is_some()
    }

    /// Changes `buf`, which is at `offset`, as the log says.
    pub(super) fn apply(
        &self,
        file: &SourceFile,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), ImageError> {
        let range = offset..offset + buf.len() as u64;
        for (own, patch) in self.over(range.clone()) {
            let (start, end) = (own.start.max(range.start), own.end.min(range.end));
            let part = &mut buf[(start - offset) as usize..(end - offset) as usize];
            patch.read(file, start - own.start, part)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The last patch over a byte is the one that is read.
        #[test]
        fn later_patches_lie_over_earlier_ones(
            ops in prop::collection::vec((0u64..24, 1u64..9, any::<bool>()), 1..40),
        ) {
            let (mut patches, mut model) = (Patches::default(), [None; 40]);
            for (number, (start, len, zero)) in ops.into_iter().enumerate() {
                let len = if zero { len } else { 1 };
                let at = 1000 + number as u64;
                let patch =
                    if zero { Patch::Zero } else { Patch::Sector { at, first: [0; 8], last: [0; 4] } };
                patches.insert(start * SECTOR..(start + len) * SECTOR, patch);
                model[start as usize..(start + len) as usize].fill(Some(if zero { 0 } else { at }));
            }
            for (sector, want) in model.into_iter().enumerate() {
                let start = sector as u64 * SECTOR;
                let found: Vec<_> = patches.over(start..start + SECTOR).collect();
                let number = found.first().map(|(_, patch)| match patch {
                    Patch::Zero => 0,
                    Patch::Sector { at, .. } => *at,
                });
                prop_assert_eq!((found.len(), number), (usize::from(want.is_some()), want));
            }
        }
    }
}
