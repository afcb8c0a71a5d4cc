//! Directories on datastores.

use crate::{
    HostId, Vsphere, VsphereError, error::Failure, moref::MoRef, soap::Request, xml::Writer,
};

impl Vsphere {
    /// Makes the directory `[datastore] name` on a datastore of the host. One that is there is fine.
    pub async fn ensure_directory(&self, host: &HostId, path: &str) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_make_directory(host, path)).await
    }

    async fn try_make_directory(&self, host: &HostId, path: &str) -> Result<(), Failure> {
        let request = self.on_file("MakeDirectory", host, path, |w| {
            w.flag("createParentDirectories", false);
        });
        match self.session.call(&request.await?).await {
            Err(failure) if !failure.is(&["FileAlreadyExists"]) => Err(failure),
            _ => Ok(()),
        }
    }

    /// Removes the directory `[datastore] name` with all that is in it: name one of your own alone.
    /// One that is gone, as well as its datastore, is fine.
    pub async fn remove_directory(&self, host: &HostId, path: &str) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_remove_directory(host, path)).await
    }

    async fn try_remove_directory(&self, host: &HostId, path: &str) -> Result<(), Failure> {
        let request = self.on_file("DeleteDatastoreFile_Task", host, path, |_| {}).await?;
        match self.session.run(&request, self.session.limits.task).await {
            Err(failure) if !failure.is(&["FileNotFound", "InvalidDatastore", "NotFound"]) => {
                Err(failure)
            }
            _ => Ok(()),
        }
    }

    async fn on_file(
        &self,
        call: &'static str,
        host: &HostId,
        path: &str,
        fill: impl FnOnce(&mut Writer),
    ) -> Result<Request, Failure> {
        let manager = self.file_manager()?;
        let datacenter = self.place(host).await?.datacenter;
        Ok(Request::new(call, manager, |w| {
            w.text("name", path);
            w.moref("datacenter", &datacenter);
            fill(w);
        }))
    }

    fn file_manager(&self) -> Result<&MoRef, Failure> {
        let manager = self.session.roots.file_manager.as_ref();
        manager.ok_or_else(|| Failure::not_found("the server's file manager"))
    }
}
