//! VMDK: Virtual Disk Format 5.0 (VMware, 2011).

mod chain;
mod cowd;
mod descriptor;
mod extent;
mod forward;
mod sesparse;
mod sparse;

use std::ops::Range;
use std::path::Path;

use crate::file::{SourceFile, Visit};
use crate::folder::Folder;
use crate::{Format, ImageError};
use chain::Chain;
use descriptor::Descriptor;
use extent::{Content, Extent, Place};
use sparse::Sparse;

pub(crate) use descriptor::DESCRIPTOR_MARK;
pub(crate) use forward::Forward;
pub use forward::Stream;
pub(crate) use sparse::{SPARSE_MAGIC, is_stream_optimized};

/// The first sectors of a disk to its last: extents that lie end to end, over the disk that a snapshot was
/// taken of.
#[derive(Debug)]
pub(crate) struct Vmdk {
    extents: Vec<Extent>,
    parent: Option<Box<Vmdk>>,
}

impl Vmdk {
    /// Opens `file`, whose name is `name`, with its extents and parents.
    pub(crate) fn open(
        folder: &Folder,
        name: &Path,
        file: SourceFile,
        format: Format,
    ) -> Result<Self, ImageError> {
        let mut chain = Chain::new(folder);
        chain.enter(name)?;
        Self::open_in(&mut chain, name, file, format).map(|(vmdk, _)| vmdk)
    }

    /// The disk, and its content's id for the one above it.
    fn open_in(
        chain: &mut Chain<'_>,
        name: &Path,
        file: SourceFile,
        format: Format,
    ) -> Result<(Self, Option<u32>), ImageError> {
        match format {
            Format::VmdkDescriptor => Self::from_descriptor(chain, name, &file),
            _ => Self::from_sparse(chain, name, file),
        }
    }

    /// A sparse file with everything in it.
    fn from_sparse(
        chain: &mut Chain<'_>,
        name: &Path,
        file: SourceFile,
    ) -> Result<(Self, Option<u32>), ImageError> {
        let sparse = Sparse::open(file)?;
        chain.count_extents(sparse.file(), 1)?;
        let (mut parent, mut cid) = (None, None);
        if let Some(text) = sparse.descriptor()? {
            let descriptor = Descriptor::parse(sparse.file().name(), &text)?;
            parent = chain.open_parent(name, sparse.file(), &descriptor)?;
            cid = descriptor.cid;
        }
        let range = 0..sparse.size();
        let extents = vec![Extent { range, content: Content::Sparse(sparse) }];
        Ok((Self { extents, parent }, cid))
    }

    /// A text that names its extents, which must lie in its own directory.
    fn from_descriptor(
        chain: &mut Chain<'_>,
        name: &Path,
        file: &SourceFile,
    ) -> Result<(Self, Option<u32>), ImageError> {
        let text = file.read_all(descriptor::MAX_BYTES)?;
        let descriptor = Descriptor::parse(file.name(), &text)?;
        chain.count_extents(file, descriptor.extents.len())?;
        let parent = chain.open_parent(name, file, &descriptor)?;
        let dir = name.parent().unwrap_or(Path::new(""));
        let mut extents = Vec::with_capacity(descriptor.extents.len());
        let mut start = 0_u64;
        for line in &descriptor.extents {
            let extent = Extent::open(chain.folder(), dir, start, line)?;
            start = extent.range.end;
            extents.push(extent);
        }
        Ok((Self { extents, parent }, descriptor.cid))
    }

    pub(crate) fn size(&self) -> u64 {
        self.extents.last().map_or(0, |extent| extent.range.end)
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let extent = &self.extents[self.extent_at(at)];
            let own = at - extent.range.start;
            let max = (extent.range.end - at).min((buf.len() - done) as u64);
            let (place, len) = extent.content.run_at(own, max)?;
            let part = &mut buf[done..done + len as usize];
            match place {
                Place::Absent => self.read_parent(at, part)?,
                place => extent.content.read_place(own, place, part)?,
            }
            done += len as usize;
        }
        Ok(())
    }

    /// What the parent has; zeros where it ends, or where there is none.
    fn read_parent(&self, at: u64, part: &mut [u8]) -> Result<(), ImageError> {
        let Some(parent) = &self.parent else {
            part.fill(0);
            return Ok(());
        };
        let there = parent.size().saturating_sub(at).min(part.len() as u64) as usize;
        let (head, tail) = part.split_at_mut(there);
        tail.fill(0);
        parent.read_at(at, head)
    }

    /// The first range at or behind `from`, and starting before `until`, that this disk or one below it has.
    pub(crate) fn next_data(
        &self,
        from: u64,
        until: u64,
    ) -> Result<Option<Range<u64>>, ImageError> {
        let until = until.min(self.size());
        let mut at = from;
        while at < until {
            let extent = &self.extents[self.extent_at(at)];
            let own = at - extent.range.start;
            let max = extent.range.end.min(until) - at;
            let (place, len) = extent.content.run_at(own, max)?;
            let found = match (place, &self.parent) {
                (Place::Absent, Some(parent)) => parent.next_data(at, at + len)?,
                (place, _) => {
                    let part = extent.content.stored_part(&place, len)?;
                    part.map(|part| at + part.start..at + part.end)
                }
            };
            if found.is_some() {
                return Ok(found);
            }
            at += len;
        }
        Ok(None)
    }

    /// The number of the extent that holds byte `at` of the disk.
    fn extent_at(&self, at: u64) -> usize {
        self.extents.partition_point(|extent| extent.range.end <= at)
    }

    pub(crate) fn each_file(&self, visit: Visit<'_>) -> Result<(), ImageError> {
        let mut files = self.extents.iter().filter_map(|extent| extent.content.file());
        files.try_for_each(&mut *visit)?;
        self.parent.as_ref().map_or(Ok(()), |parent| parent.each_file(visit))
    }
}
