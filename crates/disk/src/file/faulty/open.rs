use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::{Change, FaultyStorage, Node, World, dark};
use crate::file::Purpose;

/// A file of a [`FaultyStorage`].
#[derive(Debug)]
pub(crate) struct FaultyFile {
    pub(super) storage: FaultyStorage,
    pub(super) path: PathBuf,
    pub(super) inode: u64,
}

impl FaultyFile {
    fn node<'a>(&self, world: &'a mut World) -> Option<&'a mut Node> {
        world.files.get_mut(&self.path).filter(|node| node.inode == self.inode)
    }

    /// Makes a change; one to a file that has no name any more is lost on nobody.
    fn change(&self, change: Change) -> io::Result<()> {
        let mut world = self.storage.lock();
        let step = world.step();
        let (interrupted, room) = (world.interrupted(), world.faults.room);
        let others: u64 = match room {
            Some(_) => {
                world.files.iter().filter(|(p, _)| **p != self.path).map(|(_, n)| n.data()).sum()
            }
            None => 0,
        };
        let Some(node) = self.node(&mut world) else { return step };
        match step {
            Ok(()) => {
                let mut after = node.now.clone();
                change.apply(&mut after);
                let after = Node { now: after, ..node.clone() };
                if room
                    .is_some_and(|room| others + after.data() > room && after.data() > node.data())
                {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                node.now = after.now;
                node.pending.push(change);
            }
            // The write that the cut interrupts may have begun.
            Err(_) if interrupted => node.pending.push(change),
            Err(_) => {}
        }
        step
    }

    pub(in crate::file) fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let world = self.storage.lock();
        if world.faults.cut_at.is_some_and(|cut| world.steps > cut) {
            return Err(dark());
        }
        let named = world.files.get(&self.path).filter(|node| node.inode == self.inode);
        let now = named.map(|node| &node.now).or_else(|| world.unnamed.get(&self.inode));
        let Some(now) = now else { return Ok(0) };
        let rest = now.get(at as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    pub(in crate::file) fn read_cached(&self, buf: &mut [u8], at: u64) -> bool {
        matches!(self.read_at(buf, at), Ok(len) if len == buf.len())
    }

    pub(in crate::file) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_both(bytes, &[], at)
    }

    pub(in crate::file) fn write_both(&self, head: &[u8], body: &[u8], at: u64) -> io::Result<()> {
        self.change(Change::Write(at as usize, [head, body].concat()))
    }

    pub(in crate::file) fn sync(&self) -> io::Result<()> {
        let mut world = self.storage.lock();
        world.step()?;
        let faults = world.faults.clone();
        let number = world.journal_syncs;
        let Some(node) = self.node(&mut world) else { return Ok(()) };
        let journal = node.purpose == Purpose::Journal;
        let grown = node.durable.len() != node.now.len();
        let ignored = if journal { faults.ignore_journal_sync } else { faults.ignore_data_sync };
        if ignored && !grown {
            return Ok(());
        }
        let failed = match journal {
            true => faults.fail_journal_sync == Some(number),
            false => faults.fail_data_sync,
        };
        if failed {
            node.lose_unsynced();
        } else {
            node.pending.clear();
            node.durable.clone_from(&node.now);
        }
        world.journal_syncs += u64::from(journal);
        world.write_backs.met += u64::from(!journal && world.write_backs.under_way > 0);
        if failed {
            return Err(io::Error::other("sync failed"));
        }
        Ok(())
    }

    pub(in crate::file) fn write_back(&self, _: Range<u64>) -> io::Result<()> {
        let mut world = self.storage.lock();
        world.step()?;
        world.write_backs.under_way += 1;
        let slow = world.faults.slow_write_back;
        drop(world);
        std::thread::sleep(slow);
        let mut world = self.storage.lock();
        world.write_backs.under_way -= 1;
        if !world.faults.fail_write_back {
            return Ok(());
        }
        if let Some(node) = self.node(&mut world) {
            node.lose_unsynced();
        }
        Err(io::Error::other("write-back failed"))
    }

    pub(in crate::file) fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.change(Change::Zero(range.start as usize..range.end as usize))
    }

    pub(in crate::file) fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let mut world = self.storage.lock();
        world.step()?;
        let Some(room) = world.faults.room else { return Ok(()) };
        let used: u64 = world.files.values().map(Node::data).sum();
        let more = range.end.div_ceil(4096) * 4096 - range.start / 4096 * 4096;
        if used + more > room { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    pub(in crate::file) fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    pub(in crate::file) fn len(&self) -> io::Result<u64> {
        let mut world = self.storage.lock();
        Ok(self.node(&mut world).map_or(0, |node| node.now.len() as u64))
    }

    pub(in crate::file) fn allocated(&self) -> io::Result<u64> {
        let mut world = self.storage.lock();
        Ok(self.node(&mut world).map_or(0, |node| node.data()))
    }

    pub(in crate::file) fn is_direct(&self) -> bool {
        true
    }
}
