use std::ops::Range;

use bytes::Bytes;
use rekindle_block::{Block, is_zero};
use rekindle_cache::Priority;
use rekindle_disk::{Disk, Segments};
use rekindle_repo::{BlockRef, MapEntry, RepoError};

use super::stored::{self, entry};
use super::{Done, Image, MOVER_PIECE, Mover, Resume, Source, indices};
use crate::{JobError, failure};

/// Bytes that are looked through at most before they are copied.
const RUN: u64 = 64 * MOVER_PIECE;

/// Writes the recovery point's blocks, from where an earlier try came to. Zero blocks stay holes.
pub(super) async fn point(
    mover: &Mover<'_>,
    source: &Source,
    disk: usize,
    resume: &mut Resume,
) -> Result<(), JobError> {
    let copied = source.clone();
    let work = move |piece| copy_point(copied.clone(), piece);
    let mut at = resume.from(disk);
    while at < source.map.size() {
        let end = (at + RUN).min(source.map.size());
        for stored in stored::runs(&source.map, at..end).await? {
            mover.each_piece(stored, &work).await?;
        }
        at = end;
        resume.reached(source, disk, at, mover.note_every).await?;
    }
    Ok(())
}

async fn copy_point(source: Source, piece: Range<u64>) -> Result<Done<()>, JobError> {
    let size = source.map.block_size();
    let mut wanted = Vec::new();
    for idx in indices(size.touched(piece)) {
        if let MapEntry::Stored(block) = entry(&source.map, idx).await? {
            wanted.push((idx, block));
        }
    }
    let run = source.map.run(wanted.iter().map(|(_, block)| *block).collect());
    let mut blocks: Vec<(u64, Bytes)> = Vec::with_capacity(wanted.len());
    for (number, (idx, block)) in wanted.iter().enumerate() {
        let read = read_block(&source, block, run.block(number)).await?;
        blocks.push((idx.0 * size.bytes(), read));
    }
    let bytes = blocks.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    failure::blocking(move || {
        let mut blocks = blocks.iter();
        blocks.try_for_each(|(at, bytes)| source.image.write(bytes, *at)).map_err(write_failed)
    })
    .await?;
    Ok(Done { result: (), bytes })
}

/// A block of the recovery point, in the mover's turn. What the cache has is not read again; what it
/// has not is not kept, since the copy has it soon.
async fn read_block(
    source: &Source,
    block: &BlockRef,
    reading: impl Future<Output = Result<Block, RepoError>>,
) -> Result<Bytes, JobError> {
    let (hash, len) = (block.hash(), block.plain_len());
    if source.cache.has(&hash) {
        let (map, wanted) = (source.map.clone(), *block);
        let fetch = async move { map.read_block(&wanted).await };
        // Fails only if the cache dropped it meanwhile: then it is asked for below.
        if let Ok(known) = source.cache.get(&hash, len, Priority::Mover, fetch).await {
            return Ok(known.bytes().clone());
        }
    }
    let read = source.cache.pass(len, Priority::Mover, reading).await;
    let read = read.map_err(|e| failure::repo("read the recovery point", e))?;
    Ok(read.bytes().clone())
}

/// What the guest wrote, in order, in ranges that do not touch.
pub(super) fn written_to(source: &Source) -> Vec<Range<u64>> {
    written(&source.disk, source.map.block_size().bytes())
}

pub(super) fn written(disk: &Disk, unit: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for written in disk.written(0) {
        // Whole blocks, so that a disk full of scattered writes has no more ranges than blocks.
        let start = written.range.start / unit * unit;
        let end = (written.range.end.div_ceil(unit) * unit).min(disk.size());
        match ranges.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => ranges.push(start..end),
        }
    }
    ranges
}

/// Writes these ranges of the disk as its guest sees it.
pub(super) async fn ranges(
    mover: &Mover<'_>,
    source: &Source,
    ranges: &[Range<u64>],
) -> Result<(), JobError> {
    for range in ranges {
        let copied = source.clone();
        let work = move |piece| copy_merged(copied.clone(), piece);
        mover.each_piece(range.clone(), work).await?;
    }
    Ok(())
}

async fn copy_merged(source: Source, piece: Range<u64>) -> Result<Done<()>, JobError> {
    let (start, bytes) = (piece.start, piece.end - piece.start);
    let merged = read_merged(&source, piece).await?;
    failure::blocking(move || write_merged(&source.image, start, &merged)).await?;
    Ok(Done { result: (), bytes })
}

/// Bytes as the guest sees them.
pub(super) async fn read_merged(source: &Source, piece: Range<u64>) -> Result<Segments, JobError> {
    let read = source.disk.read(piece, Priority::Mover).await;
    read.map_err(|e| failure::disk("read the disk", e))
}

fn write_merged(image: &Image, start: u64, merged: &Segments) -> Result<(), JobError> {
    let mut at = start;
    for bytes in merged {
        let end = at + bytes.len() as u64;
        // Zeros lie over whatever an earlier pass wrote.
        let written = match is_zero(bytes) {
            true => image.zero(at..end),
            false => image.write(bytes, at),
        };
        written.map_err(write_failed)?;
        at = end;
    }
    Ok(())
}

/// Makes a copy durable.
pub(super) async fn sync(source: &Source) -> Result<(), JobError> {
    let image = source.image.clone();
    failure::blocking(move || image.sync().map_err(|e| JobError::io("sync the destination", e)))
        .await
}

pub(super) fn write_failed(error: std::io::Error) -> JobError {
    JobError::io("write the destination", error)
}
