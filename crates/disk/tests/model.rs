//! A disk is a byte array that survives restarts.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rekindle_disk::{
    Base, Disk, DiskError, DiskId, Disks, DisksConfig, Priority, concat, pattern_byte,
};
use rekindle_state::Database;

/// No multiple of a grain, and the base is smaller than the disk.
const SIZE: u64 = 300_000;
const BASE: u64 = 200_001;
const GROWN_MAX: u64 = 600_000;
const SEED: u8 = 7;

#[derive(Clone, Debug)]
enum Op {
    Read { at: u64, len: u64 },
    Write { at: u64, len: u64, byte: u8 },
    Zero { at: u64, len: u64 },
    Grow { by: u64 },
    Checkpoint,
    Restart,
}

fn op() -> BoxedStrategy<Op> {
    let at = prop_oneof![
        0..SIZE,
        (0..SIZE / 512).prop_map(|i| i * 512),
        (0..SIZE / 4096).prop_map(|i| i * 4096)
    ];
    let len = prop_oneof![1u64..600, Just(512), Just(4096), Just(8192), 1u64..70_000];
    let place = (at, len);
    prop_oneof![
        4 => place.clone().prop_map(|(at, len)| Op::Read { at, len }),
        8 => (place.clone(), 1u8..).prop_map(|((at, len), byte)| Op::Write { at, len, byte }),
        3 => place.prop_map(|(at, len)| Op::Zero { at, len }),
        1 => (1u64..10_000).prop_map(|by| Op::Grow { by }),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Restart),
    ]
    .boxed()
}

struct Rig {
    // Before the directory: it is closed first.
    open: Option<(Arc<Disks>, Arc<Disk>)>,
    dir: tempfile::TempDir,
}

fn id() -> DiskId {
    DiskId::new("vm-1_scsi0.0").unwrap()
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self { open: None, dir: tempfile::tempdir().unwrap() };
        rig.restart();
        rig
    }

    fn restart(&mut self) {
        // The database of the former process must be closed first.
        self.open = None;
        let dir: &Path = self.dir.path();
        let db = Database::open(&dir.join("db")).unwrap();
        let config = DisksConfig { journal_bytes: 1 << 20 };
        let disks = Disks::open(&dir.join("overlay"), &db, config).unwrap();
        disks.create(&id(), SIZE).unwrap();
        let disk = disks.attach(&id(), Base::Pattern { seed: SEED, size: BASE }).unwrap();
        self.open = Some((disks, disk));
    }

    fn disks(&self) -> &Disks {
        &self.open.as_ref().unwrap().0
    }

    fn disk(&self) -> &Disk {
        &self.open.as_ref().unwrap().1
    }
}

fn filled(byte: u8, at: u64, len: u64) -> Vec<u8> {
    (at..at + len).map(|o| byte ^ (o as u8) | 1).collect()
}

async fn run(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut rig = Rig::new();
    let mut model: Vec<u8> =
        (0..SIZE).map(|o| if o < BASE { pattern_byte(SEED, o) } else { 0 }).collect();
    for op in ops {
        let size = model.len() as u64;
        let clip = |at: u64, len: u64| at..(at + len).min(size);
        match op {
            Op::Read { at, len } => {
                let range = clip(at, len);
                let expected = &model[range.start as usize..range.end as usize];
                if let Some(inline) = rig.disk().try_read(range.clone()) {
                    prop_assert_eq!(&concat(&inline.unwrap())[..], expected);
                }
                let read = rig.disk().read(range, Priority::Guest).await.unwrap();
                prop_assert_eq!(&concat(&read)[..], expected);
            }
            Op::Write { at, len, byte } => {
                let range = clip(at, len);
                let data = filled(byte, range.start, range.end - range.start);
                model[range.start as usize..range.end as usize].copy_from_slice(&data);
                rig.disk().write(range.start, data.into()).await.unwrap();
            }
            Op::Zero { at, len } => {
                let range = clip(at, len);
                model[range.start as usize..range.end as usize].fill(0);
                let zeros = vec![0; (range.end - range.start) as usize];
                rig.disk().write(range.start, zeros.into()).await.unwrap();
            }
            Op::Grow { by } => {
                let size = (size + by).min(GROWN_MAX);
                rig.disk().set_size(size).await.unwrap();
                model.resize(size as usize, 0);
            }
            Op::Checkpoint => rig.disks().checkpoint().unwrap(),
            Op::Restart => rig.restart(),
        }
        let size = model.len() as u64;
        prop_assert_eq!(rig.disk().size(), size);
        let outside = rig.disk().write(size - 1, vec![1, 2].into()).await;
        prop_assert!(matches!(outside, Err(DiskError::OutOfRange { .. })), "wrote past the end");
    }
    let size = model.len() as u64;
    let all = rig.disk().read(0..size, Priority::Guest).await.unwrap();
    prop_assert!(concat(&all)[..] == model[..], "the whole disk");
    // What was never written is the base's, and what was is enumerated.
    let mut at = 0;
    for written in rig.disk().written(0) {
        prop_assert!(written.range.start >= at);
        at = written.range.end;
        let bytes = &model[written.range.start as usize..written.range.end as usize];
        prop_assert!(!written.zeros || bytes.iter().all(|b| *b == 0));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_disk_is_a_byte_array_that_survives_restarts(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(ops))?;
    }
}
