use rekindle_repo::PointManifest;

use super::Jobs;
use super::accept::is_chosen;
use crate::forecast::{Subject, probe};
use crate::{Forecast, JobError, JobView, Planned, RecoveryRequest, TargetRef, failure};

impl Jobs {
    /// How long a recovery would take, and whether it would be accepted: what `start` refuses is
    /// refused here. Nothing is changed; a few blocks of the repository may be read.
    pub async fn forecast(&self, request: &RecoveryRequest) -> Result<Forecast, JobError> {
        request.validate()?;
        let checked = self.check(request).await?;
        let earlier = self.earlier(request, &checked.repository);
        let mut subject = self.subject(request, &checked.point);
        let mut forecast = subject.forecast(&earlier);
        if forecast.bytes_per_second.is_none() && request.migrate.is_some() {
            subject.probed_bytes_per_second =
                self.probe(&checked.repository, &checked.point).await?;
            forecast = subject.forecast(&earlier);
        }
        let reserve = self.reserve(request, &checked.repository, &checked.point)?;
        forecast.reserve_bytes = reserve;
        forecast.waits_for = checked.waits_for.or(self.would_wait(reserve)?);
        Ok(forecast)
    }

    /// The part of a forecast that is kept with the job: from earlier jobs alone, at once.
    pub(super) fn planned(
        &self,
        request: &RecoveryRequest,
        repository: &str,
        point: &PointManifest,
    ) -> Planned {
        let earlier = self.earlier(request, repository);
        let forecast = self.subject(request, point).forecast(&earlier);
        Planned {
            to_power_on_ms: forecast.to_power_on.map(|span| span.likely_ms),
            to_full_copy_ms: forecast.to_full_copy.map(|span| span.likely_ms),
        }
    }

    fn subject<'a>(&self, request: &'a RecoveryRequest, point: &'a PointManifest) -> Subject<'a> {
        let chosen = point.disks.iter().filter(|disk| is_chosen(request, &disk.key));
        Subject {
            request,
            vm: &point.vm.name,
            point: point.id.as_str(),
            size_bytes: chosen.fold(0, |sum, disk| sum.saturating_add(disk.size_bytes)),
            max_bytes_per_second: self.env.job_limit.get(),
            probed_bytes_per_second: None,
        }
    }

    /// Jobs from the same repository to the same place, the newest first.
    fn earlier(&self, request: &RecoveryRequest, repository: &str) -> Vec<JobView> {
        let place = |target: &TargetRef| match target {
            TargetRef::Vsphere { name, .. } => Some(name.clone()),
            TargetRef::Export { .. } | TargetRef::Nowhere {} => None,
        };
        let wanted = place(&request.target);
        let mut views = self.list();
        views.retain(|job| job.repository == repository && place(&job.request.target) == wanted);
        views
    }

    async fn probe(
        &self,
        repository: &str,
        point: &PointManifest,
    ) -> Result<Option<u64>, JobError> {
        let opened = self.env.repository(repository)?.open_disk(point, 0).await;
        let map = opened.map_err(|e| failure::repo("open the disk's map", e))?;
        Ok(probe(&map, self.env.config.mover.parallel).await)
    }
}
