use std::time::{Duration, Instant};

use super::{Source, copy};
use crate::staging::{Copied, Staging};
use crate::{JobError, failure};

/// How far a copy is, kept beside it for a restart.
///
/// Only the recovery point's blocks are counted. What the guest wrote is copied again after a restart,
/// since nobody knows any more what it wrote when.
pub(crate) struct Resume {
    staging: Staging,
    copied: Copied,
    noted: Instant,
}

impl Resume {
    pub(crate) fn new(staging: Staging, copied: Copied) -> Self {
        Self { staging, copied, noted: Instant::now() }
    }

    /// Up to which byte the disk is copied.
    pub(super) fn from(&self, disk: usize) -> u64 {
        self.copied.of(disk)
    }

    /// The disk is copied up to byte `end`. Every `every` that is made durable and noted.
    ///
    /// 1. sync the copy         crash here: copied again from the note before
    /// 2. note how far it is    crash after: goes on from here
    pub(super) async fn reached(
        &mut self,
        source: &Source,
        disk: usize,
        end: u64,
        every: Duration,
    ) -> Result<(), JobError> {
        if self.noted.elapsed() < every {
            return Ok(());
        }
        copy::sync(source).await?;
        self.copied.reached(disk, end);
        let (staging, copied) = (self.staging.clone(), self.copied.clone());
        failure::blocking(move || staging.note(&copied)).await?;
        self.noted = Instant::now();
        Ok(())
    }
}
