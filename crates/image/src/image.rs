use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::file::{RemoteFile, SourceFile, Visit};
use crate::folder::Folder;
use crate::qcow2::Qcow2;
use crate::runs::Runs;
use crate::vhd::Vhd;
use crate::vhdx::Vhdx;
use crate::vmdk::{Forward, Stream, Vmdk};
use crate::{ImageError, format};

/// The largest disk that is read: 64 TiB. It bounds every table of every format.
pub const MAX_IMAGE_BYTES: u64 = 64 << 40;

/// A disk image's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// A text descriptor with extents in files of their own.
    VmdkDescriptor,
    /// One sparse file with its descriptor inside.
    VmdkSparse,
    /// One compressed sparse file, as OVF packages have.
    VmdkStreamOptimized,
    /// QEMU's, version 2 or 3.
    Qcow2,
    /// Microsoft's of Virtual PC and Azure: fixed, dynamic or differencing.
    Vhd,
    /// Microsoft's of Hyper-V: fixed, dynamic or differencing.
    Vhdx,
}

impl Format {
    /// A word for it: `raw`, `vmdk`, `vmdk-sparse`, `vmdk-stream`, `qcow2`, `vhd`, `vhdx`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::VmdkDescriptor => "vmdk",
            Self::VmdkSparse => "vmdk-sparse",
            Self::VmdkStreamOptimized => "vmdk-stream",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
        }
    }
}

/// An open disk image, read-only. Reads may come from several threads at once.
#[derive(Debug)]
pub struct Image {
    size: u64,
    format: Format,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Raw(SourceFile),
    Vmdk(Vmdk),
    Qcow2(Box<Qcow2>),
    Vhd(Vhd),
    Vhdx(Vhdx),
    /// Comes in, and is read once.
    Stream(Box<Forward>),
}

/// Opens the image at `path`, which must lie in `root`; so must every file that it refers to. The
/// format is told by content; a name that claims another one is an error and not a hint.
pub fn open_image(path: &Path, root: &Path) -> Result<Image, ImageError> {
    let escapes = || ImageError::Escapes { name: path.display().to_string(), root: root.into() };
    let name = if path.is_absolute() || path.starts_with(root) {
        path.strip_prefix(root).map_err(|_| escapes())?
    } else {
        path
    };
    Image::open(&Folder::open(root)?, name)
}

impl Image {
    /// Opens the image `name` of `folder`.
    pub fn open(folder: &Folder, name: &Path) -> Result<Self, ImageError> {
        let file = folder.open_file(name)?;
        let format = format::detect(&file)?;
        let content = match format {
            Format::Raw => Content::Raw(file),
            Format::VmdkDescriptor | Format::VmdkSparse | Format::VmdkStreamOptimized => {
                Content::Vmdk(Vmdk::open(folder, name, file, format)?)
            }
            Format::Qcow2 => Content::Qcow2(Box::new(Qcow2::open(folder, name, file)?)),
            Format::Vhd => Content::Vhd(Vhd::open(folder, name, file)?),
            Format::Vhdx => Content::Vhdx(Vhdx::open(folder, name, file)?),
        };
        Self::checked(format, content, name)
    }

    /// A streamOptimized VMDK as it comes in, shown as `name`. What is read must be read once and in the order of the disk,
    /// give or take 256 MiB; [`Image::check_unchanged`] waits for its end. Blocks until its header has come.
    pub fn from_stream(name: &str, stream: Stream) -> Result<Self, ImageError> {
        let content = Content::Stream(Box::new(Forward::open(name, stream)?));
        Self::checked(Format::VmdkStreamOptimized, content, Path::new(name))
    }

    /// A disk whose bytes `file` has, shown as `name`.
    pub fn from_remote(name: &str, file: Arc<dyn RemoteFile>) -> Result<Self, ImageError> {
        let file = SourceFile::remote(file, name.to_owned());
        Self::checked(Format::Raw, Content::Raw(file), Path::new(name))
    }

    /// Opens `name` as raw bytes, whatever they look like.
    pub(crate) fn open_raw(folder: &Folder, name: &Path) -> Result<Self, ImageError> {
        Self::checked(Format::Raw, Content::Raw(folder.open_file(name)?), name)
    }

    pub(crate) fn from_qcow2(qcow2: Qcow2, name: &Path) -> Result<Self, ImageError> {
        Self::checked(Format::Qcow2, Content::Qcow2(Box::new(qcow2)), name)
    }

    fn checked(format: Format, content: Content, name: &Path) -> Result<Self, ImageError> {
        let size = match &content {
            Content::Raw(file) => file.len(),
            Content::Vmdk(vmdk) => vmdk.size(),
            Content::Qcow2(qcow2) => qcow2.size(),
            Content::Vhd(vhd) => vhd.size(),
            Content::Vhdx(vhdx) => vhdx.size(),
            Content::Stream(stream) => stream.size(),
        };
        let name = name.display().to_string();
        if size > MAX_IMAGE_BYTES {
            return Err(ImageError::unsupported(&name, format!("a disk of {size} bytes")));
        }
        if size == 0 || !size.is_multiple_of(512) {
            let detail = format!("a disk of {size} bytes is no whole number of sectors");
            return Err(ImageError::corrupt(&name, detail));
        }
        Ok(Self { size, format, content })
    }

    /// Bytes of the disk: a multiple of 512, at most 64 TiB.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How it is stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Fills `buf` with the disk's bytes from `offset`; the range must lie within the disk. Blocks.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        debug_assert!(offset + buf.len() as u64 <= self.size);
        match &self.content {
            Content::Raw(file) => file.read_exact_at(offset, buf),
            Content::Vmdk(vmdk) => vmdk.read_at(offset, buf),
            Content::Qcow2(qcow2) => qcow2.read_at(offset, buf),
            Content::Vhd(vhd) => vhd.read_at(offset, buf),
            Content::Vhdx(vhdx) => vhdx.read_at(offset, buf),
            Content::Stream(stream) => stream.read_at(offset, buf),
        }
    }

    /// The next range at or behind `from` that may hold anything but zeros; `None` when only zeros
    /// follow. Reads tables, no data, so that an empty disk of any size is known at once.
    pub fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, ImageError> {
        self.next_data_until(from, self.size)
    }

    /// The same for `from..until`, for who wants to know no more.
    pub fn next_data_until(&self, from: u64, until: u64) -> Result<Option<Range<u64>>, ImageError> {
        let until = until.min(self.size);
        if from >= until {
            return Ok(None);
        }
        let range = match &self.content {
            Content::Raw(file) => file.next_stored(from),
            Content::Vmdk(vmdk) => vmdk.next_data(from, until),
            Content::Qcow2(qcow2) => qcow2.next_data(from, until),
            Content::Vhd(vhd) => vhd.next_data(from, until),
            Content::Vhdx(vhdx) => vhdx.next_data(from, until),
            Content::Stream(stream) => stream.next_data(from, until),
        }?;
        let clipped = range.map(|range| range.start.max(from)..range.end.min(until));
        Ok(clipped.filter(|range| !range.is_empty()))
    }

    /// The ranges that the persistent dirty bitmap `name` of a qcow2 image marks: what was written since the bitmap was
    /// made. In order, at most 2^20, none touching another.
    pub fn dirty_ranges(&self, name: &str) -> Result<Vec<Range<u64>>, ImageError> {
        match &self.content {
            Content::Qcow2(qcow2) => qcow2.dirty_ranges(name),
            _ => Err(ImageError::NotFound {
                file: format!("the bitmap {name:?}: only qcow2 has some"),
            }),
        }
    }

    /// An error if any file of the image was written to since it was opened, or if what comes in ends too early.
    pub fn check_unchanged(&self) -> Result<(), ImageError> {
        if let Content::Stream(stream) = &self.content {
            return stream.finish();
        }
        self.each_file(&mut SourceFile::check_unchanged)
    }

    /// Bytes in the files that hold data of the disk, its parents' among them.
    pub fn file_bytes(&self) -> u64 {
        let mut sum = 0_u64;
        // The visitor has no error to hand on.
        let _ = self.each_file(&mut |file| {
            sum = sum.saturating_add(file.len());
            Ok(())
        });
        sum
    }

    pub(crate) fn each_file(&self, visit: Visit<'_>) -> Result<(), ImageError> {
        match &self.content {
            Content::Raw(file) => visit(file),
            Content::Vmdk(vmdk) => vmdk.each_file(visit),
            Content::Qcow2(qcow2) => qcow2.each_file(visit),
            Content::Vhd(vhd) => vhd.each_file(visit),
            Content::Vhdx(vhdx) => vhdx.each_file(visit),
            Content::Stream(_) => Ok(()),
        }
    }
}
