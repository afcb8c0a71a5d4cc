//! Room in the file systems that VMs are copied to. A copy that runs out of it fails after hours; here it waits before its
//! first byte, with a reason, and can be cancelled.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::admission::Turn;
use crate::env::Env;
use crate::staging::Staging;
use crate::{JobError, JobId, failure};

/// The file system of a directory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) device: u64,
    /// 0 if it does not tell.
    pub(crate) total: u64,
    /// What is free, and what the cache's ring gives back there.
    pub(crate) free: u64,
    /// Of that, what other jobs have reserved for guests' writes.
    pub(crate) reserved: u64,
}

/// What a copy takes, and where.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) device: u64,
    /// Bytes when it is whole.
    pub(crate) bytes: u64,
    pub(crate) staging: Staging,
}

/// The copies to directories: those that are under way, and those that wait.
#[derive(Default)]
pub(crate) struct Rooms {
    inner: Mutex<Inner>,
    /// Rung whenever one ends or gives up.
    left: Notify,
}

#[derive(Default)]
struct Inner {
    waiting: BTreeMap<Turn, Wanted>,
    under_way: BTreeMap<JobId, Wanted>,
}

/// One that waits or is under way, until it is dropped.
pub(crate) struct Room {
    rooms: Arc<Rooms>,
    turn: Turn,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut inner = self.rooms.inner.lock();
        inner.waiting.remove(&self.turn);
        inner.under_way.remove(&self.turn.1);
        drop(inner);
        self.rooms.left.notify_waiters();
    }
}

impl Wanted {
    /// Bytes that it has yet to take.
    fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.staging.taken())
    }
}

impl Rooms {
    /// Joins those that wait, behind those that were accepted before. One that has begun, before a restart, holds its room
    /// already: should it wait for those before it, these may wait for what it has written.
    pub(crate) fn join(self: &Arc<Self>, turn: Turn, wanted: Wanted) -> Room {
        let begun = wanted.staging.taken() > 0;
        let mut inner = self.inner.lock();
        match begun {
            true => inner.under_way.insert(turn.1.clone(), wanted),
            false => inner.waiting.insert(turn.clone(), wanted),
        };
        drop(inner);
        Room { rooms: self.clone(), turn }
    }

    /// Resolves when the answer of [`Room::ask`] may have changed. Make it before asking.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.left.notified()
    }
}

impl Room {
    /// Begins, or says what it waits for. Looks at what other copies have written.
    pub(crate) fn ask(&self, there: FileSystem) -> Result<(), String> {
        loop {
            let others = self.others();
            // Not with the lock: who looks at a file system that hangs must not hold up those elsewhere.
            let left: BTreeMap<&JobId, u64> =
                others.iter().map(|(job, one)| (job, one.left())).collect();
            let mut inner = self.rooms.inner.lock();
            let Some(wanted) = inner.waiting.get(&self.turn).cloned() else { return Ok(()) };
            if !inner.on(wanted.device).eq(left.keys().copied()) {
                continue;
            }
            let before = inner.waiting.range(..&self.turn);
            let before = before.filter(|(_, other)| other.device == wanted.device).count();
            if before > 0 {
                return Err(format!("{before} copies of jobs that were accepted before"));
            }
            let promised = left.values().fold(0u64, |sum, left| sum.saturating_add(*left));
            decide(&wanted, promised, there)?;
            inner.waiting.remove(&self.turn);
            inner.under_way.insert(self.turn.1.clone(), wanted);
            drop(inner);
            self.rooms.left.notify_waiters();
            return Ok(());
        }
    }

    /// The copies that are under way where this one is to go.
    fn others(&self) -> BTreeMap<JobId, Wanted> {
        let inner = self.rooms.inner.lock();
        let device = inner.waiting.get(&self.turn).map(|wanted| wanted.device);
        let same = inner.under_way.iter().filter(|(_, other)| Some(other.device) == device);
        same.map(|(job, other)| (job.clone(), other.clone())).collect()
    }
}

impl Inner {
    fn on(&self, device: u64) -> impl Iterator<Item = &JobId> {
        let same = self.under_way.iter().filter(move |(_, other)| other.device == device);
        same.map(|(job, _)| job)
    }
}

fn decide(wanted: &Wanted, promised: u64, there: FileSystem) -> Result<(), String> {
    let needed = wanted.left();
    let open = there.free.saturating_sub(promised).saturating_sub(there.reserved);
    if open >= needed || there.total == 0 {
        return Ok(());
    }
    let of = |bytes: u64, whom: &str| match bytes {
        0 => String::new(),
        bytes => format!(", {bytes} of these {whom}"),
    };
    Err(format!(
        "{} bytes more in the file system of {}: {} are free{}{}, {needed} are needed",
        needed - open,
        wanted.staging.directory().display(),
        there.free,
        of(promised, "for copies under way"),
        of(there.reserved, "for guests' writes"),
    ))
}

/// The file system that a directory is in or would be in, as `job` finds it.
pub(crate) async fn file_system(
    env: &Env,
    directory: &Path,
    job: Option<&JobId>,
) -> Result<FileSystem, JobError> {
    let parent = directory.parent().unwrap_or(directory).to_owned();
    let exports = env.config.exports_dir.clone();
    let look = failure::blocking(move || {
        let failed = |e| JobError::io(format!("look at {}", parent.display()), e);
        let device = std::fs::metadata(&parent).map_err(failed)?.dev();
        let told = nix::sys::statvfs::statvfs(&parent).map_err(|e| failed(e.into()))?;
        let unit = told.fragment_size();
        let found = FileSystem {
            device,
            total: told.blocks().saturating_mul(unit),
            free: told.blocks_available().saturating_mul(unit),
            reserved: 0,
        };
        Ok((found, std::fs::metadata(exports).is_ok_and(|own| own.dev() == device)))
    });
    let (mut found, beside_overlays) = look.await?;
    if beside_overlays {
        found.free = env.free()?;
        let used = env.overlays.used_by_each();
        // The copy is what ends its own guest's writes there.
        let left_out = |other: &JobId| if Some(other) == job { u64::MAX } else { used(other) };
        found.reserved = env.gate.promised(left_out);
    }
    Ok(found)
}

/// Refuses what the directory's file system could not take if it were empty.
pub(crate) fn check(there: FileSystem, directory: &Path, bytes: u64) -> Result<(), JobError> {
    match bytes.saturating_sub(there.total) {
        0 => Ok(()),
        _ if there.total == 0 => Ok(()),
        missing => {
            let place = format!("the file system of {}", directory.display());
            Err(JobError::Full { place, missing })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use jiff::Timestamp;

    use super::*;

    fn there(free: u64) -> FileSystem {
        FileSystem { device: 1, total: 1 << 40, free, reserved: 0 }
    }

    struct World {
        dir: tempfile::TempDir,
        rooms: Arc<Rooms>,
    }

    impl World {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), rooms: Arc::default() }
        }

        fn join(&self, second: i64, device: u64, bytes: u64) -> (Room, Staging) {
            let at = Timestamp::from_second(second).unwrap();
            let job = JobId::new(at, second as u16);
            let staging = Staging::new(&self.dir.path().join(format!("vm{second}")), &job);
            staging.make().unwrap();
            let wanted = Wanted { device, bytes, staging: staging.clone() };
            (self.rooms.join((at, job), wanted), staging)
        }
    }

    #[test]
    fn copies_under_way_have_what_they_lack_yet() {
        let world = World::new();
        let ((first, staging), (second, _)) =
            (world.join(1, 1, 1 << 20), world.join(2, 1, 1 << 20));
        let (elsewhere, _) = world.join(3, 2, 1 << 20);
        assert_eq!(elsewhere.ask(FileSystem { device: 2, ..there(1 << 20) }), Ok(()));
        let early = second.ask(there(4 << 20)).unwrap_err();
        assert_eq!(early, "1 copies of jobs that were accepted before");
        assert_eq!(first.ask(there(1 << 20)), Ok(()));
        let full = second.ask(there(3 << 19)).unwrap_err();
        assert!(full.starts_with("524288 bytes more in the file system of "), "{full}");
        assert!(full.contains("1572864 are free, 1048576 of these for copies under way"), "{full}");
        // What it has written is not free any more, and not promised.
        let mut disk = staging.open("disk").unwrap();
        disk.write_all(&vec![1; 1 << 20]).unwrap();
        disk.sync_all().unwrap();
        assert_eq!(second.ask(there(1 << 20)), Ok(()));
        assert_eq!(second.ask(there(0)), Ok(()), "asked again");
        let (third, _) = world.join(4, 1, 1);
        assert!(third.ask(there(1 << 20)).is_err());
        drop(second);
        assert_eq!(third.ask(there(1 << 20)), Ok(()));
    }

    #[test]
    fn one_that_had_begun_before_a_restart_waits_for_nobody() {
        let world = World::new();
        let (before, _) = world.join(1, 1, 100);
        let at = Timestamp::from_second(2).unwrap();
        let job = JobId::new(at, 2);
        let staging = Staging::new(&world.dir.path().join("vm2"), &job);
        staging.make().unwrap();
        let mut disk = staging.open("disk").unwrap();
        disk.write_all(&[1; 8192]).unwrap();
        disk.sync_all().unwrap();
        let wanted = Wanted { device: 1, bytes: 1 << 20, staging };
        let begun = world.rooms.join((at, job), wanted);
        assert_eq!(begun.ask(there(0)), Ok(()));
        assert!(before.ask(there(1000)).unwrap_err().contains("for copies under way"));
        drop(begun);
        assert_eq!(before.ask(there(1000)), Ok(()));
    }

    #[test]
    fn a_file_system_that_does_not_tell_is_believed_to_have_room() {
        let world = World::new();
        let untold = FileSystem { total: 0, ..there(0) };
        assert!(check(untold, Path::new("/vms/a"), 12).is_ok());
        assert_eq!(world.join(1, 1, 100).0.ask(untold), Ok(()));
    }

    #[test]
    fn what_guests_may_still_write_is_left_to_them() {
        let world = World::new();
        let (room, _) = world.join(1, 1, 100);
        let there = FileSystem { reserved: 50, ..there(140) };
        let full = room.ask(there).unwrap_err();
        assert!(
            full.starts_with("10 bytes more") && full.contains("50 of these for guests' writes"),
            "{full}"
        );
        assert_eq!(room.ask(FileSystem { free: 150, ..there }), Ok(()));
    }

    #[test]
    fn what_could_never_fit_is_refused() {
        let there = FileSystem { total: 10, ..there(0) };
        assert!(check(there, Path::new("/vms/a"), 10).is_ok());
        let refused = check(there, Path::new("/vms/a"), 12).unwrap_err();
        assert!(matches!(refused, JobError::Full { missing: 2, .. }), "{refused}");
    }
}
