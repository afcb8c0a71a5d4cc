//! Outcomes of calls that change names, kept where the change is made, so that they survive a kill.
//!
//! Before such a call changes a folder, a record of the call is written to an extended attribute of that folder,
//! and both become durable by the one sync of the folder. After a restart, a call that is sent again is found in
//! the folder's records; the record says what the call meant to do, and a look at the folder whether it did.
//! A guarded SETATTR is recorded on the file itself, after the change.
//!
//! # Layout (little endian), newest last
//!
//! ```text
//! (call 16 bytes | file id u64 | seconds since 1970 u32 | server instance u32) x at most 32
//! ```

use super::node::Time;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

const NAME: &str = "user.rekindle.calls";
const RECORD: usize = 32;
/// Calls remembered per folder: 1 KiB of its inode's attributes.
const RECORDS: usize = 32;
/// Folders whose records are held in memory: 2 MiB.
const FOLDERS: usize = 1024;
/// After this many seconds a call with the same xid is taken for a new one.
const VALID_SECONDS: u32 = 15 * 60;

/// A call's fingerprint: client, xid, procedure, credentials and arguments.
pub(crate) type CallKey = [u8; 16];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    call: CallKey,
    file: u64,
    at: u32,
    instance: u32,
}

/// The records of the folders that were changed lately.
pub(crate) struct Intents {
    instance: u32,
    folders: HashMap<u64, VecDeque<Record>>,
}

impl Intents {
    /// `instance` tells this run of the server from those before it.
    pub(crate) fn new(instance: u32) -> Self {
        Self { instance, folders: HashMap::new() }
    }

    /// The file that the same call was about when an earlier run of the server got it.
    pub(crate) fn find(&mut self, id: u64, dir: &OwnedFd, call: &CallKey) -> Option<u64> {
        let (instance, now) = (self.instance, seconds());
        let records = self.records(id, dir).ok()?;
        let record = records.iter().rev().find(|record| record.call == *call)?;
        let valid = record.instance != instance && now.abs_diff(record.at) <= VALID_SECONDS;
        valid.then_some(record.file)
    }

    /// Records that the call is about to change the folder, for `file`. Durable with the folder's next sync.
    pub(crate) fn note(
        &mut self,
        id: u64,
        dir: &OwnedFd,
        call: &CallKey,
        file: u64,
    ) -> Result<(), Errno> {
        let record = Record { call: *call, file, at: seconds(), instance: self.instance };
        let records = self.records(id, dir)?;
        if records.len() == RECORDS {
            records.pop_front();
        }
        records.push_back(record);
        let bytes: Vec<u8> = records.iter().flat_map(encode).collect();
        rustix::fs::fsetxattr(dir, NAME, &bytes, XattrFlags::empty())
    }

    fn records(&mut self, id: u64, dir: &OwnedFd) -> Result<&mut VecDeque<Record>, Errno> {
        if !self.folders.contains_key(&id) {
            let records = read(dir)?;
            if self.folders.len() >= FOLDERS {
                // Any will do: they are read again when needed.
                let evicted = self.folders.keys().next().copied();
                evicted.and_then(|evicted| self.folders.remove(&evicted));
            }
            self.folders.insert(id, records);
        }
        Ok(self.folders.entry(id).or_default())
    }
}

fn seconds() -> u32 {
    Time::now().wire().seconds
}

fn encode(record: &Record) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..16].copy_from_slice(&record.call);
    bytes[16..24].copy_from_slice(&record.file.to_le_bytes());
    bytes[24..28].copy_from_slice(&record.at.to_le_bytes());
    bytes[28..].copy_from_slice(&record.instance.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; RECORD]) -> Option<Record> {
    Some(Record {
        call: bytes[..16].try_into().ok()?,
        file: bytes[16..24].try_into().map(u64::from_le_bytes).ok()?,
        at: bytes[24..28].try_into().map(u32::from_le_bytes).ok()?,
        instance: bytes[28..].try_into().map(u32::from_le_bytes).ok()?,
    })
}

fn read(dir: impl AsFd) -> Result<VecDeque<Record>, Errno> {
    let mut bytes = [0; RECORD * RECORDS];
    match rustix::fs::fgetxattr(dir, NAME, &mut bytes[..]) {
        Ok(len) => Ok(bytes[..len].as_chunks().0.iter().filter_map(decode).collect()),
        Err(Errno::NODATA | Errno::RANGE) => Ok(VecDeque::new()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::{Intents, RECORDS};
    use std::fs::File;
    use std::os::fd::OwnedFd;

    #[test]
    fn only_calls_of_an_earlier_run_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        let mut first = Intents::new(1);
        first.note(7, &fd, &[1; 16], 100).unwrap();
        assert_eq!(first.find(7, &fd, &[1; 16]), None, "its own replies are kept elsewhere");
        let mut second = Intents::new(2);
        assert_eq!(second.find(7, &fd, &[1; 16]), Some(100));
        assert_eq!(second.find(7, &fd, &[2; 16]), None);
        second.note(7, &fd, &[1; 16], 200).unwrap();
        assert_eq!(second.find(7, &fd, &[1; 16]), None, "done again in this run");
    }

    #[test]
    fn the_oldest_goes_when_a_folder_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        let mut first = Intents::new(1);
        for n in 0..=RECORDS as u8 {
            first.note(7, &fd, &[n; 16], u64::from(n)).unwrap();
        }
        let mut second = Intents::new(2);
        assert_eq!(second.find(7, &fd, &[0; 16]), None);
        assert_eq!(second.find(7, &fd, &[1; 16]), Some(1));
        assert_eq!(second.find(7, &fd, &[RECORDS as u8; 16]), Some(RECORDS as u64));
    }
}
