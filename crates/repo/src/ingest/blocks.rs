use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::thread;

use parking_lot::RwLock;
use rekindle_block::{BlockHash, BlockIdx, is_zero};
use rekindle_image::Image;

use super::changes::ChangedBlocks;
use super::conveyor::{Batch, Conveyor, Outcome};
use super::known::Known;
use super::options::IngestProgress;
use super::packs::{Packs, Written};
use super::parent::ParentBlocks;
use super::source::refuse;
use crate::RepoError;
use crate::codec::Encoder;
use crate::map::build::{MapBuilder, MapSink};
use crate::map::{BlockRef, Shape};
use crate::seal::Seal;

/// Reading, hashing and compressing; with a window of two batches each that is at most 68 MiB.
const MAX_WORKERS: usize = 16;

/// The blocks of one disk on their way into packs and a map.
pub(super) struct Blocks<'a> {
    pub(super) image: &'a Image,
    pub(super) shape: Shape,
    pub(super) seal: &'a Seal,
    pub(super) changed: ChangedBlocks,
    /// Of zstd.
    pub(super) level: i32,
    pub(super) progress: &'a IngestProgress,
    pub(super) cancel: &'a AtomicBool,
}

/// Stops the conveyor when its thread ends without having said how: by a panic.
struct Alarm<'a, 'b>(&'a Conveyor<'b>);

impl Drop for Alarm<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let source = anyhow::anyhow!("a thread panicked");
            self.0.fail(Some(RepoError::Unavailable { what: "ingest".into(), source }));
        }
    }
}

impl Blocks<'_> {
    /// Takes what did not change from `parent`. Returns how many bytes the blocks take, new or not.
    pub(super) fn write<S: MapSink>(
        &self,
        parent: Option<ParentBlocks<'_>>,
        packs: &mut Packs<'_>,
        map: &mut MapBuilder<S>,
    ) -> Result<u64, RepoError> {
        let workers = thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
        let conveyor = Conveyor::new(self.image, self.shape, &self.changed, workers, self.cancel);
        let known = packs.known;
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    let _alarm = Alarm(&conveyor);
                    if let Err(error) = self.work(&conveyor, known) {
                        conveyor.fail(Some(error));
                    }
                });
            }
            let _alarm = Alarm(&conveyor);
            let result = self.collect(&conveyor, parent, packs, map);
            // Threads that wait for room would wait for ever.
            conveyor.fail(None);
            result
        })
    }

    fn work(&self, conveyor: &Conveyor<'_>, known: &RwLock<Known>) -> Result<(), RepoError> {
        let mut encoder = Encoder::new(self.level, self.seal.clone())?;
        let mut plain = Vec::new();
        while let Some(mut batch) = conveyor.claim() {
            self.fill(&mut batch, conveyor, &mut plain, &mut encoder, known)?;
            conveyor.deliver(batch);
        }
        Ok(())
    }

    /// Reads, hashes and compresses a batch.
    fn fill(
        &self,
        batch: &mut Batch,
        conveyor: &Conveyor<'_>,
        plain: &mut Vec<u8>,
        encoder: &mut Encoder,
        known: &RwLock<Known>,
    ) -> Result<(), RepoError> {
        let block_bytes = self.shape.block_size.bytes();
        let start = batch.range.start * block_bytes;
        let end = (batch.range.end * block_bytes).min(self.shape.size);
        plain.resize((end - start) as usize, 0);
        self.image.read_at(start, plain).map_err(refuse)?;
        self.progress.add_read(end - start);
        let mut used = 0;
        for bytes in plain.chunks(block_bytes as usize) {
            let outcome = if is_zero(bytes) {
                Outcome::Zero
            } else {
                let hash = BlockHash::of(bytes);
                let plain_len = bytes.len() as u32;
                let known = known.read().get(&hash, plain_len);
                match known {
                    Some(block) => Outcome::Known(block),
                    None => {
                        let before = used;
                        let payload = &mut batch.payload;
                        let codec = encoder.append(&hash, bytes, payload, &mut used)?;
                        Outcome::New { hash, plain_len, stored_len: (used - before) as u32, codec }
                    }
                }
            };
            batch.blocks.push(outcome);
        }
        debug_assert_eq!(batch.blocks.len() as u64, batch.range.end - batch.range.start);
        debug_assert!(plain.len() <= (conveyor.batch_blocks() * block_bytes) as usize);
        Ok(())
    }

    fn collect<S: MapSink>(
        &self,
        conveyor: &Conveyor<'_>,
        mut parent: Option<ParentBlocks<'_>>,
        packs: &mut Packs<'_>,
        map: &mut MapBuilder<S>,
    ) -> Result<u64, RepoError> {
        let (mut stored, mut at) = (0, 0);
        while let Some(batch) = conveyor.take()? {
            let unread = at..batch.range.start;
            stored += self.collect_unread(unread, parent.as_mut(), packs, map)?;
            at = batch.range.end;
            stored += self.collect_batch(&batch, packs, map)?;
            conveyor.recycle(batch);
        }
        let unread = at..self.shape.blocks();
        stored += self.collect_unread(unread, parent.as_mut(), packs, map)?;
        Ok(stored)
    }

    /// Blocks that were not read: those that changed are zeros, the others are the parent's.
    fn collect_unread<S: MapSink>(
        &self,
        range: Range<u64>,
        mut parent: Option<&mut ParentBlocks<'_>>,
        packs: &mut Packs<'_>,
        map: &mut MapBuilder<S>,
    ) -> Result<u64, RepoError> {
        let (mut stored, mut at) = (0, range.start);
        while at < range.end {
            let changed = self.changed.next(at).unwrap_or(range.end..range.end);
            if changed.start == at {
                let end = changed.end.min(range.end);
                self.progress.add_zero(self.bytes_between(at, end));
                at = end;
                continue;
            }
            let end = changed.start.min(range.end);
            if let Some(parent) = &mut parent {
                parent.walk(at..end, |idx, block| {
                    stored += u64::from(block.stored_len);
                    packs.used.insert(block.pack);
                    map.put(idx, block)
                })?;
            }
            self.progress.add_unchanged(self.bytes_between(at, end));
            at = end;
        }
        Ok(stored)
    }

    fn collect_batch<S: MapSink>(
        &self,
        batch: &Batch,
        packs: &mut Packs<'_>,
        map: &mut MapBuilder<S>,
    ) -> Result<u64, RepoError> {
        let mut refs: Vec<Option<BlockRef>> = vec![None; batch.blocks.len()];
        for (slot, outcome) in refs.iter_mut().zip(&batch.blocks) {
            match outcome {
                Outcome::Zero => {}
                Outcome::Known(block) => {
                    self.progress.add_deduplicated(u64::from(block.plain_len));
                    *slot = Some(*block);
                }
                Outcome::New { .. } => {}
            }
        }
        packs.write(batch, |number, written| {
            refs[number] = Some(match written {
                Written::New(block) => {
                    self.progress.add_written(block.plain_len.into(), block.stored_len.into());
                    block
                }
                Written::Known(block) => {
                    self.progress.add_deduplicated(block.plain_len.into());
                    block
                }
            });
            Ok(())
        })?;
        let mut stored = 0;
        for (number, block) in refs.iter().enumerate() {
            let idx = batch.range.start + number as u64;
            match block {
                Some(block) => {
                    packs.used.insert(block.pack);
                    map.put(BlockIdx(idx), block)?;
                    stored += u64::from(block.stored_len);
                }
                None => self.progress.add_zero(self.bytes_between(idx, idx + 1)),
            }
        }
        Ok(stored)
    }

    /// Bytes of the blocks `from..to`, the last of which may be short.
    fn bytes_between(&self, from: u64, to: u64) -> u64 {
        let at = |block: u64| (block * self.shape.block_size.bytes()).min(self.shape.size);
        at(to) - at(from)
    }
}
