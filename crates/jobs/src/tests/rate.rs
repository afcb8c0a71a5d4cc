//! N8: the mover against `qemu-img convert`, side by side. Run it alone and optimised:
//! `cargo test --release -p rekindle-jobs -- --ignored --nocapture mover_rate`

use std::process::Command;
use std::time::{Duration, Instant};

use super::world::{World, to_directory, to_export};
use crate::{JobView, RecoveryRequest, Step};

const SIZE: u64 = 2 << 30;
const ROUNDS: usize = 3;

/// Half text-like, a quarter random, a quarter zero, by MiB.
fn image(size: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; size as usize];
    let mut state = 1u64;
    for (n, mib) in bytes.chunks_mut(1 << 20).enumerate() {
        if n % 4 == 3 {
            continue;
        }
        for word in mib.chunks_mut(8) {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let value = if n % 4 == 2 { state } else { state & 0x0f0f_0000_0f00_0f0f };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
    }
    bytes
}

fn took(view: &JobView, step: Step) -> Duration {
    let step = view.steps.iter().find(|found| found.name == step).unwrap();
    let (from, to) = (step.started_at.unwrap(), step.finished_at.unwrap());
    to.duration_since(from).try_into().unwrap()
}

#[test]
#[ignore = "a measurement, not a check"]
fn mover_rate() {
    let world = World::of_image(&image(SIZE));
    let source = world.path("source/big-flat.vmdk");
    for round in 0..ROUNDS {
        let plain = world.path("converted.raw");
        let begun = Instant::now();
        let done = Command::new("qemu-img")
            .args(["convert", "-O", "raw", "-t", "writeback"])
            .args([&source, &plain])
            .status()
            .unwrap();
        std::fs::File::open(&plain).unwrap().sync_data().unwrap();
        let qemu = begun.elapsed();
        assert!(done.success());
        let view = world.live(async |world| {
            let mut config = world.config();
            config.mover.parallel = 4;
            let running = world.start_with(config).await;
            let request = RecoveryRequest { point: "big".into(), ..to_export() };
            let job = running.jobs.start(request, None).await.unwrap();
            running.serving(&job).await;
            running.jobs.finish(&job, to_directory(world, "out")).await.unwrap();
            let done = running.end(&job).await;
            running.stop().await;
            done
        });
        let (copy, verify) = (took(&view, Step::Copy), took(&view, Step::Verify));
        eprintln!(
            "round {round}: qemu-img {qemu:.2?}, copy {copy:.2?} ({:.2} x), verify {verify:.2?}, pause {} ms",
            qemu.as_secs_f64() / copy.as_secs_f64(),
            view.pause_ms.unwrap()
        );
        world.reset();
        std::fs::remove_file(plain).unwrap();
    }
}
