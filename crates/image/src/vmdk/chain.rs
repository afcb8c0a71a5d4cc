use std::path::Path;

use super::Vmdk;
use super::descriptor::{Descriptor, MAX_EXTENTS};
use crate::file::SourceFile;
use crate::folder::Folder;
use crate::{Format, ImageError, chain, format};

/// Deltas over one disk: ESXi's own limit.
const MAX_DELTAS: usize = 32;

/// The disks opened on the way down from the one that was asked for, and their files.
pub(super) struct Chain<'a> {
    disks: chain::Chain<'a>,
    extents: usize,
}

impl<'a> Chain<'a> {
    pub(super) fn new(folder: &'a Folder) -> Self {
        Self { disks: chain::Chain::new(folder, MAX_DELTAS), extents: 0 }
    }

    pub(super) fn folder(&self) -> &'a Folder {
        self.disks.folder()
    }

    pub(super) fn enter(&mut self, name: &Path) -> Result<(), ImageError> {
        self.disks.enter(name)
    }

    /// Each extent is an open file, so all disks of a chain share one bound.
    pub(super) fn count_extents(
        &mut self,
        file: &SourceFile,
        count: usize,
    ) -> Result<(), ImageError> {
        self.extents += count;
        if self.extents > MAX_EXTENTS {
            let what = format!("it has more than {MAX_EXTENTS} extents with those above it");
            return Err(ImageError::unsupported(file.name(), what));
        }
        Ok(())
    }

    /// Opens the disk that the one of `descriptor`, in `file` named `name`, is the delta of. Its content must be
    /// what it was when the snapshot was taken.
    pub(super) fn open_parent(
        &mut self,
        name: &Path,
        file: &SourceFile,
        descriptor: &Descriptor,
    ) -> Result<Option<Box<Vmdk>>, ImageError> {
        let Some(parent) = descriptor.parent()? else { return Ok(None) };
        // An absolute name is handed on as it is, for the folder to refuse.
        let path = name.parent().unwrap_or(Path::new("")).join(parent.hint);
        self.enter(&path)?;
        let below = self.folder().open_file(&path)?;
        let format = format::detect(&below)?;
        if !matches!(
            format,
            Format::VmdkDescriptor | Format::VmdkSparse | Format::VmdkStreamOptimized
        ) {
            return Err(file.corrupt(format!("its parent {:?} is no VMDK", parent.hint)));
        }
        let (vmdk, cid) = Vmdk::open_in(self, &path, below, format)?;
        if cid != Some(parent.cid) {
            let detail = format!(
                "its parent {:?} has changed since: its CID is {:08x} and not {:08x}",
                parent.hint,
                cid.unwrap_or_default(),
                parent.cid
            );
            return Err(file.corrupt(detail));
        }
        Ok(Some(Box::new(vmdk)))
    }
}
