//! WRITEs to one real file: in the order in which they came, and with one sync for all that came meanwhile.

use super::node::Node;
use super::{Export, Status, status};
use bytes::Bytes;
use nfsserve::nfs::nfsstat3::{NFS3ERR_IO, NFS3ERR_NOSPC};
use nfsserve::nfs::wcc_attr;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Jobs that share one sync: at most 64 MiB of 1 MiB WRITEs.
const BATCH: usize = 64;

/// What became of a job: the attributes before it.
pub(crate) type Outcome = Result<wcc_attr, Status>;

/// A change of a file's data.
pub(crate) enum Change {
    Write { at: u64, data: Bytes },
    SetSize(u64),
}

struct Job {
    change: Change,
    done: oneshot::Sender<Outcome>,
}

#[derive(Default)]
pub(crate) struct WriteQueue(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    running: bool,
}

impl WriteQueue {
    /// Adds a job. True if the caller must call [`drain`], on a thread that may block.
    #[must_use]
    pub(crate) fn push(&self, change: Change) -> (oneshot::Receiver<Outcome>, bool) {
        let (done, outcome) = oneshot::channel();
        let mut queue = self.0.lock();
        queue.jobs.push_back(Job { change, done });
        let idle = !queue.running;
        queue.running = true;
        (outcome, idle)
    }

    fn next(&self) -> Option<Vec<Job>> {
        let mut queue = self.0.lock();
        if queue.jobs.is_empty() {
            queue.running = false;
            return None;
        }
        let count = queue.jobs.len().min(BATCH);
        Some(queue.jobs.drain(..count).collect())
    }
}

/// Does a file's jobs until there are none. Blocks.
pub(crate) fn drain(export: &Export, node: &Node) {
    let Some(body) = node.file() else { return };
    while let Some(jobs) = body.writes.next() {
        match export.open_file(node) {
            Ok(file) => run(node, &file, jobs),
            Err(e) => {
                for job in jobs {
                    // Nobody is left to tell when the connection has gone; so below.
                    let _ = job.done.send(Err(e));
                }
            }
        }
    }
}

/// The bytes are in place and synced before any of the jobs is answered.
fn run(node: &Node, file: &Arc<File>, jobs: Vec<Job>) {
    let mut all_data = true;
    let mut outcomes = Vec::with_capacity(jobs.len());
    for job in jobs {
        let before = node.before();
        let outcome = match job.change {
            Change::Write { at, data } => write(node, file, at, &data),
            Change::SetSize(size) => {
                all_data = false;
                set_size(node, file, size)
            }
        };
        outcomes.push((job.done, outcome.map(|()| before)));
    }
    let synced = match all_data {
        true => file.sync_data(),
        false => file.sync_all(),
    };
    if let Ok(stat) = file.metadata() {
        node.meta().used = stat.blocks() * 512;
    }
    let lost = synced.err().map(|e| match status(&e) {
        NFS3ERR_NOSPC => NFS3ERR_NOSPC,
        _ => NFS3ERR_IO,
    });
    for (done, outcome) in outcomes {
        let _ = done.send(lost.map_or(outcome, Err));
    }
}

fn write(node: &Node, file: &File, at: u64, data: &[u8]) -> Result<(), Status> {
    file.write_all_at(data, at).map_err(|e| status(&e))?;
    let mut meta = node.meta();
    meta.size = meta.size.max(at + data.len() as u64);
    meta.data_changed();
    Ok(())
}

fn set_size(node: &Node, file: &File, size: u64) -> Result<(), Status> {
    file.set_len(size).map_err(|e| status(&e))?;
    let mut meta = node.meta();
    meta.size = size;
    meta.data_changed();
    Ok(())
}
