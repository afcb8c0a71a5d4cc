use std::collections::{BTreeMap, BTreeSet};

use super::FakeHost;
use crate::JobError;
use crate::journal::HostMount;

/// What the host bears, and what others have of it.
#[derive(Debug)]
pub(crate) struct Bears {
    /// Mounts that are not ours.
    pub(crate) mounts: usize,
    pub(crate) mounts_allowed: usize,
    /// Storage migrations that are not ours.
    pub(crate) moves: usize,
    /// Bytes free on datastores, where there is no ample room.
    pub(crate) free: BTreeMap<String, u64>,
    /// Storage migrations do not end.
    pub(crate) holds: bool,
}

impl Default for Bears {
    fn default() -> Self {
        Self { mounts: 1, mounts_allowed: 8, moves: 0, free: BTreeMap::new(), holds: false }
    }
}

impl FakeHost {
    pub(crate) async fn mounts(
        &self,
        _mount: &HostMount,
        path: &str,
    ) -> Result<(usize, Option<usize>, bool), JobError> {
        let state = self.call("mounts")?;
        let used = state.bears.mounts + state.mounted.len();
        Ok((used, Some(state.bears.mounts_allowed), state.mounted.contains_key(path)))
    }

    pub(crate) async fn moves(
        &self,
        _mount: &HostMount,
        _but: &BTreeSet<String>,
    ) -> Result<usize, JobError> {
        Ok(self.call("moves")?.bears.moves)
    }

    pub(crate) async fn free_bytes(
        &self,
        _mount: &HostMount,
        datastore: &str,
    ) -> Result<u64, JobError> {
        let state = self.call("free_bytes")?;
        Ok(state.bears.free.get(datastore).copied().unwrap_or(1 << 50))
    }

    /// Waits for as long as storage migrations do not end.
    pub(super) async fn held(&self) {
        while self.state().bears.holds {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}
