//! VHD: Virtual Hard Disk Image Format Specification 1.0 (Microsoft, 2006).

mod footer;
mod header;

use std::ops::Range;
use std::path::Path;

use crate::chain::Chain;
use crate::file::{SourceFile, Visit};
use crate::folder::Folder;
use crate::image::MAX_IMAGE_BYTES;
use crate::runs::{Place, Run, Runs};
use crate::{Format, ImageError, format};
use footer::{FOOTER_BYTES, Footer, Kind};
use header::Header;

pub(crate) use footer::{COOKIE, has_fixed_footer};

const SECTOR: u64 = 512;
const UNUSED: u32 = u32::MAX;
/// 128 times the usual 2 MiB.
const MAX_BLOCK_BYTES: u64 = 256 << 20;
/// Table entries, or bytes of a block's bitmap, looked at at once.
const AT_ONCE: u64 = 512;

/// Disks of one chain, each an open file. A VM of Hyper-V has at most 50 checkpoints.
const MAX_PARENTS: usize = 64;

/// A disk over the one that it is the difference to, if it is one. The block allocation table and the bitmaps are read as
/// they are needed, a few entries at a time from the page cache.
#[derive(Debug)]
pub(crate) struct Vhd {
    file: SourceFile,
    footer: Footer,
    layout: Layout,
    parent: Option<Box<Vhd>>,
}

#[derive(Debug)]
enum Layout {
    /// The disk from the file's first byte, then the footer.
    Fixed,
    /// `footer | header | table`, then blocks, each behind a bitmap of its sectors, then the footer again.
    Dynamic { table: u64, block: u64, bitmap: u64 },
}

impl Vhd {
    /// Opens `file`, whose name is `name`, with its parents.
    pub(crate) fn open(folder: &Folder, name: &Path, file: SourceFile) -> Result<Self, ImageError> {
        let mut chain = Chain::new(folder, MAX_PARENTS);
        chain.enter(name)?;
        Self::open_in(&mut chain, name, file)
    }

    fn open_in(chain: &mut Chain<'_>, name: &Path, file: SourceFile) -> Result<Self, ImageError> {
        let footer = Footer::read_last(&file)?;
        if footer.size > MAX_IMAGE_BYTES {
            let what = format!("a disk of {} bytes", footer.size);
            return Err(ImageError::unsupported(file.name(), what));
        }
        let (layout, parent) = match footer.kind {
            Kind::Fixed if footer.size > file.len() - FOOTER_BYTES as u64 => {
                let detail = format!("it holds less than the {} bytes it says", footer.size);
                return Err(file.corrupt(detail));
            }
            Kind::Fixed => (Layout::Fixed, None),
            Kind::Dynamic { header, has_parent } => {
                if Footer::read(&file, 0)? != footer {
                    return Err(file.corrupt("its footer is not the one it starts with".into()));
                }
                let header = Header::read(&file, header, footer.size)?;
                let parent = match has_parent {
                    true => Some(Box::new(open_parent(chain, name, &file, &header)?)),
                    false => None,
                };
                let Header { table, block, .. } = header;
                (Layout::Dynamic { table, block, bitmap: header.bitmap() }, parent)
            }
        };
        Ok(Self { file, footer, layout, parent })
    }

    pub(crate) fn each_file(&self, visit: Visit<'_>) -> Result<(), ImageError> {
        visit(&self.file)?;
        self.parent.as_ref().map_or(Ok(()), |parent| parent.each_file(visit))
    }

    /// The run at byte `skip` of the block whose bitmap is at `bitmap` and whose bytes are at `data`. A sector
    /// without its bit was never written, or is the parent's.
    fn run_in_block(&self, bitmap: u64, data: u64, skip: u64, max: u64) -> Result<Run, ImageError> {
        let first = skip / SECTOR;
        let wanted = (skip % SECTOR + max).div_ceil(SECTOR);
        let from = first / 8;
        let count = ((first + wanted).div_ceil(8) - from).min(AT_ONCE);
        let mut buf = [0; AT_ONCE as usize];
        let bits = &mut buf[..count as usize];
        self.file.read_exact_at(bitmap + from, bits)?;
        let bit = |sector: u64| bits[(sector / 8 - from) as usize] >> (7 - sector % 8) & 1;
        let last = (first + wanted).min((from + count) * 8);
        let kind = bit(first);
        let sectors = (first..last).take_while(|sector| bit(*sector) == kind).count() as u64;
        let len = (sectors * SECTOR - skip % SECTOR).min(max);
        let place = if kind == 1 { Place::Stored(data + skip) } else { Place::Absent };
        Ok((place, len))
    }
}

impl Runs for Vhd {
    fn size(&self) -> u64 {
        self.footer.size
    }

    fn parent(&self) -> Option<&Self> {
        self.parent.as_deref()
    }

    fn run_at(&self, at: u64, max: u64) -> Result<Run, ImageError> {
        let Layout::Dynamic { table, block, bitmap } = self.layout else {
            return Ok((Place::Stored(at), max));
        };
        let (first, skip) = (at / block, at % block);
        let wanted = (skip + max).div_ceil(block).min(AT_ONCE);
        let mut buf = [0; AT_ONCE as usize * 4];
        let entries = &mut buf[..wanted as usize * 4];
        self.file.read_exact_at(table + first * 4, entries)?;
        let entries = entries.as_chunks::<4>().0.iter().map(|entry| u32::from_be_bytes(*entry));
        let unused = entries.clone().take_while(|entry| *entry == UNUSED).count() as u64;
        if unused > 0 {
            return Ok((Place::Absent, (unused * block - skip).min(max)));
        }
        let start = entries.take(1).map(|entry| u64::from(entry) * SECTOR).sum();
        self.run_in_block(start, start + bitmap, skip, max.min(block - skip))
    }

    fn read_stored(&self, place: u64, part: &mut [u8]) -> Result<(), ImageError> {
        self.file.read_exact_at(place, part)
    }

    fn stored_part(&self, place: u64, len: u64) -> Result<Option<Range<u64>>, ImageError> {
        self.file.stored_part(place, len)
    }
}

/// Opens the disk below the one of `header`, in `file` named `name`.
fn open_parent(
    chain: &mut Chain<'_>,
    name: &Path,
    file: &SourceFile,
    header: &Header,
) -> Result<Vhd, ImageError> {
    let (path, below) = chain.open_parent(name, file, &header.parent_names(file)?)?;
    if format::detect(&below)? != Format::Vhd {
        return Err(file.corrupt(format!("its parent {:?} is no VHD", below.name())));
    }
    let parent = Vhd::open_in(chain, &path, below)?;
    match header.is_parent(&parent.footer) {
        true => Ok(parent),
        false => {
            let detail = format!("{:?} is another disk than its parent", parent.file.name());
            Err(file.corrupt(detail))
        }
    }
}
