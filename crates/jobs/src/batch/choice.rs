use std::collections::BTreeMap;

use jiff::Timestamp;
use rekindle_repo::PointManifest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::VMS_MAX;
use crate::{JobError, Jobs, RecoveryRequest, failure};

/// Stands for each VM that was chosen, as the `point` of a selection's recovery.
const EACH: &str = "*";

/// VMs by what their points are: the newest suiting point of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Only these VMs, by name. All when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vms: Vec<String>,
    /// Only points with this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Only points that were taken at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only points that were taken at this time or before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
    /// What each of them is to become. Its `point` is `*`.
    pub each: Box<RecoveryRequest>,
}

impl Selection {
    pub(super) fn validate(&self) -> Result<(), JobError> {
        let refused = |message: &str| Err(JobError::refused("bad_selection", message));
        let each = &self.each;
        each.validate()?;
        if each.point != EACH || each.before.is_some() || each.tag.is_some() {
            return refused("`each` has `*` as its point; time and tag are the selection's");
        }
        if each.name.is_some() {
            return refused("a name is one VM's: give name_prefix or name_suffix");
        }
        if self.vms.len() > VMS_MAX {
            return refused("too many VMs are named");
        }
        self.vms.iter().chain(&self.tag).try_for_each(|text| crate::request::text("select", text))
    }

    fn suits(&self, point: &PointManifest) -> bool {
        self.tag.as_ref().is_none_or(|tag| point.tags.contains(tag))
            && self.since.is_none_or(|since| point.created_at >= since)
            && self.before.is_none_or(|before| point.created_at <= before)
            && (self.vms.is_empty() || self.vms.contains(&point.vm.name))
    }

    /// The recoveries it stands for now, in the order of the VMs' names, each of one certain point.
    pub(super) async fn choose(&self, jobs: &Jobs) -> Result<Vec<RecoveryRequest>, JobError> {
        let mut newest: BTreeMap<String, (String, PointManifest)> = BTreeMap::new();
        if let Some(name) = &self.each.repository {
            jobs.env().repository(name)?;
        }
        for (name, attached) in &jobs.env().repositories {
            if self.each.repository.as_ref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            let repository = attached.get().map_err(|e| failure::repo("open a repository", e))?;
            let listing = repository.points().await;
            let listing = listing.map_err(|e| failure::repo("list the recovery points", e))?;
            for point in listing.points.into_iter().filter(|point| self.suits(point)) {
                let vm = point.vm.name.clone();
                let known = newest.get(&vm).map(|(_, known)| known.created_at);
                if known.is_none_or(|known| known < point.created_at) {
                    newest.insert(vm, (name.clone(), point));
                }
            }
        }
        if let Some(missing) = self.vms.iter().find(|vm| !newest.contains_key(*vm)) {
            return Err(JobError::NotFound { what: "point", name: missing.clone() });
        }
        if newest.is_empty() || newest.len() > VMS_MAX {
            let message =
                format!("{} VMs suit the selection, 1 to {VMS_MAX} can be begun", newest.len());
            return Err(JobError::refused("bad_selection", message));
        }
        let recovery = |(repository, point): (String, PointManifest)| RecoveryRequest {
            point: point.id.to_string(),
            repository: Some(repository),
            ..(*self.each).clone()
        };
        Ok(newest.into_values().map(recovery).collect())
    }
}
