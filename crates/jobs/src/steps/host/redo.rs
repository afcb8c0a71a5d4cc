//! The guest's writes on another datastore: in the files of a snapshot, which the host writes to the
//! directory that the VM's configuration names.

use super::super::{Found, Work};
use crate::JobError;
use crate::target::Link;

/// The snapshot's name.
const NAME: &str = "rekindle";

impl Work<'_> {
    /// The directory has the job's id in its name, so that no other is ever touched.
    fn redo(&self) -> Result<String, JobError> {
        self.record.redo().ok_or_else(|| JobError::Corrupt {
            what: "read the job's journal".into(),
            source: anyhow::anyhow!("a step of a redirection, and no datastore for it"),
        })
    }

    pub(in super::super) async fn redirect(&mut self) -> Result<Found, JobError> {
        let (link, mount, _) = self.link()?;
        link.make_dir(mount, &self.redo()?).await?;
        Ok(Found::default())
    }

    /// Removes the directory. Of a VM that has migrated the host may still swap to it until the VM
    /// is off: then it is left, with a note, rather than the job kept for ever.
    pub(in super::super) async fn remove_redirection(&mut self) -> Result<Found, JobError> {
        let (link, mount, _) = self.link()?;
        let directory = self.redo()?;
        match link.remove_dir(mount, &directory).await {
            Err(error @ JobError::Refused { .. }) if self.has_migrated() => {
                let note = format!("{directory} is left, remove it when the VM is off: {error}");
                Ok(Found { notes: vec![note], ..Found::default() })
            }
            removed => removed.map(|()| Found::default()),
        }
    }

    pub(in super::super) async fn snapshot(&mut self) -> Result<Found, JobError> {
        let (link, mount, vmx) = self.link()?;
        link.snapshot(mount, &vmx, NAME).await?;
        Ok(Found::default())
    }

    /// A VM that is migrated with its writes elsewhere would leave them there.
    pub(in super::super) async fn consolidate(&mut self) -> Result<Found, JobError> {
        let (link, mount, vmx) = self.link()?;
        link.consolidate(mount, &vmx).await?;
        Ok(Found::default())
    }

    /// A migration was given up, and the guest goes on writing to the other datastore. When the job
    /// ends there is nothing to go back to.
    pub(in super::super) async fn redirect_again(&mut self) -> Result<(), JobError> {
        if self.record.plan.is_unwinding() {
            return Ok(());
        }
        self.snapshot().await.map(drop)
    }

    /// Where the VM stays, its snapshots are beside its disks again.
    pub(super) async fn forget_redirection(&self, link: &Link) -> Result<Vec<String>, JobError> {
        if self.record.request.redo_datastore.is_none() {
            return Ok(Vec::new());
        }
        let forgotten = link.write_beside(self.vm()?).await?;
        let note = || "the VM's working directory stays on the other datastore until it is off";
        Ok((!forgotten).then(|| note().to_owned()).into_iter().collect())
    }
}
