//! The files that disks are copied to, by their disks' bytes.
//!
//! ```text
//! flat, raw    the disk's bytes, holes where it is zero
//! sparse       head | table: where each cluster lies, 0 for nowhere | clusters, in the order of writing
//! ```
//!
//! A sparse file is a whole image after each write: its tables have their places from the beginning,
//! as holes, and an entry is written once its cluster has one. So what was synced is found again after
//! a restart. A cluster is never given to another place, nor back.
//!
//! # Bounds
//!
//! No memory: entries are read where they are needed. The tables of 1 TiB take at most 160 MiB (qcow2)
//! or 64 MiB (VMDK) of the file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::unistd::{Whence, lseek};
use parking_lot::Mutex;

use crate::ImageFormat;

mod qcow2;
mod vmdk;

/// Bytes of the unit in which a sparse file has places: a VMDK's grain, a qcow2's cluster.
const CLUSTER: u64 = 64 << 10;
/// Bytes of a table that are read at once when it is looked through.
const TABLE_READ: u64 = 1 << 20;

/// A disk's copy.
pub(crate) struct Image {
    file: File,
    sparse: Option<Sparse>,
}

/// A file whose clusters have places.
struct Sparse {
    table: Table,
    /// The end of the file, where the next cluster gets its place. Held while entries are changed.
    end: Mutex<u64>,
}

/// Where the entries are, and how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Qcow2(qcow2::Layout),
    Vmdk(vmdk::Layout),
}

/// What an image says of itself.
pub(crate) struct ImageId<'a> {
    /// The file's name.
    pub(crate) name: &'a str,
    /// `lsilogic`, `buslogic` or `ide`.
    pub(crate) adapter: &'a str,
    /// Tells its content from another's.
    pub(crate) content: [u8; 16],
}

/// Bytes of the disk, and where in the file they are.
type Part = (Range<u64>, Option<u64>);

impl Image {
    /// The image of a disk of `size` bytes in `file`, which is new or was made so before.
    pub(crate) fn open(
        file: File,
        format: ImageFormat,
        size: u64,
        id: &ImageId<'_>,
    ) -> io::Result<Self> {
        let table = match format {
            ImageFormat::Flat | ImageFormat::Raw => {
                file.set_len(size)?;
                return Ok(Self { file, sparse: None });
            }
            ImageFormat::Sparse => Table::Vmdk(vmdk::Layout::new(size)?),
            ImageFormat::Qcow2 => Table::Qcow2(qcow2::Layout::new(size)),
        };
        let head = table.head(id);
        if !begins_with(&file, &head) {
            file.set_len(0)?;
            file.set_len(table.end())?;
            // The first part last: a file that has it is whole.
            head.iter().rev().try_for_each(|(at, bytes)| file.write_all_at(bytes, *at))?;
        }
        let mut image = Self { file, sparse: None };
        let end = image.file.metadata()?.len().max(image.last_place(table)?);
        let end = Mutex::new(end.next_multiple_of(CLUSTER));
        image.sparse = Some(Sparse { table, end });
        Ok(image)
    }

    /// Writes the disk's bytes from `at` on.
    pub(crate) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        for (part, place) in self.parts(at..at + bytes.len() as u64, true)? {
            let data = &bytes[(part.start - at) as usize..(part.end - at) as usize];
            let place = place.ok_or_else(|| io::Error::other("a cluster has no place"))?;
            self.file.write_all_at(data, place)?;
        }
        Ok(())
    }

    /// Makes the disk's bytes zeros, whatever was written there before.
    pub(crate) fn zero(&self, range: Range<u64>) -> io::Result<()> {
        for (part, place) in self.parts(range, false)? {
            if let Some(place) = place {
                self.punch(place, part.end - part.start)?;
            }
        }
        Ok(())
    }

    /// Zeros as a hole; as bytes where there are no holes.
    fn punch(&self, place: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let punched = match (i64::try_from(place), i64::try_from(len)) {
            (Ok(place), Ok(len)) if len > 0 => fallocate(&self.file, flags, place, len).is_ok(),
            _ => false,
        };
        if punched {
            return Ok(());
        }
        let zeros = vec![0; len.min(CLUSTER) as usize];
        let mut at = 0;
        while at < len {
            let some = (len - at).min(CLUSTER);
            self.file.write_all_at(&zeros[..some as usize], place + at)?;
            at += some;
        }
        Ok(())
    }

    /// The disk's bytes as the device has them: what the page cache holds of them is dropped first,
    /// as far as it is clean.
    pub(crate) fn read_back(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for (part, place) in self.parts(range.clone(), false)? {
            let Some(place) = place else { continue };
            let len = part.end - part.start;
            if let (Ok(start), Ok(len)) = (i64::try_from(place), i64::try_from(len)) {
                // Advice: where it is not taken, the comparison holds for what a reader would get.
                let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
                let _ = posix_fadvise(&self.file, start, len, advice);
            }
            let at = (part.start - range.start) as usize;
            self.file.read_exact_at(&mut bytes[at..at + len as usize], place)?;
        }
        Ok(bytes)
    }

    /// Whether nothing is stored of the range, so that it need not be read to be known as zeros.
    pub(crate) fn is_hole(&self, range: &Range<u64>) -> bool {
        let Ok(parts) = self.parts(range.clone(), false) else { return false };
        parts.into_iter().all(|(part, place)| match place {
            None => true,
            Some(place) => self.is_hole_at(place, part.end - part.start),
        })
    }

    fn is_hole_at(&self, place: u64, len: u64) -> bool {
        let Ok(start) = i64::try_from(place) else { return false };
        // Moves the file's position, which nobody uses: all I/O here names its offset.
        match lseek(&self.file, start, Whence::SeekData) {
            Ok(data) => u64::try_from(data).is_ok_and(|data| data >= place + len),
            Err(errno) => errno == Errno::ENXIO,
        }
    }

    /// Makes all of it durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Where the bytes of `range` are, in order; with `place` those that are nowhere get places.
    fn parts(&self, range: Range<u64>, place: bool) -> io::Result<Vec<Part>> {
        let Some(sparse) = &self.sparse else {
            let at = range.start;
            return Ok(vec![(range, Some(at))]);
        };
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let clusters = range.start / CLUSTER..range.end.div_ceil(CLUSTER);
        let mut parts: Vec<Part> = Vec::new();
        for (cluster, place) in clusters.clone().zip(self.places(sparse, clusters, place)?) {
            let whole = cluster * CLUSTER..(cluster + 1) * CLUSTER;
            let part = whole.start.max(range.start)..whole.end.min(range.end);
            let place = place.map(|place| place + (part.start - whole.start));
            let follows = |last: &Part| match (last.1, place) {
                (Some(before), Some(place)) => before + (last.0.end - last.0.start) == place,
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            match parts.last_mut() {
                Some(last) if follows(last) => last.0.end = part.end,
                _ => parts.push((part, place)),
            }
        }
        Ok(parts)
    }

    /// The clusters' places. Those that get one now count as used before an entry names them.
    fn places(
        &self,
        sparse: &Sparse,
        clusters: Range<u64>,
        place: bool,
    ) -> io::Result<Vec<Option<u64>>> {
        let table = sparse.table;
        let mut end = sparse.end.lock();
        let mut entries = vec![0; ((clusters.end - clusters.start) * table.width()) as usize];
        let at = table.entry_at(clusters.start);
        self.file.read_exact_at(&mut entries, at)?;
        let mut places = Vec::new();
        let before = *end;
        for entry in entries.chunks_exact_mut(table.width() as usize) {
            let mut found = table.decode(entry);
            if place && found.is_none() {
                table.encode(*end, entry);
                found = Some(*end);
                *end += CLUSTER;
            }
            places.push(found);
        }
        if *end > before {
            self.file.set_len(*end)?;
            if let Some((at, counts)) = table.counts(before..*end) {
                self.file.write_all_at(&counts, at)?;
            }
            self.file.write_all_at(&entries, at)?;
        }
        Ok(places)
    }

    /// The end of the last place that an entry names.
    fn last_place(&self, table: Table) -> io::Result<u64> {
        let range = table.entry_at(0)..table.entry_at(table.clusters());
        let (mut at, mut last) = (range.start, table.end());
        let mut entries = vec![0; TABLE_READ as usize];
        while at < range.end && !self.is_hole_at(at, range.end - at) {
            let some = &mut entries[..(range.end - at).min(TABLE_READ) as usize];
            self.file.read_exact_at(some, at)?;
            let places = some.chunks_exact(table.width() as usize);
            let ends = places.filter_map(|entry| table.decode(entry)).map(|place| place + CLUSTER);
            last = ends.fold(last, u64::max);
            at += some.len() as u64;
        }
        Ok(last)
    }
}

/// Whether the file was made with this head.
fn begins_with(file: &File, head: &[(u64, Vec<u8>)]) -> bool {
    let Some((at, first)) = head.first() else { return false };
    let mut found = vec![0; first.len()];
    file.read_exact_at(&mut found, *at).is_ok() && found == *first
}

impl Table {
    /// What a new file has where, the part first that makes it one.
    fn head(&self, id: &ImageId<'_>) -> Vec<(u64, Vec<u8>)> {
        match self {
            Self::Qcow2(layout) => layout.head(),
            Self::Vmdk(layout) => layout.head(id),
        }
    }

    /// Bytes in front of the first cluster.
    fn end(&self) -> u64 {
        match self {
            Self::Qcow2(layout) => layout.data_at,
            Self::Vmdk(layout) => layout.data_at,
        }
    }

    fn clusters(&self) -> u64 {
        match self {
            Self::Qcow2(layout) => layout.size.div_ceil(CLUSTER),
            Self::Vmdk(layout) => layout.size.div_ceil(CLUSTER),
        }
    }

    /// Bytes of an entry.
    fn width(&self) -> u64 {
        match self {
            Self::Qcow2(_) => 8,
            Self::Vmdk(_) => 4,
        }
    }

    fn entry_at(&self, cluster: u64) -> u64 {
        match self {
            Self::Qcow2(layout) => layout.entries_at + cluster * self.width(),
            Self::Vmdk(layout) => layout.entries_at + cluster * self.width(),
        }
    }

    fn decode(&self, entry: &[u8]) -> Option<u64> {
        match self {
            Self::Qcow2(_) => qcow2::decode(entry),
            Self::Vmdk(_) => vmdk::decode(entry),
        }
    }

    fn encode(&self, place: u64, entry: &mut [u8]) {
        match self {
            Self::Qcow2(_) => qcow2::encode(place, entry),
            Self::Vmdk(_) => vmdk::encode(place, entry),
        }
    }

    /// What counts the users of these places, where the format does.
    fn counts(&self, places: Range<u64>) -> Option<(u64, Vec<u8>)> {
        match self {
            Self::Qcow2(layout) => Some(layout.counts(places)),
            Self::Vmdk(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
