//! Reads what people have: .vmx, OVF and OVA with their disks, VMDK, VHD, VHDX, qcow2, raw. Nothing here trusts its input.
//!
//! # Layout
//!
//! ```text
//! open_image ─► Folder ─ opens files by name, never outside the directory
//!                 │
//!                 ├─ raw          the file is the disk; its holes are the file system's
//!                 ├─ vmdk         descriptor ─► extents: flat file | sparse file | zero
//!                 │                 sparse: header ─► grain directory ─► grain table ─► grain,
//!                 │                         else the parent VMDK
//!                 ├─ vhd          footer ─► header ─► block table ─► sector bitmap ─► block, else the parent VHD
//!                 ├─ vhdx         header ─► log, over the file ─► regions ─► block table ─► sector bitmap ─► block,
//!                 │                         else the parent VHDX
//!                 └─ qcow2        header ─► L1 ─► L2 ─► cluster, else the backing image
//! Folder        a directory; a tar file whose members are read where they lie; files that are elsewhere, which whoever
//!               has them reads (RemoteFile)
//! Vmx           lines of a .vmx, changed in place, and the disks they attach; made from an OVF descriptor
//! ```
//!
//! # Invariants
//!
//! 1. A byte that the files do not hold is an error, never a zero: a read behind a file's end, a table
//!    behind it, a compressed grain or cluster that is too short or fails its checksum.
//! 2. No file outside the image's directory is opened, by whatever name or link.
//! 3. What cannot be read correctly is refused when it is opened, with what to do about it.
//! 4. A disk over another is read only over the one that it was made over: by its content's id where the format has one
//!    (VMDK, VHDX), else by the disk's (VHD). qcow2 has neither.
//!
//! # Locking
//!
//! None: an image has no state but its open files and small tables; every read is positioned. A folder that is watched has
//! a list of what was opened behind a lock, held to look up one name.
//!
//! # Crash, Cancellation
//!
//! Nothing is written. Calls block; one call does a bounded amount of work.
//!
//! # Bounds
//!
//! Disks up to 64 TiB. Of tables only the first level is held: at most 16 MiB (a grain directory) or
//! 32 MiB (an L1 table, an SEsparse directory) for each file of a chain, checked against the file's length before memory is taken. A read takes one grain
//! or cluster of scratch, at most 2 MiB each way. 512 extents, 32 deltas, 64 parents of a VHD or VHDX, 8 backing images,
//! what comes in as a stream and was not read yet within 256 MiB of its disk, compressed; 1 MiB of text (4 MiB of OVF), 1024 members of a tar file. A VHDX's log of 32 MiB, and that much for one entry of it while the
//! file is opened. `tests/memory.rs` opens disks of 62 TiB that files of 1 to 4 MiB describe.

mod chain;
mod endian;
mod error;
mod file;
mod folder;
mod format;
mod image;
mod inflate;
mod ovf;
mod qcow2;
mod runs;
mod tar;
mod vhd;
mod vhdx;
mod vmdk;
mod vmx;

pub use error::ImageError;
pub use file::{RemoteFile, Revision, SourceFile};
pub use folder::Folder;
pub use image::{Format, Image, MAX_IMAGE_BYTES, open_image};
pub use ovf::{Checksums, OvfError};
pub use vmdk::Stream;
pub use vmx::{Vmx, VmxDisk, VmxError};
