use rekindle_repo::{PointId, PointManifest, RepoError, Repository};

use super::Jobs;
use crate::{JobError, RecoveryRequest, failure};

impl Jobs {
    /// The recovery point that a request names, and the repository that has it. A VM's name means
    /// its newest point in any repository.
    ///
    /// A repository that does not answer is an error only if no other has the point.
    pub(super) async fn find_point(
        &self,
        request: &RecoveryRequest,
    ) -> Result<(String, PointManifest), JobError> {
        let env = &self.env;
        let (mut found, mut error): (Option<(String, PointManifest)>, _) = (None, None);
        if let Some(name) = &request.repository {
            env.repository(name)?;
        }
        for (name, repository) in &env.repositories {
            if request.repository.as_ref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            match look_up(repository, &request.point).await {
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

async fn look_up(repository: &Repository, name: &str) -> Result<PointManifest, RepoError> {
    if let Ok(id) = name.parse::<PointId>() {
        match repository.point(&id).await {
            Err(RepoError::NotFound { .. }) => {}
            found => return found,
        }
    }
    repository.latest(name).await
}
