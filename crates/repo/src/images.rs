//! VMs that lie in a directory or below a prefix as others left them: each is a recovery point, read where it lies.
//!
//! # Layout
//!
//! ```text
//! tree      every file below the place, with its revision: length and times, or what a store calls its content
//! catalog   which of them are VMs, and what each point is: remembered for as long as the files it was made of stay
//! disk      a point's disk: blocks named by the disk's files and their revisions; read after the tables of the image
//! ```
//!
//! A VM is a `.vmx`, `.ovf` or `.ova` with the disks that it attaches, or a disk image that no other file here uses: no VM's
//! disk, no parent of another, no extent.
//!
//! # Invariants
//!
//! 1. Nothing is ever written to the place.
//! 2. A point's id, and the names of its blocks, follow from the names and revisions of all files that it was made of. So
//!    they stay the same over restarts, and a file that changes makes another point.
//! 3. A byte that is read comes from the revision that the point is of, or the read is an error: a file's times are looked
//!    at after each read, a store answers with the tag of what it sends.
//! 4. No file outside a VM's own directory is opened, and no symbolic link followed.
//!
//! # Locking
//!
//! One at a time brings the catalog up to date; others wait for it. Reads of disks take no lock here.
//!
//! # Bounds
//!
//! 65 536 files, 16 directories in one another. Files of at most one VM a thread, 16 threads, are open while the catalog is made;
//! a disk keeps its files open. A directory whose name begins with a dot is not looked into.

mod catalog;
mod disk;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rekindle_block::{BlockHash, BlockSize};

pub(crate) use disk::ImageDisk;

use crate::ingest::source::Source;
use crate::map::Shape;
use crate::repository::PointListing;
use crate::store::Store;
use crate::{IngestOptions, Location, MapId, PointId, PointManifest, RepoError};
use catalog::Catalog;
use tree::{Place, Tree};

/// What a guest's read fetches at least.
pub(crate) const BLOCK_SIZE: BlockSize = BlockSize::DEFAULT;

/// The VMs of one place. All of its calls block.
pub(crate) struct Images {
    /// The repository's: other places make other points of the same files.
    id: String,
    place: Place,
    catalog: Mutex<Catalog>,
}

impl Images {
    pub(crate) fn new(id: String, location: &Location, store: &Store) -> Self {
        Self { id, place: Place::new(location, store), catalog: Mutex::default() }
    }

    /// All points as the files are now.
    pub(crate) fn points(&self) -> Result<PointListing, RepoError> {
        let mut catalog = self.catalog.lock();
        catalog.update(&self.id, &self.place)?;
        Ok(catalog.listing())
    }

    /// The point of that id, if its files are as they were.
    pub(crate) fn point(&self, id: &PointId) -> Result<PointManifest, RepoError> {
        let found = self.points()?.points.into_iter().find(|point| point.id == *id);
        found.ok_or_else(|| not_found(id))
    }

    /// The file that says what the point is, and all files of the place.
    fn find(&self, id: &PointId) -> Result<(PathBuf, Arc<Tree>), RepoError> {
        let mut catalog = self.catalog.lock();
        if catalog.file_of(id).is_none() {
            catalog.update(&self.id, &self.place)?;
        }
        let file = catalog.file_of(id).ok_or_else(|| not_found(id))?;
        Ok((file.to_owned(), catalog.tree()))
    }

    /// Opens disk `index` of a point.
    pub(crate) fn open_disk(
        &self,
        point: &PointManifest,
        index: usize,
    ) -> Result<ImageDisk, RepoError> {
        let (file, tree) = self.find(&point.id)?;
        let folder = self.place.folder(&tree)?;
        let (now, source) = catalog::open(&self.id, &folder, &file, &tree).result?;
        if now != *point {
            let detail = "it was written to since it was listed";
            return Err(RepoError::corrupt(file.display().to_string(), detail));
        }
        let disk = source.disks.into_iter().nth(index).ok_or_else(|| RepoError::NotFound {
            what: format!("disk {index} of recovery point {}", point.id),
        })?;
        let size = disk.manifest.size_bytes;
        let shape = Shape::new(BLOCK_SIZE, size);
        let shape = shape.ok_or_else(|| RepoError::refused(format!("a disk of {size} bytes")))?;
        let key = *now.disks[index].map_hash.as_bytes();
        Ok(ImageDisk::new(disk.image.open(size)?, file.display().to_string(), key, shape))
    }
}

fn not_found(id: &PointId) -> RepoError {
    let what = format!("recovery point {id}, of its files as they were when it was listed,");
    RepoError::NotFound { what }
}

/// The point that `source` is, of files that `content` stands for.
fn manifest(
    source: &Source,
    content: &BlockHash,
    created_at: jiff::Timestamp,
) -> Result<PointManifest, RepoError> {
    let of_disk = |disk: &crate::ingest::source::SourceDisk| {
        let mut manifest = disk.manifest.clone();
        manifest.stored_bytes = disk.image.file_bytes();
        (manifest.map, manifest.map_bytes) = (MapId::none(), 0);
        manifest.map_hash = BlockHash::of(format!("{content} {}", manifest.key).as_bytes());
        manifest
    };
    let point = PointManifest {
        id: PointId::of_files(created_at, content),
        vm: source.vm.clone(),
        created_at,
        vmx: source.vmx.clone(),
        nvram: source.nvram.clone(),
        disks: source.disks.iter().map(of_disk).collect(),
        parent: None,
        tags: Vec::new(),
    };
    point.validate().map_err(RepoError::refused)?;
    Ok(point)
}

/// How a VM's files are looked at: as an ingest would.
fn options() -> IngestOptions {
    IngestOptions::default()
}
