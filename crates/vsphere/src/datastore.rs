//! NFS datastores: mounted on a host, and removed from it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{DatastoreId, HostId, Vsphere, VsphereError, error::Failure, soap::Request};

/// First and longest pause between two tries to remove a datastore that is in use: HA and storage
/// I/O control let go of it late.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// A datastore.
#[derive(Clone, Debug, Serialize)]
pub struct Datastore {
    /// Its reference.
    pub id: DatastoreId,
    /// Its name, as in `[name] dir/file`.
    pub name: String,
    /// `NFS`, `VMFS`, `vsan` and so on.
    pub kind: String,
    /// Its size in bytes.
    pub capacity_bytes: u64,
    /// What of that is free.
    pub free_bytes: u64,
    /// Whether it can be reached.
    pub accessible: bool,
    /// What it mounts, if it is an NFS datastore.
    pub nas: Option<NasExport>,
}

/// An NFS export, and the name of the datastore that it is to be.
///
/// Server and path must be the same to the byte on all hosts that share the datastore: they make its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NasExport {
    /// The NFS server's address.
    pub remote_host: String,
    /// The export's path, with a leading slash.
    pub remote_path: String,
    /// The datastore's name: at most 42 characters, none of `/[]`.
    pub name: String,
}

impl NasExport {
    /// Whether it is the same export, under whatever name.
    fn same_remote(&self, other: &NasExport) -> bool {
        let path = |export: &NasExport| export.remote_path.trim_end_matches('/').to_owned();
        self.remote_host.eq_ignore_ascii_case(&other.remote_host) && path(self) == path(other)
    }

    pub(crate) fn is(&self, datastore: &Datastore) -> bool {
        datastore.nas.as_ref().is_some_and(|nas| self.same_remote(nas))
    }
}

impl Vsphere {
    /// Mounts an export on a host as a datastore, read and write. One that is mounted already is
    /// found, and keeps the name that it has: use the name that comes back.
    pub async fn ensure_nas_datastore(
        &self,
        host: &HostId,
        export: &NasExport,
    ) -> Result<Datastore, VsphereError> {
        self.session.insist(|| self.try_mount(host, export)).await
    }

    async fn try_mount(&self, host: &HostId, export: &NasExport) -> Result<Datastore, Failure> {
        if let Some(found) = self.mounted(host, export).await? {
            return Ok(found);
        }
        let place = self.place(host).await?;
        let mut wanted = export.clone();
        // In a datacenter an export has one name on all hosts: the first to mount it has chosen.
        let known = self.datastores_of(place.datacenter.clone(), "Datacenter").await?;
        if let Some(other) = known.into_iter().find(|d| export.is(d)) {
            wanted.name = other.name;
        }
        let request = Request::new("CreateNasDatastore", &place.datastore_system, |w| {
            w.element("spec", |w| {
                w.text("remoteHost", &wanted.remote_host);
                w.text("remotePath", &wanted.remote_path);
                w.text("localPath", &wanted.name);
                w.text("accessMode", "readWrite");
                w.text("type", "NFS");
            });
        });
        match self.session.call_for_moref(&request).await {
            Ok(_) => {}
            // Somebody was faster, or our own earlier call was done after all.
            Err(failure) if failure.is(&["AlreadyExists", "DuplicateName"]) => {
                return self.mounted(host, export).await?.ok_or(failure);
            }
            Err(failure) => return Err(failure),
        }
        let mounted = self.mounted(host, export).await?;
        mounted.ok_or_else(|| {
            Failure::not_found(format!("the datastore `{}` just mounted", wanted.name))
        })
    }

    async fn mounted(
        &self,
        host: &HostId,
        export: &NasExport,
    ) -> Result<Option<Datastore>, Failure> {
        Ok(self.try_datastores(host).await?.into_iter().find(|d| export.is(d)))
    }

    /// Removes from a host the datastore that mounts this export, whatever its name, and no other.
    /// While something still uses it, it is tried again for `patience`.
    pub async fn remove_nas_datastore(
        &self,
        host: &HostId,
        export: &NasExport,
        patience: Duration,
    ) -> Result<(), VsphereError> {
        let end = Instant::now() + patience;
        let mut pause = BACK_OFF.0;
        loop {
            let result = self.session.insist(|| self.try_remove(host, export)).await;
            match &result {
                Err(VsphereError::Refused { fault, .. })
                    if fault == "ResourceInUse" && Instant::now() + pause < end =>
                {
                    sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF.1);
                }
                _ => return result,
            }
        }
    }

    async fn try_remove(&self, host: &HostId, export: &NasExport) -> Result<(), Failure> {
        let Some(datastore) = self.mounted(host, export).await? else { return Ok(()) };
        let place = self.place(host).await?;
        let request = Request::new("RemoveDatastore", &place.datastore_system, |w| {
            w.moref("datastore", &datastore.id.moref());
        });
        match self.session.call(&request).await {
            Err(failure) if !failure.is(&["NotFound", "ManagedObjectNotFound"]) => Err(failure),
            _ => Ok(()),
        }
    }

    /// Makes the server look at a datastore's free space now.
    pub async fn refresh_datastore(&self, datastore: &DatastoreId) -> Result<(), VsphereError> {
        let request = Request::new("RefreshDatastore", &datastore.moref(), |_| {});
        self.session.insist(|| async { self.session.call(&request).await.map(drop) }).await
    }
}

#[cfg(test)]
mod tests {
    use super::NasExport;

    fn export(host: &str, path: &str) -> NasExport {
        NasExport { remote_host: host.into(), remote_path: path.into(), name: "n".into() }
    }

    #[test]
    fn an_export_is_known_by_server_and_path() {
        let ours = export("nas", "/rekindle/a");
        assert!(ours.same_remote(&export("NAS", "/rekindle/a/")));
        assert!(!ours.same_remote(&export("nas", "/rekindle/A")));
        assert!(!ours.same_remote(&export("other", "/rekindle/a")));
    }
}
