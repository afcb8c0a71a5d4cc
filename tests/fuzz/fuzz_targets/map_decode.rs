//! A disk map of any bytes on one of its three levels, with hashes above it that vouch for them.

#![no_main]

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use rekindle_block::{BlockHash, BlockIdx};
use rekindle_repo::{
    IngestOptions, IngestProgress, MapEntry, PointManifest, Repository, ingest,
};
use tokio::runtime::{Builder, Runtime};

const MAGIC: &[u8; 16] = b"rekindle map v1\n";
const HEADER_BYTES: usize = 64;

struct World {
    repository: Repository,
    point: PointManifest,
    runtime: Runtime,
}

/// A repository with one point, whose map is replaced again and again.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::tempdir().expect("make a directory").keep();
        std::fs::write(dir.join("disk.img"), vec![7; 1 << 20]).expect("write a disk");
        let repository = Repository::create(&dir.join("repo"), &Default::default()).expect("create");
        let (options, progress) = (IngestOptions::default(), IngestProgress::default());
        let never = AtomicBool::new(false);
        let report = ingest(&repository, &dir.join("disk.img"), &options, &progress, &never);
        let runtime = Builder::new_multi_thread().worker_threads(1).build().expect("start a runtime");
        World { repository, point: report.expect("ingest").point, runtime }
    })
}

/// `hash 32 | offset 8 | length 4 | zero 4`.
fn page_ref(page: &[u8], offset: usize) -> Vec<u8> {
    let mut entry = BlockHash::of(page).as_bytes().to_vec();
    entry.extend((offset as u64).to_le_bytes());
    entry.extend((page.len() as u32).to_le_bytes());
    entry.extend([0; 4]);
    entry
}

/// The page `data` with honest pages above it; the header is that of a disk of 1 MiB.
fn forge(level: u8, data: &[u8], header: &[u8]) -> Vec<u8> {
    let mut map = MAGIC.to_vec();
    let mut below = data.to_vec();
    for _ in level % 3..2 {
        let entry = page_ref(&below, map.len());
        map.extend(&below);
        below = entry;
    }
    below.resize(48, 0);
    map.extend(header);
    map.extend(below);
    map
}

fuzz_target!(|data: &[u8]| {
    let Some((level, data)) = data.split_first() else { return };
    let world = world();
    let mut point = world.point.clone();
    let folder = world.repository.location().path().expect("a directory");
    let path = folder.join(format!("maps/{}.map", point.disks[0].map));
    let header = {
        let mut header = b"RKMAPRT1".to_vec();
        header.extend(1_u32.to_le_bytes());
        header.extend((256_u32 << 10).to_le_bytes());
        header.extend((1_u64 << 20).to_le_bytes());
        header.resize(HEADER_BYTES, 0);
        header
    };
    let map = forge(*level, data, &header);
    std::fs::write(&path, &map).expect("write the map");
    point.disks[0].map_bytes = map.len() as u64;
    point.disks[0].map_hash = BlockHash::of(&map[map.len() - HEADER_BYTES - 48..]);
    world.runtime.block_on(async {
        let Ok(map) = world.repository.open_disk(&point, 0).await else { return };
        for idx in [0, 1, 3, 4, u64::MAX] {
            let _ = map.try_entry(BlockIdx(idx));
            if let Ok(MapEntry::Stored(block)) = map.entry(BlockIdx(idx)).await {
                assert!(block.plain_len() <= 256 << 10 && block.stored_len() <= block.plain_len() + 28);
                let _ = map.read_block(&block).await;
            }
        }
    });
});
