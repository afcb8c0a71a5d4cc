use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rekindle_block::{Block, BlockIdx, BlockSize};

use super::copy::{MapCopy, SMALL};
use super::pages::{Page, PageKey, Pages};
use super::root::RootPlace;
use super::seal::MapSeal;
use super::{ENTRY_BYTES, MapEntry, PAGE_ENTRIES, PageRef, Shape};
use crate::images::ImageDisk;
use crate::manifest::DiskManifest;
use crate::seal::Seal;
use crate::store::Store;
use crate::{BlockRef, BlockRun, RepoError};

/// The blocks of one disk of a recovery point. Cheap to clone.
///
/// Opening it reads one small root, whatever the disk's size; pages are loaded when they are asked for
/// and at most 4.9 MiB of them are held. Of a map beyond the network there is a copy (`copy.rs`). An image that is read
/// where it lies has such pages too: they are made of its own tables.
#[derive(Clone)]
pub struct DiskMap(Kind);

#[derive(Clone)]
enum Kind {
    Stored(Arc<Inner>),
    Image(Arc<ImageDisk>),
}

struct Inner {
    store: Store,
    repository_seal: Seal,
    seal: MapSeal,
    object: String,
    map_bytes: u64,
    shape: Shape,
    root: Vec<Option<PageRef>>,
    pages: Pages,
    copy: MapCopy,
}

impl fmt::Debug for DiskMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = match &self.0 {
            Kind::Stored(inner) => &inner.object,
            Kind::Image(disk) => disk.file(),
        };
        f.debug_struct("DiskMap").field("object", object).finish_non_exhaustive()
    }
}

/// What is known about a block without reading the map object.
enum Known {
    Entry(MapEntry),
    /// The leaf page that must be read first.
    Leaf(PageKey, PageRef),
    /// The directory page that must be read first.
    Directory(PageKey, PageRef),
}

impl DiskMap {
    pub(crate) async fn open(
        store: Store,
        repository_seal: Seal,
        block_size: BlockSize,
        disk: &DiskManifest,
        copies: Option<&Path>,
    ) -> Result<Self, RepoError> {
        let place = RootPlace::of(&repository_seal, disk, block_size)?;
        let (object, shape, seal) = (place.object.clone(), place.shape, place.seal.clone());
        let (root, copy) = match (store.is_far(), copies) {
            (true, _) if disk.map_bytes <= SMALL => {
                let (root, map) = read_whole(&store, place, disk).await?;
                (root, MapCopy::Memory(map))
            }
            (true, Some(dir)) => {
                let root = read_root(&store, place, disk).await?;
                (root, MapCopy::begin(&store, &object, disk.map_bytes, dir))
            }
            (true, None) | (false, _) => (read_root(&store, place, disk).await?, MapCopy::None),
        };
        let (map_bytes, pages) = (disk.map_bytes, Pages::default());
        let inner =
            Inner { store, repository_seal, seal, object, map_bytes, shape, root, pages, copy };
        Ok(Self(Kind::Stored(Arc::new(inner))))
    }

    /// That of an image that is read where it lies.
    pub(crate) fn of_image(disk: ImageDisk) -> Self {
        Self(Kind::Image(Arc::new(disk)))
    }

    fn shape(&self) -> &Shape {
        match &self.0 {
            Kind::Stored(inner) => &inner.shape,
            Kind::Image(disk) => disk.shape(),
        }
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.shape().size
    }

    /// Bytes of each of its blocks but the last.
    pub fn block_size(&self) -> BlockSize {
        self.shape().block_size
    }

    /// What block `idx` is, if that is known without I/O. Blocks behind the end are zero.
    #[inline]
    pub fn try_entry(&self, idx: BlockIdx) -> Option<MapEntry> {
        match &self.0 {
            Kind::Stored(inner) => match inner.known(idx) {
                Ok(Known::Entry(entry)) => Some(entry),
                _ => None,
            },
            Kind::Image(disk) => disk.try_entry(idx),
        }
    }

    /// What block `idx` is; reads at most two pages of the map object, or the tables of an image.
    pub async fn entry(&self, idx: BlockIdx) -> Result<MapEntry, RepoError> {
        match &self.0 {
            Kind::Stored(inner) => inner.entry(idx).await,
            Kind::Image(disk) => disk.entry(idx).await,
        }
    }

    /// Reads, opens, decompresses and verifies a block: one ranged read. Of an image the bytes are those that its files
    /// had when the recovery point was opened, or the read is an error.
    pub async fn read_block(&self, block: &BlockRef) -> Result<Block, RepoError> {
        match &self.0 {
            Kind::Stored(inner) => inner.store.read_block(&inner.repository_seal, block).await,
            Kind::Image(disk) => disk.read_block(block).await,
        }
    }

    /// Blocks that are wanted together, in the order of the disk: what lies side by side is one read, where reads cost.
    pub fn run(&self, blocks: Vec<BlockRef>) -> Arc<BlockRun> {
        match &self.0 {
            Kind::Stored(inner) => {
                BlockRun::new(inner.store.clone(), inner.repository_seal.clone(), blocks)
            }
            Kind::Image(disk) => BlockRun::of_image(disk.clone(), blocks),
        }
    }
}

type Root = Vec<Option<PageRef>>;

async fn read_root(
    store: &Store,
    place: RootPlace,
    disk: &DiskManifest,
) -> Result<Root, RepoError> {
    let (object, range, disk) = (place.object.clone(), place.range.clone(), disk.clone());
    store.read_range(&object, range, move |bytes| place.open(&disk, bytes)).await
}

/// The root, and all of the map.
async fn read_whole(
    store: &Store,
    place: RootPlace,
    disk: &DiskManifest,
) -> Result<(Root, Vec<u8>), RepoError> {
    let (object, root_at) = (place.object.clone(), place.range.start as usize);
    let (map_bytes, disk) = (disk.map_bytes, disk.clone());
    let open = move |map: Vec<u8>| {
        let root = map.get(root_at..).unwrap_or_default().to_vec();
        place.open(&disk, root).map(|root| (root, map))
    };
    store.read_range(&object, 0..map_bytes, open).await
}

impl Inner {
    async fn entry(&self, idx: BlockIdx) -> Result<MapEntry, RepoError> {
        let mut just_read: Option<(PageKey, Arc<Page>)> = None;
        loop {
            // A page that was just read is asked first: under pressure it may be gone from memory
            // before its turn comes.
            let known = match &just_read {
                Some((PageKey::Leaf(_), page)) => {
                    Known::Entry(self.decode_entry(idx, &page.entry(leaf_slot(idx)))?)
                }
                Some((PageKey::Directory(_), page)) => {
                    self.below_directory(idx, &page.entry(directory_slot(idx)))?
                }
                None => self.known(idx)?,
            };
            match known {
                Known::Entry(entry) => return Ok(entry),
                Known::Leaf(key, at) | Known::Directory(key, at) => {
                    let page = self.read_page(&at).await?;
                    self.pages.insert(key, page.clone());
                    just_read = Some((key, page));
                }
            }
        }
    }

    fn known(&self, idx: BlockIdx) -> Result<Known, RepoError> {
        if idx.0 >= self.shape.blocks() {
            return Ok(Known::Entry(MapEntry::Zero));
        }
        let leaf = idx.0 / PAGE_ENTRIES;
        if let Some(entry) = self.pages.entry(PageKey::Leaf(leaf), leaf_slot(idx)) {
            return Ok(Known::Entry(self.decode_entry(idx, &entry)?));
        }
        let directory = leaf / PAGE_ENTRIES;
        let Some(at) = self.root[directory as usize] else {
            return Ok(Known::Entry(MapEntry::Zero));
        };
        let key = PageKey::Directory(directory);
        match self.pages.entry(key, directory_slot(idx)) {
            Some(entry) => self.below_directory(idx, &entry),
            None => Ok(Known::Directory(key, at)),
        }
    }

    fn below_directory(
        &self,
        idx: BlockIdx,
        entry: &[u8; ENTRY_BYTES],
    ) -> Result<Known, RepoError> {
        let page = PageRef::decode(entry, self.map_bytes)
            .map_err(|detail| RepoError::corrupt(&self.object, detail))?;
        Ok(match page {
            Some(page) => Known::Leaf(PageKey::Leaf(idx.0 / PAGE_ENTRIES), page),
            None => Known::Entry(MapEntry::Zero),
        })
    }

    fn decode_entry(
        &self,
        idx: BlockIdx,
        entry: &[u8; ENTRY_BYTES],
    ) -> Result<MapEntry, RepoError> {
        MapEntry::decode(entry, self.shape.plain_len(idx)).ok_or_else(|| {
            RepoError::corrupt(&self.object, format!("the entry of block {}", idx.0))
        })
    }

    async fn read_page(&self, at: &PageRef) -> Result<Arc<Page>, RepoError> {
        let (range, check) = (self.seal.range(at), self.seal.check(at));
        if let Some(bytes) = self.copy.read(range.clone()).await
            && let Ok(page) = check(bytes)
        {
            return Ok(Arc::new(Page::new(page.into_boxed_slice())));
        }
        let page = self.store.read_range(&self.object, range, check).await?;
        Ok(Arc::new(Page::new(page.into_boxed_slice())))
    }
}

pub(crate) fn leaf_slot(idx: BlockIdx) -> usize {
    (idx.0 % PAGE_ENTRIES) as usize
}

fn directory_slot(idx: BlockIdx) -> usize {
    (idx.0 / PAGE_ENTRIES % PAGE_ENTRIES) as usize
}
