//! A VM in recovery at one moment.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rekindle_disk::{Base, Layer, Priority, READ_MAX};
use rekindle_image::{ImageError, RemoteFile, Revision, Vmx};
use rekindle_repo::{PointManifest, Successor, SuccessorDisk};
use tokio::runtime::Handle;

use crate::env::Env;
use crate::journal::Record;
use crate::live::Live;
use crate::origins::Origin;
use crate::request::check_source;
use crate::steps::files;
use crate::{JobError, Step, failure};

/// Ranges of a disk that are told apart: 16 MiB of them. More are joined with what lies between.
const RANGES_MAX: usize = 1 << 20;

/// All that makes a VM in recovery. Its guest writes on; what it has written by then is frozen.
pub(crate) struct Still {
    point: PointManifest,
    /// Its configuration as the client left it; none while none is served.
    vmx: Option<Vec<u8>>,
    nvram: Option<Bytes>,
    /// By their places: what was frozen, and what it is over the point.
    disks: Vec<(String, Arc<Layer>, Base)>,
}

impl Still {
    /// Freezes what the guest wrote to all disks, and looks at what is beside them.
    ///
    /// `Conflict` if what the guest wrote is not all of it here: of disks alone, or beside snapshots that a client made.
    pub(crate) async fn of(env: &Env, record: &Record, live: &mut Live) -> Result<Self, JobError> {
        check_source(record.request.mode, record.state())?;
        let point = live.point(env, record).await?;
        if record.disks.len() != point.manifest.disks.len() {
            let message = "the recovery is of some of the VM's disks: only one of all of them has it as a whole";
            return Err(JobError::conflict("not_a_whole_vm", message));
        }
        let disks = live.disks(env, record).await?;
        let layers = env.disks.freeze(&disks).await;
        let layers = layers.map_err(|e| failure::disk("freeze what the guest wrote", e))?;
        // Afterwards: what a client writes beside a snapshot that it makes from now on is not missed.
        let served = record.plan.has_done(Step::Files);
        let (vmx, nvram) = match served {
            true => files_of(env, record).await?,
            false => (None, point.manifest.nvram.clone()),
        };
        let keys = record.disks.iter().map(|disk| disk.key.clone());
        let frozen = disks.iter().zip(layers).map(|(disk, layer)| (disk.frozen(&layer), layer));
        let disks = keys.zip(frozen).map(|(key, (base, layer))| (key, layer, base));
        Ok(Self { point: point.manifest.clone(), vmx, nvram, disks: disks.collect() })
    }

    /// What was frozen of the disk at `key`.
    pub(crate) fn layer(&self, key: &str) -> Option<Arc<Layer>> {
        self.disks.iter().find(|(at, ..)| at == key).map(|(_, layer, _)| layer.clone())
    }

    /// The small files, for who goes on from here.
    pub(crate) fn origin(&self) -> Result<Origin, JobError> {
        let vmx = match &self.vmx {
            None => self.point.vmx.clone(),
            Some(bytes) => {
                let vmx = Vmx::parse(bytes);
                let bad = |e| JobError::conflict("bad_vmx", format!("the VM's configuration: {e}"));
                vmx.map_err(bad)?.to_text()
            }
        };
        Ok(Origin { vmx, nvram: self.nvram.clone() })
    }

    /// What an ingest takes. Its reads block, on `runtime`.
    pub(crate) fn successor(&self, runtime: &Handle) -> Successor {
        let disks = self.disks.iter().map(|(key, layer, base)| {
            let file = DiskFile {
                name: key.clone(),
                size: layer.size(),
                revision: Revision::tagged(layer.size(), "a frozen overlay"),
                base: base.clone(),
                runtime: runtime.clone(),
            };
            let written = written(layer, base.block_size().bytes());
            (key.clone(), SuccessorDisk { file: Arc::new(file), written })
        });
        Successor {
            parent: self.point.clone(),
            vmx: self.vmx.clone(),
            nvram: self.nvram.clone(),
            disks: disks.collect::<BTreeMap<_, _>>(),
        }
    }
}

type Files = (Option<Vec<u8>>, Option<Bytes>);

/// The configuration and the firmware's variables as the client left them.
async fn files_of(env: &Env, record: &Record) -> Result<Files, JobError> {
    let Some(vmx) = files::read_exported(env, record, &files::vmx_path(record)).await? else {
        let message =
            "the VM's configuration is not in its folder any more: a client moved or removed it";
        return Err(JobError::conflict("no_vmx", message));
    };
    files::check_snapshots(record, &vmx)?;
    let nvram = files::read_exported(env, record, &files::nvram_path(record)).await?;
    Ok((Some(vmx), nvram.map(Bytes::from)))
}

/// What the guest wrote, in order, as coarse as it must be to be told in [`RANGES_MAX`] ranges.
fn written(layer: &Arc<Layer>, mut unit: u64) -> Vec<Range<u64>> {
    loop {
        if let Some(ranges) = joined(layer.written(), unit) {
            return ranges;
        }
        unit *= 2;
    }
}

/// Ranges in order, rounded to `unit` and joined where they touch then; `None` if these are too many.
fn joined(all: impl Iterator<Item = Range<u64>>, unit: u64) -> Option<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for range in all {
        let (start, end) = (range.start / unit * unit, range.end.div_ceil(unit) * unit);
        if let Some(last) = ranges.last_mut().filter(|last| start <= last.end) {
            last.end = last.end.max(end);
        } else if ranges.len() == RANGES_MAX {
            return None;
        } else {
            ranges.push(start..end);
        }
    }
    Some(ranges)
}

/// A disk as an ingest reads it.
struct DiskFile {
    name: String,
    size: u64,
    revision: Revision,
    base: Base,
    runtime: Handle,
}

impl std::fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskFile").field("name", &self.name).field("size", &self.size).finish()
    }
}

impl RemoteFile for DiskFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn revision(&self) -> &Revision {
        &self.revision
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let mut at = offset;
        for piece in buf.chunks_mut(READ_MAX as usize) {
            let range = at..at + piece.len() as u64;
            let read = self.runtime.block_on(self.base.read(range, Priority::Mover));
            let segments = read.map_err(|error| ImageError::Unavailable {
                file: self.name.clone(),
                source: std::io::Error::other(error),
            })?;
            let mut filled = 0;
            for segment in &segments {
                piece[filled..filled + segment.len()].copy_from_slice(segment);
                filled += segment.len();
            }
            at += filled as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_by_blocks_and_never_too_many() {
        let written = [5..6, 90..110, 300..301, 399..400, 500..600];
        let joined = |unit| super::joined(written.iter().cloned(), unit).unwrap();
        assert_eq!(joined(100), [0..200, 300..400, 500..600]);
        assert_eq!(joined(1000), std::slice::from_ref(&(0..1000)));
        let many = (0..=RANGES_MAX as u64).map(|n| 4 * n..4 * n + 1);
        assert_eq!(super::joined(many.clone(), 2), None);
        let all = 0..4 * RANGES_MAX as u64 + 4;
        assert_eq!(super::joined(many, 4).unwrap(), std::slice::from_ref(&all));
    }
}
