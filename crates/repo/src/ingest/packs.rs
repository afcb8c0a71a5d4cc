use std::collections::HashSet;
use std::thread::{self, JoinHandle};

use parking_lot::RwLock;

use super::conveyor::{Batch, Outcome};
use super::known::Known;
use crate::RepoError;
use crate::id::PackId;
use crate::map::BlockRef;
use crate::pack::write::OpenPack;
use crate::seal::Seal;
use crate::store::{Writer, pack_object};

/// The packs that one ingest writes. A full pack is published, which waits for the disk, while the next one is
/// being filled: at most one of each.
pub(super) struct Packs<'a> {
    writer: &'a Writer,
    seal: &'a Seal,
    /// What need not be written. Looked at by all threads, written to by the one that owns this.
    pub(super) known: &'a RwLock<Known>,
    open: Option<OpenPack>,
    publishing: Option<JoinHandle<Result<PackId, RepoError>>>,
    published: Vec<PackId>,
    /// Packs that the point refers to, its own and others: 8 bytes each, 10 MB for 64 TiB.
    pub(super) used: HashSet<PackId>,
}

/// What became of a new block.
pub(super) enum Written {
    /// Stored now.
    New(BlockRef),
    /// It came twice within what the threads looked at together.
    Known(BlockRef),
}

impl<'a> Packs<'a> {
    pub(super) fn new(writer: &'a Writer, seal: &'a Seal, known: &'a RwLock<Known>) -> Self {
        Self {
            writer,
            seal,
            known,
            open: None,
            publishing: None,
            published: Vec::new(),
            used: HashSet::new(),
        }
    }

    /// Stores the new blocks of a batch and hands each block to `each`, in order.
    pub(super) fn write(
        &mut self,
        batch: &Batch,
        mut each: impl FnMut(usize, Written) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        // Blocks that lie side by side in the batch go to the pack in one write.
        let (mut start, mut end) = (0, 0);
        for (number, block) in batch.blocks.iter().enumerate() {
            let Outcome::New { hash, plain_len, stored_len, codec } = *block else { continue };
            let again = self.known.read().get(&hash, plain_len);
            if let Some(known) = again {
                self.append(&batch.payload[start..end])?;
                end += stored_len as usize;
                start = end;
                each(number, Written::Known(known))?;
                continue;
            }
            if self.open.as_ref().is_some_and(OpenPack::is_full) {
                self.append(&batch.payload[start..end])?;
                start = end;
                self.publish_open()?;
            }
            let block = self.open()?.place(hash, codec, stored_len, plain_len);
            self.known.write().insert(&block);
            end += stored_len as usize;
            each(number, Written::New(block))?;
        }
        self.append(&batch.payload[start..end])
    }

    fn append(&mut self, stored: &[u8]) -> Result<(), RepoError> {
        match &mut self.open {
            Some(pack) if !stored.is_empty() => pack.append(stored),
            _ => Ok(()),
        }
    }

    fn open(&mut self) -> Result<&mut OpenPack, RepoError> {
        if self.open.is_none() {
            self.open = Some(OpenPack::create(self.writer)?);
        }
        self.open.as_mut().ok_or(RepoError::Cancelled)
    }

    fn publish_open(&mut self) -> Result<(), RepoError> {
        self.await_publishing()?;
        let seal = self.seal.clone();
        let open = self.open.take();
        self.publishing = open.map(|pack| thread::spawn(move || pack.publish(&seal)));
        Ok(())
    }

    fn await_publishing(&mut self) -> Result<(), RepoError> {
        let Some(publishing) = self.publishing.take() else { return Ok(()) };
        let result = publishing.join().unwrap_or_else(|_| {
            let source = anyhow::anyhow!("the publishing thread panicked");
            Err(RepoError::Unavailable { what: "publish a pack".into(), source })
        });
        self.published.push(result?);
        Ok(())
    }

    /// Makes everything that was written durable.
    pub(super) fn finish(&mut self) -> Result<(), RepoError> {
        self.publish_open()?;
        self.await_publishing()
    }

    /// Removes the packs of this ingest, of which nothing knows.
    pub(super) fn take_back(&mut self) {
        self.open = None;
        // A pack whose publishing failed has left nothing.
        let _ = self.await_publishing();
        for pack in self.published.drain(..) {
            if let Err(error) = self.writer.remove(&pack_object(pack)) {
                tracing::warn!(%pack, "cannot take back a pack: {error}");
            }
        }
    }
}

impl Drop for Packs<'_> {
    /// The writer's lock must not be given back while a pack is still being published.
    fn drop(&mut self) {
        let _ = self.await_publishing();
    }
}
