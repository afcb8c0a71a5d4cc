use std::sync::Arc;

use parking_lot::Mutex;
use rekindle_vsphere::GuestView;

use crate::{JobId, JobView, Jobs};

/// A VM of a group, as its gates look at it.
pub(in crate::batch) struct Guest {
    jobs: Arc<Jobs>,
    pub(super) batch: JobId,
    /// As it was when it came up.
    pub(super) job: JobView,
    /// What its script said last, which is not said again.
    pub(super) said: Mutex<String>,
}

impl Guest {
    pub(in crate::batch) fn new(jobs: &Arc<Jobs>, batch: &JobId, job: JobView) -> Self {
        Self { jobs: Arc::clone(jobs), batch: batch.clone(), job, said: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.job.name
    }

    pub(super) fn scripts(&self) -> Option<&super::GateScripts> {
        self.jobs.env().config.gate_scripts.as_ref()
    }

    /// What its tools tell.
    pub(super) async fn told(&self) -> Result<GuestView, String> {
        let env = self.jobs.env();
        let (journal, id) = (env.journal.clone(), self.job.id.clone());
        let record = crate::failure::blocking(move || journal.get(&id)).await;
        let record = record.map_err(|e| e.to_string())?.ok_or("its job is forgotten")?;
        let place = record.place.datastore.as_ref().map(|mount| mount.target.as_str());
        let (Some(target), Some(vm)) = (place, record.host_vm.as_deref()) else {
            return Err("it is not registered at a host".to_owned());
        };
        let link = env.link(target).map_err(|e| e.to_string())?;
        let told = link.guest(vm).await.map_err(|e| e.to_string())?;
        told.ok_or_else(|| "it is not registered any more".to_owned())
    }

    /// Whether its tools run, and their heartbeat is as it should be.
    pub(super) async fn is_healthy(&self) -> Result<(), String> {
        let told = self.told().await?;
        if !told.tools_running {
            return Err("its tools do not run".to_owned());
        }
        match told.heartbeat {
            rekindle_vsphere::Heartbeat::Green => Ok(()),
            other => Err(format!("the heartbeat of its tools is {}", other.as_str())),
        }
    }
}
