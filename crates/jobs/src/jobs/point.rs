use jiff::Timestamp;
use rekindle_repo::{Attached, PointId, PointManifest, RepoError};

use super::Jobs;
use crate::{JobError, RecoveryRequest, failure};

impl Jobs {
    /// A request for what lies below the VM of the job that the request names.
    fn point_below(&self, request: &RecoveryRequest) -> Result<Option<RecoveryRequest>, JobError> {
        let Some(source) = &request.from_job else { return Ok(None) };
        let view = self.view(source)?;
        if request.repository.as_ref().is_some_and(|named| *named != view.repository) {
            let message = format!("job {source} is of a point in repository {}", view.repository);
            return Err(JobError::refused("bad_from_job", message));
        }
        let (point, repository) = (view.point, Some(view.repository));
        Ok(Some(RecoveryRequest { point, repository, from_job: None, ..request.clone() }))
    }

    /// The recovery point that a request names, and the repository that has it. A VM's name means
    /// its newest point in any repository that was taken in time and has the tag.
    ///
    /// A repository that does not answer is an error only if no other has the point.
    pub(super) async fn find_point(
        &self,
        request: &RecoveryRequest,
    ) -> Result<(String, PointManifest), JobError> {
        let env = &self.env;
        let below = self.point_below(request)?;
        let request = below.as_ref().unwrap_or(request);
        let (mut found, mut error): (Option<(String, PointManifest)>, _) = (None, None);
        if let Some(name) = &request.repository {
            env.attached(name)?;
        }
        for (name, attached) in &env.repositories {
            if request.repository.as_ref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            match look_up(attached, request).await {
                Ok(point) => {
                    if found.as_ref().is_none_or(|(_, other)| other.created_at < point.created_at) {
                        found = Some((name.clone(), point));
                    }
                }
                Err(RepoError::NotFound { .. }) => {}
                Err(other) => error = Some(other),
            }
        }
        match (found, error) {
            (Some(found), _) => Ok(found),
            (None, Some(error)) => Err(failure::repo("look for the recovery point", error)),
            (None, None) => Err(JobError::NotFound { what: "point", name: request.point.clone() }),
        }
    }
}

async fn look_up(
    attached: &Attached,
    request: &RecoveryRequest,
) -> Result<PointManifest, RepoError> {
    let repository = attached.get()?;
    let name = &request.point;
    if let Ok(id) = name.parse::<PointId>() {
        match repository.point(&id).await {
            Err(RepoError::NotFound { .. }) => {}
            found => {
                let point = found.and_then(|point| suiting(point, request))?;
                return match repository.goes_after(&point.id).await? {
                    None => Ok(point),
                    Some(at) => Err(condemned(&point.id, at)),
                };
            }
        }
    }
    if request.before.is_none() && request.tag.is_none() {
        return repository.latest(name).await;
    }
    let all = repository.points().await?.points.into_iter();
    let of_vm = all.filter(|point| point.vm.name == *name || point.vm.id.as_str() == name);
    let suiting = of_vm.filter(|point| suits(point, request));
    let latest = suiting.max_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    latest.ok_or_else(|| not_found(name))
}

/// What a recovery would run from could be deleted under it.
fn condemned(point: &PointId, at: Timestamp) -> RepoError {
    RepoError::Refused {
        reason: format!(
            "recovery point {point} was let go by a prune and is deleted after {at}: prune with it spared to take it back"
        ),
    }
}

fn suits(point: &PointManifest, request: &RecoveryRequest) -> bool {
    let in_time = request.before.is_none_or(|before| point.created_at <= before);
    in_time && request.tag.as_ref().is_none_or(|tag| point.tags.contains(tag))
}

fn suiting(point: PointManifest, request: &RecoveryRequest) -> Result<PointManifest, RepoError> {
    if suits(&point, request) { Ok(point) } else { Err(not_found(&request.point)) }
}

fn not_found(name: &str) -> RepoError {
    RepoError::NotFound { what: format!("a recovery point of {name:?} of that time and tag") }
}
