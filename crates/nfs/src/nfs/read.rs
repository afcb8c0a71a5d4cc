//! READ: at once where the bytes are at hand, else later and out of order.

use super::{At, Request};
use crate::config::HeldReadAnswer;
use crate::export::access::{EXEC, READ};
use crate::export::data::{extent, read_cached};
use crate::export::disks::disk_status;
use crate::export::stats::{Gauge, add};
use crate::export::{Session, Status};
use crate::rpc;
use crate::service::{Late, Outcome, Service, failure};
use crate::wire::{Args, Garbage, Put};
use bytes::Bytes;
use nfsserve::nfs::nfsstat3::*;
use rekindle_disk::{Disk, DiskError, Priority, Segments};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pauses between attempts to read from a repository that does not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A READ that is held for this long is worth a line in the log.
const ALARM: Duration = Duration::from_secs(5);
/// Room for a READ's reply without its data.
const HEAD: usize = 24 + 4 + 88 + 4 + 4 + 4;

/// A READ that could not be answered at once.
struct Held {
    service: Arc<Service>,
    at: At,
    session: Arc<Session>,
    begun: Instant,
    xid: u32,
    offset: u64,
    count: u32,
}

impl Request<'_> {
    /// RFC 1813 section 3.3.6.
    pub(super) fn read(
        self,
        mut args: Args<'_>,
        session: &Arc<Session>,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, Garbage> {
        let (offset, count) = (args.u64()?, args.u32()?.min(super::info::LARGEST_READ));
        add(&self.at.export.stats.reads, 1);
        let allowed = self.at.node.must_be_file().and_then(|body| {
            // Who may execute a file reads it to do so.
            let node = &self.at.node;
            let may = self.caller.may_use(node, READ).or_else(|_| self.caller.may_use(node, EXEC));
            may.map(|()| body)
        });
        let body = match allowed {
            Ok(body) => body,
            Err(status) => {
                rpc::put_success(out, self.call.xid);
                self.count_error();
                self.put_error(out, status);
                return Ok(Outcome::Reply);
            }
        };
        let at_once = match self.at.node.disk() {
            Some(Some(disk)) => self.read_disk(&disk, offset, count, out),
            Some(None) => None,
            None => {
                let file = body.open.lock().clone();
                file.and_then(|file| self.read_file(&file, offset, count, out))
            }
        };
        if let Some((outcome, len)) = at_once {
            count_read(&self.at, session, len);
            if let Some(latency) = self.at.node.latency() {
                latency.reads.at_once();
            }
            return Ok(outcome);
        }
        let held = Held {
            service: self.service.clone(),
            at: self.at,
            session: session.clone(),
            begun: Instant::now(),
            xid: self.call.xid,
            offset,
            count,
        };
        Ok(Outcome::Later(Box::pin(held.answer())))
    }

    fn read_file(
        &self,
        file: &std::fs::File,
        offset: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> Option<(Outcome, u64)> {
        let (range, eof) = extent(self.at.node.size(), offset, count);
        let len = range.end - range.start;
        let from = out.len();
        put_head(out, self.call.xid, &self.at, len, eof);
        if len > 0 && !read_cached(file, &range, out) {
            out.truncate(from);
            return None;
        }
        out.put_pad(len as usize);
        Some((Outcome::Reply, len))
    }

    fn read_disk(
        &self,
        disk: &Disk,
        offset: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> Option<(Outcome, u64)> {
        let (range, eof) = extent(disk.size(), offset, count);
        let len = range.end - range.start;
        let segments = match len {
            0 => Segments::new(),
            // An error is looked at again where there is time to wait for it to pass.
            _ => disk.try_read(range)?.ok()?,
        };
        put_head(out, self.call.xid, &self.at, len, eof);
        Some((Outcome::ReplyWith(segments), len))
    }
}

fn count_read(at: &At, session: &Session, len: u64) {
    add(&at.export.stats.read_bytes, len);
    add(&session.read_bytes, len);
}

fn put_head(out: &mut Vec<u8>, xid: u32, at: &At, len: u64, eof: bool) {
    rpc::put_success(out, xid);
    out.put_u32(NFS3_OK as u32);
    out.put_attributes(Some(&at.attributes()));
    out.put_u32(len as u32);
    out.put_u32(eof.into());
    out.put_u32(len as u32);
}

impl Held {
    async fn answer(self) -> Late {
        let result = match self.at.node.disk() {
            Some(_) => self.read_disk().await,
            None => self.read_file().await,
        };
        if let Some(latency) = self.at.node.latency() {
            latency.reads.took(self.begun.elapsed());
        }
        match result {
            Ok((data, eof)) => {
                let len = data.iter().map(|segment| segment.len() as u64).sum();
                count_read(&self.at, &self.session, len);
                let mut head = Vec::with_capacity(HEAD);
                put_head(&mut head, self.xid, &self.at, len, eof);
                Late { head, data }
            }
            Err(status) => {
                add(&self.at.export.stats.errors, 1);
                failure(self.xid, 6, status)
            }
        }
    }

    /// Reads from a real file on a thread that may block.
    async fn read_file(&self) -> Result<(Segments, bool), Status> {
        let kib = self.count.div_ceil(1024).max(1);
        let memory = self.service.read_memory.clone().acquire_many_owned(kib).await;
        let memory = memory.map_err(|_| NFS3ERR_IO)?;
        let (at, offset, count) = (self.at.clone(), self.offset, self.count);
        let read = tokio::task::spawn_blocking(move || {
            let read = at.export.read_file_blocking(&at.node, offset, count);
            read.map(|(bytes, eof)| (Bytes::from_owner(Metered { bytes, _memory: memory }), eof))
        });
        let (bytes, eof) = read.await.map_err(|_| NFS3ERR_SERVERFAULT)??;
        Ok((Segments::from_iter([bytes]), eof))
    }

    /// Reads from a disk, trying again while its repository does not answer: a guest bears a late answer better than
    /// an error, which would be a bad sector to it.
    async fn read_disk(&self) -> Result<(Segments, bool), Status> {
        let _held = Gauge::held_read(&self.at.export);
        let cap = Duration::from_secs(self.service.config.held_read_seconds);
        let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
        let mut told = false;
        loop {
            let tried = tokio::time::timeout_at(begun + cap, self.try_disk()).await;
            match tried {
                Ok(Ok(read)) => return Ok(read),
                Ok(Err(Some(e))) if !matches!(e, DiskError::Unavailable { .. }) => {
                    tracing::error!(
                        export = self.at.export.name(),
                        file = self.at.node.id,
                        "READ failed: {e}"
                    );
                    return Err(disk_status(&e));
                }
                // Not attached yet, or not to be reached now.
                Ok(Err(_)) => {}
                Err(_) => return Err(self.give_up()),
            }
            if !told && begun.elapsed() >= ALARM {
                told = true;
                tracing::warn!(
                    export = self.at.export.name(),
                    file = self.at.node.id,
                    "READs are held: no data yet"
                );
            }
            if begun.elapsed() + pause >= cap {
                tokio::time::sleep_until(begun + cap).await;
                return Err(self.give_up());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_disk(&self) -> Result<(Segments, bool), Option<DiskError>> {
        if self.at.export.is_closed() {
            return Err(Some(DiskError::Gone));
        }
        let disk = match self.at.node.disk() {
            Some(Some(disk)) => disk,
            Some(None) | None => return Err(None),
        };
        let (range, eof) = extent(disk.size(), self.offset, self.count);
        if Range::is_empty(&range) {
            return Ok((Segments::new(), eof));
        }
        disk.read(range, Priority::Guest).await.map(|data| (data, eof)).map_err(Some)
    }

    fn give_up(&self) -> Status {
        match self.service.config.held_read_answer {
            HeldReadAnswer::Jukebox => NFS3ERR_JUKEBOX,
            HeldReadAnswer::Io => NFS3ERR_IO,
        }
    }
}

/// Bytes that count as read memory until they are sent.
struct Metered {
    bytes: Bytes,
    _memory: tokio::sync::OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Metered {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
