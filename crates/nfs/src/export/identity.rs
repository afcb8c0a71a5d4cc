//! What a file is to clients, kept in an extended attribute of the real inode.
//!
//! # Layout (little endian)
//!
//! ```text
//! version u8 = 1 | kind u8 | flags u8 | disk id length u8 | mode u32 | uid u32 | gid u32 | rdev 2 x u32
//! store u64 | file id u64 | exclusive verifier 8 bytes | disk size u64 | disk id
//! ```
//!
//! `store` names the server that gave out the file id: a file copied in from another appliance, attributes and
//! all, gets a new identity here.

use super::node::Kind;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::os::fd::AsFd;

const NAME: &str = "user.rekindle.id";
const VERSION: u8 = 1;
const HAS_VERIFIER: u8 = 1;
const FIXED: usize = 56;
/// The longest attribute that is read: the fixed part and a disk id of up to 255 bytes.
const LONGEST: usize = FIXED + 255;

/// A file's identity and those attributes that the real inode cannot carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) store: u64,
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: (u32, u32),
    pub(crate) verifier: Option<[u8; 8]>,
    pub(crate) disk: Option<DiskMark>,
}

/// That a file is a disk, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskMark {
    pub(crate) id: String,
    pub(crate) size: u64,
}

impl Identity {
    /// Reads the identity of an open file; `None` if it has none or none that can be read.
    pub(crate) fn read(file: impl AsFd) -> Result<Option<Self>, Errno> {
        let mut bytes = [0; LONGEST];
        match rustix::fs::fgetxattr(file, NAME, &mut bytes[..]) {
            Ok(len) => Ok(Self::decode(&bytes[..len])),
            Err(Errno::NODATA | Errno::RANGE) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes it. Durable with the next sync of the file, or of the directory it is then put into.
    pub(crate) fn write(&self, file: impl AsFd) -> Result<(), Errno> {
        rustix::fs::fsetxattr(file, NAME, &self.encode(), XattrFlags::empty())
    }

    fn encode(&self) -> Vec<u8> {
        let disk = self.disk.as_ref().map_or("", |disk| &disk.id);
        let flags = if self.verifier.is_some() { HAS_VERIFIER } else { 0 };
        let mut out = Vec::with_capacity(FIXED + disk.len());
        // Disk ids are of at most 100 bytes.
        out.extend([VERSION, self.kind.code(), flags, disk.len() as u8]);
        for word in [self.mode, self.uid, self.gid, self.rdev.0, self.rdev.1] {
            out.extend(word.to_le_bytes());
        }
        out.extend(self.store.to_le_bytes());
        out.extend(self.id.to_le_bytes());
        out.extend(self.verifier.unwrap_or_default());
        out.extend(self.disk.as_ref().map_or(0, |disk| disk.size).to_le_bytes());
        out.extend(disk.as_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, disk) = bytes.split_at_checked(FIXED)?;
        if fixed[0] != VERSION || disk.len() != usize::from(fixed[3]) {
            return None;
        }
        let u32_at = |at: usize| fixed[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let u64_at = |at: usize| fixed[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let disk = match disk {
            [] => None,
            id => Some(DiskMark { id: String::from_utf8(id.to_vec()).ok()?, size: u64_at(48)? }),
        };
        let verifier = fixed[40..48].try_into().ok()?;
        Some(Self {
            kind: Kind::from_code(fixed[1])?,
            mode: u32_at(4)?,
            uid: u32_at(8)?,
            gid: u32_at(12)?,
            rdev: (u32_at(16)?, u32_at(20)?),
            store: u64_at(24)?,
            id: u64_at(32)?,
            verifier: (fixed[2] & HAS_VERIFIER != 0).then_some(verifier),
            disk,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{DiskMark, Identity, Kind};

    #[test]
    fn what_is_written_is_read() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Identity::read(&file).unwrap(), None);
        let disk = DiskMark { id: "vm-1.disk-0".into(), size: 1 << 40 };
        for (kind, verifier, disk) in [
            (Kind::File, Some(*b"verifier"), None),
            (Kind::File, None, Some(disk)),
            (Kind::Symlink, None, None),
            (Kind::Char, None, None),
        ] {
            let identity = Identity {
                store: 0x1122_3344_5566_7788,
                id: 99,
                kind,
                mode: 0o4755,
                uid: 1001,
                gid: 1002,
                rdev: (1, 3),
                verifier,
                disk,
            };
            identity.write(&file).unwrap();
            assert_eq!(Identity::read(&file).unwrap(), Some(identity));
        }
    }

    #[test]
    fn any_cut_or_odd_attribute_is_no_identity() {
        for len in 0..400 {
            Identity::decode(&vec![1; len]);
            assert_eq!(Identity::decode(&vec![0; len]), None);
        }
    }
}
