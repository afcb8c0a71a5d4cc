//! VMDK: Virtual Disk Format 5.0 (VMware, 2011).

mod descriptor;
mod sparse;

use std::ops::Range;
use std::path::{Component, Path};

use crate::ImageError;
use crate::folder::{Folder, SourceFile};
use descriptor::{Descriptor, ExtentKind, ExtentLine};
use sparse::Sparse;

pub(crate) use descriptor::DESCRIPTOR_MARK;
pub(crate) use sparse::{SPARSE_MAGIC, is_stream_optimized};

/// The first sectors of a disk to its last: extents that lie end to end.
#[derive(Debug)]
pub(crate) struct Vmdk {
    extents: Vec<Extent>,
}

#[derive(Debug)]
struct Extent {
    range: Range<u64>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Flat { file: SourceFile, offset: u64 },
    Sparse(Sparse),
    Zero,
}

impl Vmdk {
    /// A sparse file with everything in it.
    pub(crate) fn from_sparse(file: SourceFile) -> Result<Self, ImageError> {
        let sparse = Sparse::open(file)?;
        if let Some(text) = sparse.descriptor()? {
            Descriptor::parse(sparse.file().name(), &text)?.refuse_delta()?;
        }
        let range = 0..sparse.size();
        Ok(Self { extents: vec![Extent { range, content: Content::Sparse(sparse) }] })
    }

    /// A text that names its extents, which must lie in its own directory.
    pub(crate) fn from_descriptor(
        folder: &Folder,
        name: &Path,
        file: &SourceFile,
    ) -> Result<Self, ImageError> {
        let text = file.read_all(descriptor::MAX_BYTES)?;
        let descriptor = Descriptor::parse(file.name(), &text)?;
        descriptor.refuse_delta()?;
        let dir = name.parent().unwrap_or(Path::new(""));
        let mut extents = Vec::with_capacity(descriptor.extents.len());
        let mut start = 0_u64;
        for line in &descriptor.extents {
            let extent = Extent::open(folder, dir, start, line)?;
            start = extent.range.end;
            extents.push(extent);
        }
        Ok(Self { extents })
    }

    pub(crate) fn size(&self) -> u64 {
        self.extents.last().map_or(0, |extent| extent.range.end)
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let extent = &self.extents[self.extent_at(at)];
            let len = (extent.range.end - at).min((buf.len() - done) as u64) as usize;
            extent.content.read_at(at - extent.range.start, &mut buf[done..done + len])?;
            done += len;
        }
        Ok(())
    }

    pub(crate) fn next_data(
        &self,
        from: u64,
        until: u64,
    ) -> Result<Option<Range<u64>>, ImageError> {
        for extent in &self.extents[self.extent_at(from)..] {
            let start = extent.range.start;
            if start >= until {
                break;
            }
            let own_end = (until - start).min(extent.range.end - start);
            let found = extent.content.next_data(from.saturating_sub(start), own_end)?;
            if let Some(found) = found.filter(|found| found.start < own_end) {
                return Ok(Some(start + found.start..start + found.end.min(own_end)));
            }
        }
        Ok(None)
    }

    /// The number of the extent that holds byte `at` of the disk.
    fn extent_at(&self, at: u64) -> usize {
        self.extents.partition_point(|extent| extent.range.end <= at)
    }

    pub(crate) fn check_unchanged(&self) -> Result<(), ImageError> {
        self.extents.iter().try_for_each(|extent| match &extent.content {
            Content::Flat { file, .. } => file.check_unchanged(),
            Content::Sparse(sparse) => sparse.file().check_unchanged(),
            Content::Zero => Ok(()),
        })
    }
}

impl Extent {
    fn open(
        folder: &Folder,
        dir: &Path,
        start: u64,
        line: &ExtentLine,
    ) -> Result<Self, ImageError> {
        let content = match &line.kind {
            ExtentKind::Zero => Content::Zero,
            ExtentKind::Flat { file, offset } => {
                let file = open_beside(folder, dir, file)?;
                let end = offset.saturating_add(line.bytes);
                if file.len() < end {
                    let detail = format!("it has {} bytes, its descriptor says {end}", file.len());
                    return Err(file.corrupt(detail));
                }
                Content::Flat { file, offset: *offset }
            }
            ExtentKind::Sparse { file } => {
                let sparse = Sparse::open(open_beside(folder, dir, file)?)?;
                if sparse.size() < line.bytes {
                    let detail = format!(
                        "it holds {} bytes, its descriptor says {}",
                        sparse.size(),
                        line.bytes
                    );
                    return Err(sparse.file().corrupt(detail));
                }
                Content::Sparse(sparse)
            }
        };
        // The descriptor's reader bounds the sum.
        Ok(Self { range: start..start + line.bytes, content })
    }
}

impl Content {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        match self {
            Self::Flat { file, offset: base } => file.read_exact_at(base + offset, buf),
            Self::Sparse(sparse) => sparse.read_at(offset, buf),
            Self::Zero => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    fn next_data(&self, from: u64, until: u64) -> Result<Option<Range<u64>>, ImageError> {
        match self {
            Self::Flat { file, offset } => Ok(file.next_stored(offset + from)?.map(|stored| {
                stored.start.saturating_sub(*offset)..stored.end.saturating_sub(*offset)
            })),
            Self::Sparse(sparse) => sparse.next_data(from, until),
            Self::Zero => Ok(None),
        }
    }
}

/// Opens an extent in the descriptor's own directory.
fn open_beside(folder: &Folder, dir: &Path, name: &str) -> Result<SourceFile, ImageError> {
    let path = Path::new(name);
    let down =
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    // A name that leads out is handed on as it is, for the folder to refuse.
    let path = if down { dir.join(path) } else { path.to_owned() };
    folder.open_file(&path)
}
