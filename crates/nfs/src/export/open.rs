//! Opening an export.

use super::{Export, Shared, SpaceView, Stats, scan};
use crate::{ExportSpec, NfsError};
use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

impl Export {
    /// Opens a directory as an export, making it if need be, and scans it. Blocks.
    pub(crate) fn from_dir(shared: Arc<Shared>, spec: ExportSpec) -> Result<Self, NfsError> {
        let shown = spec.dir.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&spec.dir)
            .map_err(NfsError::io(format!("create {shown}")))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root_dir = rustix::fs::open(&spec.dir, flags, Mode::empty())
            .map_err(NfsError::os(format!("open {shown}")))?;
        let scanned = scan::scan(&shared, &root_dir)?;
        let export = Self {
            path: format!("/{}", spec.name),
            name: spec.name,
            dir: spec.dir,
            id: scanned.root.id,
            root_dir,
            root: scanned.root,
            nodes: RwLock::new(scanned.nodes),
            disks: Mutex::new(scanned.disks),
            names: Mutex::new(super::Intents::new(shared.instance)),
            sync: super::GroupSync::default(),
            clients: RwLock::new(spec.clients),
            mounts: Mutex::default(),
            sessions: RwLock::default(),
            space: Mutex::new(SpaceView::default()),
            removed: false.into(),
            stats: Stats::default(),
            shared,
        };
        export.refresh_space();
        Ok(export)
    }
}
