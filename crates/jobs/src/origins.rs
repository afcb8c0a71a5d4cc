use bytes::Bytes;
use rekindle_state::{BytesKeyspace, Database, StateError};

use crate::JobId;

/// Where they are kept: of no use without the disks.
pub const ORIGINS_KEYSPACE: &str = "jobs-origins";

/// The small files of VMs that were copied while they ran, as they were then, by the job that has the copy. They go with
/// its disks.
#[derive(Clone)]
pub(crate) struct Origins {
    db: Database,
    files: BytesKeyspace,
}

/// What a VM's configuration and its firmware's variables were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) vmx: String,
    pub(crate) nvram: Option<Bytes>,
}

impl Origins {
    pub(crate) fn open(db: &Database) -> Result<Self, StateError> {
        Ok(Self { db: db.clone(), files: db.bytes(ORIGINS_KEYSPACE)? })
    }

    /// Keeps them, in place of what was kept before. Durable when it returns.
    pub(crate) fn put(&self, job: &JobId, origin: &Origin) -> Result<(), StateError> {
        let mut batch = self.db.batch();
        batch.delete_prefix(&self.files, &prefix(job))?;
        batch.put_bytes(&self.files, &key(job, "vmx"), origin.vmx.as_bytes())?;
        if let Some(nvram) = &origin.nvram {
            batch.put_bytes(&self.files, &key(job, "nvram"), nvram)?;
        }
        batch.commit()
    }

    pub(crate) fn get(&self, job: &JobId) -> Result<Option<Origin>, StateError> {
        let Some(vmx) = self.files.get(&key(job, "vmx"))? else { return Ok(None) };
        let vmx = String::from_utf8(vmx.to_vec());
        let vmx = vmx.map_err(|_| StateError::Corrupt(format!("configuration of job {job}")))?;
        let nvram = self.files.get(&key(job, "nvram"))?;
        Ok(Some(Origin { vmx, nvram: nvram.map(|nvram| Bytes::from(nvram.to_vec())) }))
    }

    pub(crate) fn forget(&self, job: &JobId) -> Result<(), StateError> {
        let mut batch = self.db.batch();
        batch.delete_prefix(&self.files, &prefix(job))?;
        batch.commit()
    }
}

/// No job's id has a slash.
fn prefix(job: &JobId) -> Vec<u8> {
    format!("{job}/").into_bytes()
}

fn key(job: &JobId, file: &str) -> Vec<u8> {
    format!("{job}/{file}").into_bytes()
}
