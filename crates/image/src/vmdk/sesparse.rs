use super::extent::Place;
use crate::ImageError;
use crate::endian::le64;
use crate::file::SourceFile;
use crate::image::MAX_IMAGE_BYTES;

const SECTOR: u64 = 512;
const MAGIC: u64 = 0xcafe_babe;
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
const VERSION_2_1: u64 = 0x2_0000_0001;
const GRAIN_SECTORS: u64 = 8;
const GRAIN_BYTES: u64 = GRAIN_SECTORS * SECTOR;
const TABLE_SECTORS: u64 = 64;
const TABLE_ENTRIES: u64 = TABLE_SECTORS * SECTOR / 8;
/// Bytes of the disk that one table maps: 16 MiB.
const TABLE_REACH: u64 = TABLE_ENTRIES * GRAIN_BYTES;
/// An entry's uppermost four bits.
const KIND: u64 = 0xf << 60;
const TABLE: u64 = 1 << 60;
const UNMAPPED: u64 = 1 << 60;
const ZERO: u64 = 2 << 60;
const STORED: u64 = 3 << 60;
/// Entries looked at at once.
const ENTRIES_AT_ONCE: u64 = 512;

/// An SEsparse extent, what ESXi writes snapshots to (all on VMFS 6). VMware has not published the format; this
/// is what QEMU's reader of version 2.1 documents. The directory is in memory (32 MiB for 64 TiB, and part of
/// the file), tables are read a few entries at a time. Numbers are sectors and little-endian:
///
/// ```text
/// 0 magic 8 | 8 version 8 | 16 capacity 8 | 24 grain size 8 | 32 table size 8 | 40 flags 8 | 48 reserved 32
/// 80 volatile header 8+8 | 96 journal header 8+8 | 112 journal 8+8 | 128 directory 8+8 | 144 tables 8+8
/// 160 free bitmap 8+8 | 176 back map 8+8 | 192 grains 8+8
/// ```
#[derive(Debug)]
pub(super) struct SeSparse {
    file: SourceFile,
    capacity: u64,
    tables: u64,
    grains: u64,
    directory: Vec<u64>,
}

impl SeSparse {
    pub(super) fn open(file: SourceFile) -> Result<Self, ImageError> {
        let head = file.read_vec(0, SECTOR as usize)?;
        let unsupported = |what: &str| Err(ImageError::unsupported(file.name(), what));
        if le64(&head, 0) != MAGIC {
            return Err(file.corrupt("no header of an SEsparse extent".into()));
        }
        if le64(&head, 8) != VERSION_2_1 {
            return unsupported("it is an SEsparse extent of another version");
        }
        let sizes = (le64(&head, 24), le64(&head, 32));
        if sizes != (GRAIN_SECTORS, TABLE_SECTORS) || head[40..80].iter().any(|byte| *byte != 0) {
            return unsupported("it is an SEsparse extent with other sizes or flags");
        }
        let capacity = le64(&head, 16);
        if capacity == 0 || capacity > MAX_IMAGE_BYTES / SECTOR {
            return unsupported(&format!("a disk of {capacity} sectors"));
        }
        let bytes_at = |at: usize| match le64(&head, at).checked_mul(SECTOR) {
            Some(bytes) if bytes <= file.len() => Ok(bytes),
            _ => Err(file.corrupt(format!("the place at {at} of its header lies behind its end"))),
        };
        check_journal(&file, bytes_at(80)?)?;
        let needed = capacity.div_ceil(TABLE_REACH / SECTOR);
        if bytes_at(136)? / 8 < needed {
            return Err(file.corrupt("its directory is too short".into()));
        }
        let (tables, grains) = (bytes_at(144)?, bytes_at(192)?);
        let bytes = file.read_vec(bytes_at(128)?, needed as usize * 8)?;
        let directory = bytes.as_chunks::<8>().0.iter().map(|e| u64::from_le_bytes(*e)).collect();
        Ok(Self { file, capacity, tables, grains, directory })
    }

    pub(super) fn file(&self) -> &SourceFile {
        &self.file
    }

    pub(super) fn size(&self) -> u64 {
        self.capacity * SECTOR
    }

    pub(super) fn run_at(&self, at: u64, max: u64) -> Result<(Place, u64), ImageError> {
        let Some(table_at) = self.table_at(at / TABLE_REACH)? else {
            return Ok((Place::Absent, (TABLE_REACH - at % TABLE_REACH).min(max)));
        };
        let (first, skip) = (at % TABLE_REACH / GRAIN_BYTES, at % GRAIN_BYTES);
        let wanted = (skip + max).div_ceil(GRAIN_BYTES);
        let count = wanted.min(TABLE_ENTRIES - first).min(ENTRIES_AT_ONCE);
        let mut buf = [0; ENTRIES_AT_ONCE as usize * 8];
        let entries = &mut buf[..count as usize * 8];
        self.file.read_exact_at(table_at + first * 8, entries)?;
        let mut entries = entries.as_chunks::<8>().0.iter().map(|e| u64::from_le_bytes(*e));
        let place = self.place(entries.next().unwrap_or(0))?;
        let mut next = place;
        let follows = |entry: &u64| {
            if let Place::Stored(offset) = &mut next {
                *offset += GRAIN_BYTES;
            }
            self.place(*entry).is_ok_and(|place| place == next)
        };
        let len = (1 + entries.take_while(follows).count() as u64) * GRAIN_BYTES - skip;
        let place = match place {
            Place::Stored(offset) => Place::Stored(offset + skip),
            other => other,
        };
        Ok((place, len.min(max)))
    }

    /// Where the table of the directory's entry `number` is: `kind 4 bits | zero 28 | number 32`.
    fn table_at(&self, number: u64) -> Result<Option<u64>, ImageError> {
        let entry = self.directory.get(number as usize).copied().unwrap_or(0);
        match entry >> 32 {
            _ if entry == 0 => Ok(None),
            kind if kind == TABLE >> 32 => {
                let table = entry & u64::from(u32::MAX);
                Ok(Some(self.tables + table * TABLE_SECTORS * SECTOR))
            }
            _ => Err(self.file.corrupt(format!("the directory entry {entry:#x}"))),
        }
    }

    /// `kind 4 bits | number's low 12 | number's high 48`.
    fn place(&self, entry: u64) -> Result<Place, ImageError> {
        let number = entry >> 48 & 0xfff | (entry & ((1 << 48) - 1)) << 12;
        let offset = number.checked_mul(GRAIN_BYTES).and_then(|at| at.checked_add(self.grains));
        match (entry & KIND, offset.filter(|offset| *offset < self.file.len())) {
            (0, _) if entry == 0 => Ok(Place::Absent),
            (UNMAPPED | ZERO, _) => Ok(Place::Zero),
            (STORED, Some(offset)) => Ok(Place::Stored(offset)),
            _ => Err(self.file.corrupt(format!("the table entry {entry:#x}"))),
        }
    }
}

/// Refuses an extent whose tables are not what its journal says they should be.
fn check_journal(file: &SourceFile, volatile: u64) -> Result<(), ImageError> {
    let bytes = file.read_vec(volatile, SECTOR as usize)?;
    if le64(&bytes, 0) != VOLATILE_MAGIC {
        return Err(file.corrupt("its volatile header is damaged".into()));
    }
    match le64(&bytes, 24) {
        0 => Ok(()),
        _ => {
            let what = "its journal is to be replayed: open it once with its hypervisor";
            Err(ImageError::unsupported(file.name(), what))
        }
    }
}
