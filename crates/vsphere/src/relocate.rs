//! Storage migration: a VM's files go to another datastore while it runs.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    DatastoreId, VmId, Vsphere, VsphereError,
    error::Failure,
    moref::MoRef,
    soap::Request,
    task::{self, Running},
};

impl Vsphere {
    /// Moves all of a VM's files to another datastore of its host; `progress` is told percents. One
    /// that is there already is fine. Needs a vCenter.
    ///
    /// A migration of this VM that is going on already is waited for instead of starting another.
    /// Dropped, the migration goes on at the server: [`Vsphere::cancel_tasks`] ends it.
    pub async fn relocate(
        &self,
        vm: &VmId,
        to: &DatastoreId,
        within: Duration,
        progress: impl Fn(u8) + Send + Sync,
    ) -> Result<(), VsphereError> {
        let deadline = Instant::now() + within;
        self.session.insist(|| self.try_relocate(vm, to, deadline, &progress)).await
    }

    async fn try_relocate(
        &self,
        vm: &VmId,
        to: &DatastoreId,
        deadline: Instant,
        progress: &(dyn Fn(u8) + Sync + Send),
    ) -> Result<(), Failure> {
        loop {
            let view = self.view(vm).await?;
            let home = self.session.read(&to.moref(), &["name"]).await?.owned("name");
            let there = view.vmx_path.starts_with(&format!("[{home}] "));
            if there && view.disks.iter().all(|disk| disk.datastore.as_ref() == Some(to)) {
                return Ok(());
            }
            let request = Request::new("RelocateVM_Task", &vm.moref(), |w| {
                w.element("spec", |w| {
                    w.moref("datastore", &to.moref());
                    if view.has_snapshot {
                        w.text("diskMoveType", "moveAllDiskBackingsAndConsolidate");
                    }
                });
                w.text("priority", "defaultPriority");
            });
            let moved = match self.session.call_for_moref(&request).await {
                Ok(task) => self.moving(request.call, task, deadline, progress).await,
                Err(failure) => Err(failure),
            };
            let Err(failure) = moved else { return Ok(()) };
            match task::in_the_way(&failure) {
                // An earlier one is at work: where the VM is then decides, seen above.
                Some(task) => {
                    task::settled(self.moving(request.call, task, deadline, progress).await)?;
                }
                None => task::forgotten(failure, deadline).await?,
            }
        }
    }

    async fn moving(
        &self,
        call: &'static str,
        task: MoRef,
        deadline: Instant,
        progress: &(dyn Fn(u8) + Sync + Send),
    ) -> Result<(), Failure> {
        let running = Running {
            call,
            task,
            deadline,
            progress: &|percent| progress(percent),
            questions_of: None,
        };
        self.session.follow(&running).await.map(drop)
    }
}
