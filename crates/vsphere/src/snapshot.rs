//! Snapshots of a VM, and where its host writes what comes after one.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    SnapshotId, VmId, Vsphere, VsphereError, error::Failure, moref::MoRef, soap::Request, task,
    xml::Element,
};

/// How long a host may write back what a snapshot holds: 8 TiB at 100 MiB/s.
const MERGE_WITHIN: Duration = Duration::from_secs(86_400);

/// A VM has at most 32.
const MAX_SNAPSHOTS: usize = 64;

impl Vsphere {
    /// Sees that a VM has a snapshot, of its disks alone: what its guest writes from now on goes to
    /// files of their own. One that has any snapshot already is fine.
    pub async fn ensure_snapshot(&self, vm: &VmId, name: &str) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_snapshot(vm, name)).await
    }

    async fn try_snapshot(&self, vm: &VmId, name: &str) -> Result<(), Failure> {
        let request = Request::new("CreateSnapshot_Task", &vm.moref(), |w| {
            w.text("name", name);
            w.flag("memory", false);
            w.flag("quiesce", false);
        });
        self.until_snapshots(vm, true, &request).await
    }

    /// Writes what is in a VM's snapshots back to its disks, and removes them all. One that has none
    /// is fine.
    pub async fn consolidate(&self, vm: &VmId) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_consolidate(vm)).await
    }

    async fn try_consolidate(&self, vm: &VmId) -> Result<(), Failure> {
        let request = Request::new("RemoveAllSnapshots_Task", &vm.moref(), |w| {
            w.flag("consolidate", true);
        });
        self.until_snapshots(vm, false, &request).await
    }

    /// Makes the call until the VM has snapshots, or none.
    async fn until_snapshots(
        &self,
        vm: &VmId,
        wanted: bool,
        request: &Request,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + MERGE_WITHIN;
        while self.view(vm).await?.has_snapshot != wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            let Err(failure) = self.session.run(request, left).await else { return Ok(()) };
            match task::in_the_way(&failure) {
                Some(task) => self.session.wait_out(&task, deadline).await?,
                None => task::forgotten(failure, deadline).await?,
            }
        }
        Ok(())
    }

    /// Takes a snapshot of a VM's disks alone.
    pub async fn take_snapshot(
        &self,
        vm: &VmId,
        name: &str,
        description: &str,
    ) -> Result<SnapshotId, VsphereError> {
        let request = Request::new("CreateSnapshot_Task", &vm.moref(), |w| {
            w.text("name", name);
            w.text("description", description);
            w.flag("memory", false);
            w.flag("quiesce", false);
        });
        // Not repeated: one whose answer is lost is found by its name.
        let made = self.session.run(&request, self.session.limits.task).await?;
        let snapshot = made.as_ref().and_then(Element::moref);
        let garbled = || Failure::garbled(request.call, "it names no snapshot");
        Ok(SnapshotId::from(snapshot.ok_or_else(garbled)?))
    }

    /// Removes a VM's snapshots of this name, and writes what came after them back to the disks; says how many there
    /// were. Others stay.
    pub async fn remove_snapshots(&self, vm: &VmId, name: &str) -> Result<usize, VsphereError> {
        self.session.insist(|| self.try_remove_snapshots(vm, name)).await
    }

    async fn try_remove_snapshots(&self, vm: &VmId, name: &str) -> Result<usize, Failure> {
        let deadline = Instant::now() + MERGE_WITHIN;
        let mut removed = 0;
        loop {
            let read = self.session.read(&vm.moref(), &["name", "snapshot"]).await?;
            let mut named = Vec::new();
            if let Some(info) = read.get("snapshot") {
                info.all("rootSnapshotList").for_each(|tree| find_named(tree, name, &mut named));
            }
            let Some(snapshot) = named.pop() else { return Ok(removed) };
            let request = Request::new("RemoveSnapshot_Task", &snapshot, |w| {
                w.flag("removeChildren", false);
                w.flag("consolidate", true);
            });
            let left = deadline.saturating_duration_since(Instant::now());
            match self.session.run(&request, left).await {
                Ok(_) if removed < MAX_SNAPSHOTS => removed += 1,
                Ok(_) => return Err(Failure::garbled(request.call, "a snapshot that stays")),
                Err(failure) => match task::in_the_way(&failure) {
                    Some(task) => self.session.wait_out(&task, deadline).await?,
                    None => task::forgotten(failure, deadline).await?,
                },
            }
        }
    }

    /// Whether a VM has a snapshot of this name.
    pub async fn has_snapshot_named(&self, vm: &VmId, name: &str) -> Result<bool, VsphereError> {
        self.session.insist(|| self.try_has_named(vm, name)).await
    }

    async fn try_has_named(&self, vm: &VmId, name: &str) -> Result<bool, Failure> {
        let read = self.session.read(&vm.moref(), &["name", "snapshot"]).await?;
        let mut named = Vec::new();
        if let Some(info) = read.get("snapshot") {
            info.all("rootSnapshotList").for_each(|tree| find_named(tree, name, &mut named));
        }
        Ok(!named.is_empty())
    }

    /// Writes all that lies over a VM's disks back to them, whether a snapshot is known for it or not, and sees
    /// that each disk is one file alone then. A VM whose disks are, and that has no snapshots, is fine.
    pub async fn merge_disks(&self, vm: &VmId) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_merge(vm)).await
    }

    async fn try_merge(&self, vm: &VmId) -> Result<(), Failure> {
        self.try_consolidate(vm).await?;
        if !self.is_chained(vm).await? {
            return Ok(());
        }
        let deadline = Instant::now() + MERGE_WITHIN;
        let request = Request::new("ConsolidateVMDisks_Task", &vm.moref(), |_| {});
        self.until_done(&request, deadline).await?;
        if self.is_chained(vm).await? {
            // A host that thinks there is nothing to do looks again when it removes a snapshot.
            self.try_snapshot(vm, "rekindle").await?;
            self.try_consolidate(vm).await?;
        }
        match self.is_chained(vm).await? {
            false => Ok(()),
            true => {
                let message = "a disk has a parent all the same".to_owned();
                let (call, fault) = (request.call, "NotCarriedOut".into());
                Err(Failure::Error(VsphereError::Refused { call, fault, message }))
            }
        }
    }

    async fn is_chained(&self, vm: &VmId) -> Result<bool, Failure> {
        Ok(self.view(vm).await?.disks.iter().any(|disk| disk.has_parent))
    }

    /// Makes the call, after whatever is in its way.
    async fn until_done(&self, request: &Request, deadline: Instant) -> Result<(), Failure> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Err(failure) = self.session.run(request, left).await else { return Ok(()) };
            match task::in_the_way(&failure) {
                Some(task) => self.session.wait_out(&task, deadline).await?,
                None => task::forgotten(failure, deadline).await?,
            }
        }
    }

    /// Lets new snapshots be written beside the disks again, after [`Vsphere::ensure_snapshot`] with
    /// a configuration that had them written elsewhere. Says whether the host also gave up the
    /// other place as the VM's working directory, which some do only while the VM is off.
    pub async fn write_snapshots_beside(&self, vm: &VmId) -> Result<bool, VsphereError> {
        self.session.insist(|| self.try_write_beside(vm)).await
    }

    async fn try_write_beside(&self, vm: &VmId) -> Result<bool, Failure> {
        let view = self.view(vm).await?;
        let home = view.vmx_path.rsplit_once('/').map_or("", |(home, _)| home).to_owned();
        let beside = Request::new("ReconfigVM_Task", &vm.moref(), |w| {
            w.element("spec", |w| {
                w.element("extraConfig", |w| {
                    w.text("key", "snapshot.redoNotWithParent");
                    w.typed_text("value", "xsd:string", "FALSE");
                });
            });
        });
        self.session.run(&beside, self.session.limits.task).await?;
        let at_home = Request::new("ReconfigVM_Task", &vm.moref(), |w| {
            w.element("spec", |w| {
                w.element("files", |w| w.text("snapshotDirectory", &format!("{home}/")));
            });
        });
        match self.session.run(&at_home, self.session.limits.task).await {
            Ok(_) => Ok(true),
            Err(Failure::Fault(fault)) => {
                tracing::debug!(?fault, "the working directory stays");
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// The snapshots called `name` in a tree, those above before those below.
fn find_named(tree: &Element, name: &str, found: &mut Vec<MoRef>) {
    if tree.text_at(&["name"]) == Some(name) {
        found.extend(tree.child("snapshot").and_then(Element::moref));
    }
    tree.all("childSnapshotList").for_each(|child| find_named(child, name, found));
}
