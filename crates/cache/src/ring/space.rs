use std::path::Path;

/// Where the ring's file system stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes of the file system.
    pub(crate) total: u64,
    /// Bytes that we may still write, as `statvfs` tells (`f_bavail`).
    pub(crate) free: u64,
}

impl Room {
    /// Bytes that the ring may add and leave `percent` free; negative when it must give back.
    pub(crate) fn spare(self, percent: u8) -> i128 {
        let keep = u128::from(self.total) * u128::from(percent) / 100;
        i128::from(self.free) - keep.cast_signed()
    }
}

/// Who tells the room: the file system, or a test.
pub(crate) enum Space {
    FileSystem,
    /// `total` bytes of which others took so many, and the ring what its files take.
    #[cfg(test)]
    Simulated {
        total: u64,
        others: std::sync::Arc<std::sync::atomic::AtomicU64>,
    },
}

impl Space {
    /// The room in `dir`. `None` when nobody can tell.
    pub(crate) fn look(&self, dir: &Path) -> Option<Room> {
        match self {
            Self::FileSystem => {
                let told = rustix::fs::statvfs(dir).ok()?;
                let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
                Some(Room { total: bytes(told.f_blocks), free: bytes(told.f_bavail) })
            }
            #[cfg(test)]
            Self::Simulated { total, others } => {
                use std::os::unix::fs::MetadataExt;
                let files =
                    std::fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.metadata().ok());
                let own: u64 = files.map(|file| file.blocks() * 512).sum();
                let others = others.load(std::sync::atomic::Ordering::Relaxed);
                Some(Room { total: *total, free: total.saturating_sub(others.saturating_add(own)) })
            }
        }
    }
}
