use std::ops::Range;
use std::path::{Component, Path};

use super::descriptor::{ExtentKind, ExtentLine};
use super::sesparse::SeSparse;
use super::sparse::Sparse;
use crate::ImageError;
use crate::file::SourceFile;
use crate::folder::Folder;

/// A part of a disk, at `range` of its bytes.
#[derive(Debug)]
pub(super) struct Extent {
    pub(super) range: Range<u64>,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Flat { file: SourceFile, offset: u64 },
    Sparse(Sparse),
    SeSparse(SeSparse),
    Zero,
}

/// Where a run of an extent's bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Not in this disk: in its parent, else zeros.
    Absent,
    Zero,
    /// At this offset of the file.
    Stored(u64),
    /// In the compressed grain at this sector.
    Compressed(u64),
}

impl Extent {
    pub(super) fn open(
        folder: &Folder,
        dir: &Path,
        start: u64,
        line: &ExtentLine,
    ) -> Result<Self, ImageError> {
        let open = |name: &str| open_beside(folder, dir, name);
        let (content, there) = match &line.kind {
            ExtentKind::Zero => (Content::Zero, line.bytes),
            ExtentKind::Flat { file, offset } => {
                let file = open(file)?;
                let there = file.len().saturating_sub(*offset);
                (Content::Flat { file, offset: *offset }, there)
            }
            ExtentKind::Sparse { file } => {
                let sparse = Sparse::open(open(file)?)?;
                let there = sparse.size();
                (Content::Sparse(sparse), there)
            }
            ExtentKind::VmfsSparse { file } => {
                let sparse = Sparse::open_cowd(open(file)?)?;
                let there = sparse.size();
                (Content::Sparse(sparse), there)
            }
            ExtentKind::SeSparse { file } => {
                let sparse = SeSparse::open(open(file)?)?;
                let there = sparse.size();
                (Content::SeSparse(sparse), there)
            }
        };
        if let Some(file) = content.file().filter(|_| there < line.bytes) {
            let detail = format!("it holds {there} bytes, its descriptor says {}", line.bytes);
            return Err(file.corrupt(detail));
        }
        // The descriptor's reader bounds the sum.
        Ok(Self { range: start..start + line.bytes, content })
    }
}

impl Content {
    /// How the bytes at `at` are stored, and how many of the next `max` (at least 1) are stored so.
    pub(super) fn run_at(&self, at: u64, max: u64) -> Result<(Place, u64), ImageError> {
        match self {
            Self::Flat { offset, .. } => Ok((Place::Stored(offset + at), max)),
            Self::Sparse(sparse) => sparse.run_at(at, max),
            Self::SeSparse(sparse) => sparse.run_at(at, max),
            Self::Zero => Ok((Place::Zero, max)),
        }
    }

    /// Fills `part` from the run at byte `at`, which is at `place`.
    pub(super) fn read_place(
        &self,
        at: u64,
        place: Place,
        part: &mut [u8],
    ) -> Result<(), ImageError> {
        match (place, self, self.file()) {
            (Place::Stored(offset), _, Some(file)) => return file.read_exact_at(offset, part),
            (Place::Compressed(sector), Self::Sparse(sparse), _) => {
                return sparse.read_compressed(at, sector, part);
            }
            _ => part.fill(0),
        }
        Ok(())
    }

    /// What of the `len` bytes at `place` may be anything but zeros, relative to its start.
    pub(super) fn stored_part(
        &self,
        place: &Place,
        len: u64,
    ) -> Result<Option<Range<u64>>, ImageError> {
        match (place, self.file()) {
            (Place::Stored(offset), Some(file)) => file.stored_part(*offset, len),
            (Place::Compressed(_), _) => Ok(Some(0..len)),
            _ => Ok(None),
        }
    }

    pub(super) fn file(&self) -> Option<&SourceFile> {
        match self {
            Self::Flat { file, .. } => Some(file),
            Self::Sparse(sparse) => Some(sparse.file()),
            Self::SeSparse(sparse) => Some(sparse.file()),
            Self::Zero => None,
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
