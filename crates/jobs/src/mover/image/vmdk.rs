//! A monolithic sparse extent (Virtual Disk Format 5.0, "Hosted Sparse Extents"), with grains of 64 KiB
//! and without the redundant tables:
//!
//! ```text
//! header, descriptor | grain directory | grain tables, in the disk's order | grains
//! ```

use std::fmt::Write;
use std::io;

use super::{CLUSTER, ImageId};
use crate::descriptor::{SECTOR, geometry};

const MAGIC: &[u8; 4] = b"KDMV";
/// Entries of a grain table, of 4 bytes each: it covers 32 MiB.
const TABLE_ENTRIES: u64 = 512;
const TABLE_BYTES: u64 = TABLE_ENTRIES * 4;
/// Sectors of the descriptor, behind the header.
const DESCRIPTOR_SECTORS: u64 = 20;
/// Where the grain directory begins.
const DIRECTORY_AT: u64 = CLUSTER;
/// Newlines of the header are checked, to find a file that was sent as text.
const CHECKS_NEWLINES: u32 = 1;

/// Where things are in the file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) size: u64,
    tables: u64,
    pub(super) entries_at: u64,
    pub(super) data_at: u64,
}

impl Layout {
    /// Places are sectors of 32 bits: a file of 2 TiB.
    pub(super) fn new(size: u64) -> io::Result<Self> {
        let tables = size.div_ceil(CLUSTER).div_ceil(TABLE_ENTRIES);
        let entries_at = (DIRECTORY_AT + tables * 4).next_multiple_of(CLUSTER);
        let data_at = (entries_at + tables * TABLE_BYTES).next_multiple_of(CLUSTER);
        let end = data_at.saturating_add(size.next_multiple_of(CLUSTER));
        if end / SECTOR > u64::from(u32::MAX) {
            let message = "a sparse VMDK has room for less than 2 TiB: choose another format";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(Self { size, tables, entries_at, data_at })
    }

    pub(super) fn head(&self, id: &ImageId<'_>) -> Vec<(u64, Vec<u8>)> {
        let table = |n: u64| sectors(self.entries_at + n * TABLE_BYTES).to_le_bytes();
        let directory = (0..self.tables).flat_map(table).collect();
        let mut first = self.header();
        first.extend(self.descriptor(id).into_bytes());
        vec![(0, first), (DIRECTORY_AT, directory)]
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(SECTOR as usize);
        header.extend(MAGIC);
        header.extend(1u32.to_le_bytes());
        header.extend(CHECKS_NEWLINES.to_le_bytes());
        header.extend((self.size / SECTOR).to_le_bytes());
        header.extend((CLUSTER / SECTOR).to_le_bytes());
        header.extend(1u64.to_le_bytes());
        header.extend(DESCRIPTOR_SECTORS.to_le_bytes());
        header.extend((TABLE_ENTRIES as u32).to_le_bytes());
        // No redundant directory.
        header.extend(0u64.to_le_bytes());
        header.extend((DIRECTORY_AT / SECTOR).to_le_bytes());
        header.extend((self.data_at / SECTOR).to_le_bytes());
        // Shut down cleanly; the newlines; not compressed.
        header.extend(b"\0\n \r\n\0\0");
        header.resize(SECTOR as usize, 0);
        header
    }

    fn descriptor(&self, id: &ImageId<'_>) -> String {
        let sectors = self.size / SECTOR;
        let (heads, per_track) = geometry(id.adapter);
        let cylinders = (sectors / (heads * per_track)).clamp(1, 16_383_000);
        let content = hex::encode(id.content);
        let mut text = String::new();
        let _ = write!(
            text,
            "# Disk DescriptorFile\n\
             version=1\n\
             CID={cid}\n\
             parentCID=ffffffff\n\
             createType=\"monolithicSparse\"\n\
             \n\
             # Extent description\n\
             RW {sectors} SPARSE \"{name}\"\n\
             \n\
             # The Disk Data Base\n\
             #DDB\n\
             \n\
             ddb.adapterType = \"{adapter}\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{heads}\"\n\
             ddb.geometry.sectors = \"{per_track}\"\n\
             ddb.longContentID = \"{content}\"\n\
             ddb.virtualHWVersion = \"8\"\n",
            cid = &content[24..],
            name = id.name,
            adapter = id.adapter,
        );
        text
    }
}

/// The layout keeps all places below 2^32 sectors.
fn sectors(place: u64) -> u32 {
    u32::try_from(place / SECTOR).unwrap_or(u32::MAX)
}

pub(super) fn decode(entry: &[u8]) -> Option<u64> {
    let sector = u32::from_le_bytes(entry.try_into().ok()?);
    (sector != 0).then(|| u64::from(sector) * SECTOR)
}

pub(super) fn encode(place: u64, entry: &mut [u8]) {
    entry.copy_from_slice(&sectors(place).to_le_bytes());
}
