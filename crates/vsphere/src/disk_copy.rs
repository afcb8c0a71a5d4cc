//! Virtual disks, copied by their host from one datastore to another.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    HostId, Vsphere, VsphereError, error::Failure, moref::MoRef, soap::Request, task::Running,
};

impl Vsphere {
    /// Copies the disk of the descriptor `from` to `to`, where none may be; both are
    /// `[datastore] dir/disk.vmdk`. Nothing may write to it meanwhile, but a snapshot of it may be in use.
    /// `progress` is told percents.
    ///
    /// Not repeated. Dropped, the copy goes on at the host: [`Vsphere::end_disk_copies`] ends it.
    pub async fn copy_disk(
        &self,
        host: &HostId,
        from: &str,
        to: &str,
        within: Duration,
        progress: impl Fn(u8) + Send + Sync,
    ) -> Result<(), VsphereError> {
        self.try_copy_disk(host, from, to, within, &progress).await.map_err(VsphereError::from)
    }

    async fn try_copy_disk(
        &self,
        host: &HostId,
        from: &str,
        to: &str,
        within: Duration,
        progress: &(dyn Fn(u8) + Sync + Send),
    ) -> Result<(), Failure> {
        let manager = self.session.roots.disk_manager.as_ref();
        let manager = manager.ok_or_else(|| Failure::not_found("the server's disk manager"))?;
        let place = self.place(host).await?;
        let request = Request::new("CopyVirtualDisk_Task", manager, |w| {
            w.text("sourceName", from);
            w.moref("sourceDatacenter", &place.datacenter);
            w.text("destName", to);
            w.moref("destDatacenter", &place.datacenter);
            w.flag("force", false);
        });
        let task = self.session.call_for_moref(&request).await?;
        self.session.note_copy(to, Some(&task));
        let running = Running {
            call: request.call,
            task,
            deadline: Instant::now() + within,
            progress: &|percent| progress(percent),
            questions_of: None,
        };
        let ended = self.session.follow(&running).await.map(drop);
        if !matches!(&ended, Err(Failure::Error(_))) {
            self.session.note_copy(to, None);
        }
        ended
    }

    /// Ends the copies that this process has begun to places that begin with `below`, and waits for that.
    pub async fn end_disk_copies(&self, below: &str) -> Result<(), VsphereError> {
        for (to, task) in self.session.copies_below(below) {
            let end = || self.cancel(&task, Instant::now() + self.session.limits.task);
            self.session.insist(end).await?;
            self.session.note_copy(&to, None);
        }
        Ok(())
    }
}

/// Copies that go on at the server, by their destination.
pub(crate) type Copies = std::sync::Mutex<std::collections::BTreeMap<String, MoRef>>;
