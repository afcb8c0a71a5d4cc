//! How much of the space for guests' writes a job reserves.

use std::time::Duration;

use rekindle_repo::PointManifest;

use super::Jobs;
use super::accept::is_chosen;
use crate::admission::measured::{self, EarlierRuns};
use crate::admission::reserve;
use crate::journal::unavailable;
use crate::profiles::key;
use crate::{Admission, JobError, Mode, RecoveryRequest};

impl Jobs {
    /// Bytes that the guest may write. Of a VM that does not run none.
    pub(super) fn reserve(
        &self,
        request: &RecoveryRequest,
        repository: &str,
        point: &PointManifest,
    ) -> Result<u64, JobError> {
        let chosen = point.disks.iter().filter(|disk| is_chosen(request, &disk.key));
        let bytes = chosen.fold(0u64, |sum, disk| sum.saturating_add(disk.size_bytes));
        let config = &self.env.config;
        let runs = match (config.admission, request.mode) {
            (_, Mode::FullRestore) => return Ok(0),
            (Admission::Measured, Mode::LiveRecovery | Mode::LiveMount) => {
                self.earlier_runs(request, repository, point)?
            }
            (Admission::Measured, Mode::DiskOnly) | (Admission::Reserve, _) => None,
        };
        let ends = request.expires_in_seconds.map(Duration::from_secs);
        let horizon = ends.map_or(config.measured_for, |ends| ends.min(config.measured_for));
        Ok(match runs {
            Some(runs) => measured::reserve(runs, bytes, horizon),
            None => reserve(bytes, config),
        })
    }

    /// What is known of the VM; `None` before it has run.
    fn earlier_runs(
        &self,
        request: &RecoveryRequest,
        repository: &str,
        point: &PointManifest,
    ) -> Result<Option<EarlierRuns>, JobError> {
        let (env, vm) = (&self.env, &point.vm.id);
        let Some(bytes_per_second) = env.writes.rate(vm).map_err(unavailable)? else {
            return Ok(None);
        };
        let block = env.repository(repository)?.block_size().bytes();
        let mut boot_bytes = 0u64;
        for disk in point.disks.iter().filter(|disk| is_chosen(request, &disk.key)) {
            let profile = env.profiles.get(&key(vm, &disk.key)).map_err(unavailable)?;
            let blocks = profile.map_or(0, |profile| profile.blocks().count() as u64);
            boot_bytes = boot_bytes.saturating_add(blocks.saturating_mul(block));
        }
        Ok(Some(EarlierRuns { boot_bytes, bytes_per_second }))
    }

    /// What a job that needs so many bytes would wait for if it were accepted now.
    pub(super) fn would_wait(&self, need: u64) -> Result<Option<String>, JobError> {
        let used = self.env.overlays.used_by_each();
        let most = self.env.config.max_active;
        Ok(self.env.gate.would_wait(need, self.env.free()?, used, most))
    }
}
