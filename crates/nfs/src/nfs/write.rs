//! WRITE, durable before it is answered, and COMMIT, which therefore has nothing to do.

use super::{At, Request, Wcc};
use crate::drc::Seen;
use crate::export::access::WRITE;
use crate::export::disks::{disk_status, growth_status};
use crate::export::stats::add;
use crate::export::{Session, Status};
use crate::rpc;
use crate::service::{Late, Outcome, Service, count};
use crate::wire::{Args, Garbage, Put};
use bytes::Bytes;
use nfsserve::nfs::nfsstat3::*;
use nfsserve::nfs::wcc_attr;
use rekindle_disk::Disk;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const FILE_SYNC: u32 = 2;
/// Payloads up to this length are copied out of the receive buffer, which they would else keep from being reused.
const COPIED: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(20);

/// A WRITE on its way.
struct Write {
    service: Arc<Service>,
    at: At,
    begun: Instant,
    xid: u32,
    offset: u64,
    data: Bytes,
}

impl Request<'_> {
    /// RFC 1813 section 3.3.7.
    pub(super) fn write(
        self,
        mut args: Args<'_>,
        session: &Arc<Session>,
        record: &Bytes,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, Garbage> {
        let (offset, length, stable) = (args.u64()?, args.u32()?, args.u32()?);
        let data = args.opaque(record.len())?;
        if stable > FILE_SYNC {
            return Err(Garbage);
        }
        let len = data.len().min(length as usize);
        let data = &data[..len];
        let stats = &self.at.export.stats;
        add(&stats.writes, 1);
        add(&stats.write_bytes, len as u64);
        add(&session.write_bytes, len as u64);
        if let Err(status) = self.check_write(offset, len) {
            self.count_error();
            rpc::put_success(out, self.call.xid);
            put_failed(out, status, &self.at);
            return Ok(Outcome::Reply);
        }
        let seen = self.seen(offset, data);
        let data = match len {
            0..=COPIED => Bytes::copy_from_slice(data),
            _ => record.slice_ref(data),
        };
        let write = Write {
            service: self.service.clone(),
            at: self.at,
            begun: Instant::now(),
            xid: self.call.xid,
            offset,
            data,
        };
        Ok(Outcome::Later(Box::pin(write.answer(seen))))
    }

    fn check_write(&self, offset: u64, len: usize) -> Result<(), Status> {
        self.at.node.must_be_file()?;
        self.caller.may_use(&self.at.node, WRITE)?;
        match offset.checked_add(len as u64) {
            Some(end) if end <= super::info::LARGEST_FILE => Ok(()),
            _ => Err(NFS3ERR_FBIG),
        }
    }

    /// Notes the WRITE, to tell it should it come again.
    fn seen(&self, offset: u64, data: &[u8]) -> Seen {
        let fingerprint = crate::drc::write_key(
            (self.peer.ip, self.call.xid),
            (self.caller.uid, self.caller.gid),
            (self.at.node.id, offset),
            data,
        );
        let range = offset..offset + data.len() as u64;
        self.service.write_log.arrived(fingerprint, self.at.node.id, range)
    }

    /// RFC 1813 section 3.3.21. All that was answered is on stable storage already.
    pub(super) fn commit(
        &self,
        mut args: Args<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Result<(), Status>, Garbage> {
        args.u64()?;
        args.u32()?;
        if let Err(status) = self.at.node.must_be_file() {
            return Ok(Err(status));
        }
        out.put_u32(NFS3_OK as u32);
        Wcc::new(Some(self.at.node.before()), &self.at).put(out);
        out.extend_from_slice(&self.service.write_verifier);
        Ok(Ok(()))
    }
}

fn put_failed(out: &mut Vec<u8>, status: Status, at: &At) {
    out.put_u32(status as u32);
    out.put_wcc(None, Some(&at.attributes()));
}

impl Write {
    async fn answer(self, seen: Seen) -> Late {
        let written = match seen {
            Seen::New(note) => {
                let written = self.apply().await;
                note.finish(written.is_ok());
                written
            }
            Seen::Again => self.apply().await,
            // It came before, and what was written there since must stay.
            Seen::Outdated => {
                count(&self.service.counters.replayed);
                Ok(self.at.node.before())
            }
        };
        if let Some(latency) = self.at.node.latency() {
            latency.writes.took(self.begun.elapsed());
        }
        let mut head = Vec::with_capacity(24 + 4 + 28 + 88 + 16);
        rpc::put_success(&mut head, self.xid);
        match written {
            Ok(before) => {
                head.put_u32(NFS3_OK as u32);
                Wcc::new(Some(before), &self.at).put(&mut head);
                head.put_u32(self.data.len() as u32);
                head.put_u32(FILE_SYNC);
                head.extend_from_slice(&self.service.write_verifier);
            }
            Err(status) => {
                add(&self.at.export.stats.errors, 1);
                put_failed(&mut head, status, &self.at);
            }
        }
        head.into()
    }

    /// Returns when the data is on stable storage.
    async fn apply(&self) -> Result<wcc_attr, Status> {
        if self.at.node.disk().is_some() {
            return self.write_disk().await;
        }
        if self.data.is_empty() {
            return Ok(self.at.node.before());
        }
        let outcome = self.at.export.write_file(&self.at.node, self.offset, self.data.clone())?;
        outcome.await.map_err(|_| NFS3ERR_IO)?
    }

    async fn write_disk(&self) -> Result<wcc_attr, Status> {
        let disk = self.attached().await?;
        let before = self.at.node.before();
        if self.data.is_empty() {
            return Ok(before);
        }
        let end = self.offset + self.data.len() as u64;
        if end > disk.size() {
            disk.set_size(end).await.map_err(|e| growth_status(&e))?;
        }
        if let Err(e) = disk.write(self.offset, self.data.clone()).await {
            tracing::error!(
                export = self.at.export.name(),
                file = self.at.node.id,
                "WRITE failed: {e}"
            );
            return Err(disk_status(&e));
        }
        self.at.node.meta().data_changed();
        Ok(before)
    }

    /// The disk, once it is attached.
    async fn attached(&self) -> Result<Arc<Disk>, Status> {
        let cap = Duration::from_secs(self.service.config.held_read_seconds);
        let begun = Instant::now();
        loop {
            if let Some(Some(disk)) = self.at.node.disk() {
                return Ok(disk);
            }
            if self.at.export.is_closed() {
                return Err(NFS3ERR_STALE);
            }
            if begun.elapsed() > cap {
                return Err(NFS3ERR_JUKEBOX);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
