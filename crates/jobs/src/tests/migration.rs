//! A migration to a directory: what the guest wrote is in it, and what is not published is nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use rekindle_image::Vmx;

use super::world::{SIZES, World, expected, to_directory, to_export};
use crate::{
    Destination, Finish, ImageFormat, JobState, Mode, Outcome, Phase, RecoveryRequest, Report,
    Sampling, Verification,
};

/// Blocks that the sample's disks store: every other MiB, of blocks of 256 KiB, and a short last one.
const STORED: [u64; 2] = [20, 5];

#[test]
fn the_copy_is_point_and_overlay() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(to_export(), None).await.unwrap();
        let view = running.serving(&job).await;
        let export = view.export.unwrap();
        assert_eq!(export.folder, "sample_1");
        assert_eq!(export.url.unwrap(), format!("nfs://127.0.0.1{}/sample_1", export.path));
        let mut models = [expected(0), expected(1)];
        assert_eq!(running.contents(&job, 0).await, models[0]);
        // Over data, over zeros, over a block's edge, at the end, and zeros over data.
        running.write(&job, 0, 4096 * 3 + 100, 9000, &mut models[0]).await;
        running.write(&job, 0, (1 << 20) + 5, 1, &mut models[0]).await;
        running.write(&job, 0, (256 << 10) - 10, 20, &mut models[0]).await;
        running.write(&job, 1, SIZES[1] - 512, 512, &mut models[1]).await;
        running.disk(&job, 0).write(2 << 20, vec![0; 64 << 10].into()).await.unwrap();
        models[0][2 << 20..(2 << 20) + (64 << 10)].fill(0);

        running.jobs.finish(&job, to_directory(world, "out")).await.unwrap();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Migrated)));
        assert_eq!(done.migrated_to.unwrap(), world.path("out").display().to_string());
        assert!(done.pause_ms.is_some());
        for (disk, name) in ["sample_1", "sample_1_1"].iter().enumerate() {
            let bytes = std::fs::read(world.path("out").join(format!("{name}-flat.vmdk"))).unwrap();
            assert!(bytes == models[disk], "disk {disk} differs");
        }
        let vmx = std::fs::read(world.path("out/sample_1.vmx")).unwrap();
        let vmx = Vmx::parse(&vmx).unwrap();
        assert_eq!(vmx.get("scsi0:1.fileName"), Some("sample_1_1.vmdk"));
        let nvram = std::fs::read(world.path("out/sample_1.nvram")).unwrap();
        assert_eq!(nvram, b"firmware variables");
        world.assert_clean(&running);
        running.stop().await;
    });
    qemu_reads(&world);
}

/// QEMU opens the descriptor and sees the bytes that the extent holds.
fn qemu_reads(world: &World) {
    let dir = world.path("out");
    let compared = Command::new("qemu-img")
        .args(["compare", "-f", "vmdk", "-F", "raw", "sample_1.vmdk", "sample_1-flat.vmdk"])
        .current_dir(&dir)
        .output();
    match compared {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("qemu-img is not installed: its view of the copy was not checked");
        }
        Err(e) => panic!("{e}"),
    }
}

/// The same bytes in each format, as QEMU reads them.
#[test]
fn the_copy_may_have_another_format() {
    let world = World::new();
    for (format, kind, end) in [
        (ImageFormat::Sparse, "vmdk", "vmdk"),
        (ImageFormat::Qcow2, "qcow2", "qcow2"),
        (ImageFormat::Raw, "raw", "raw"),
    ] {
        world.live(async |world| {
            let running = world.start().await;
            let job = running.jobs.start(to_export(), None).await.unwrap();
            let folder = running.serving(&job).await.export.unwrap().folder;
            let mut model = expected(0);
            running.write(&job, 0, (1 << 20) + 5, 70_000, &mut model).await;
            running.disk(&job, 0).write(2 << 20, vec![0; 64 << 10].into()).await.unwrap();
            model[2 << 20..(2 << 20) + (64 << 10)].fill(0);
            let to = Destination::Images { directory: world.path("out"), format };
            running
                .jobs
                .finish(&job, Finish::Migrate { to: Some(to), cut_over: None, verify: None })
                .await
                .unwrap();
            let done = running.end(&job).await;
            assert_eq!(done.outcome, Some(Outcome::Migrated), "{:?}", done.error);
            let out = world.path("out");
            let vmx =
                Vmx::parse(&std::fs::read(out.join(format!("{folder}.vmx"))).unwrap()).unwrap();
            let image = format!("{folder}.{end}");
            assert_eq!(vmx.get("scsi0:0.fileName"), Some(image.as_str()));
            assert!(!out.join(format!("{folder}-flat.vmdk")).exists());
            std::fs::write(out.join("model"), &model).unwrap();
            let compared = Command::new("qemu-img")
                .args(["compare", "-f", kind, "-F", "raw", &image, "model"])
                .current_dir(&out)
                .output();
            match compared {
                Ok(output) => assert!(output.status.success(), "{output:?}"),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    eprintln!("qemu-img is not installed: its view of {kind} was not checked");
                }
                Err(e) => panic!("{e}"),
            }
            world.assert_clean(&running);
            running.stop().await;
        });
        world.reset();
    }
}

/// What was copied before a restart is not read from the repository again.
#[test]
fn a_migration_goes_on_where_it_stopped() {
    let world = World::new();
    let job = world.live(async |world| {
        let mut config = world.config();
        // Seconds for a disk, so that the second is under way when it is stopped.
        config.mover.max_bytes_per_second = 4 << 20;
        config.mover.note_every = Duration::ZERO;
        let running = world.start_with(config).await;
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        running.write(&job, 0, 4096, 4096, &mut expected(0)).await;
        running.jobs.finish(&job, to_directory(world, "out")).await.unwrap();
        let noted = world.path(&format!(".out.rekindle-{job}/.copied"));
        let began = Instant::now();
        while !noted.exists() {
            assert!(began.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(running.cache.stats().passed >= STORED[0]);
        running.stop().await;
        job
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Migrated)));
        let passed = running.cache.stats().passed;
        assert!(passed <= STORED[1], "{passed} blocks were read again");
        let mut model = expected(0);
        model[4096..8192].copy_from_slice(&(0..4096).map(|n| (n as u8) ^ 0xa5).collect::<Vec<_>>());
        let out = world.path("out");
        assert!(std::fs::read(out.join("sample_1-flat.vmdk")).unwrap() == model);
        assert!(std::fs::read(out.join("sample_1_1-flat.vmdk")).unwrap() == expected(1));
        assert!(!out.join(".copied").exists());
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn what_is_written_during_the_migration_is_in_it() {
    let world = World::new();
    world.live(async |world| {
        let mut config = world.config();
        // Slow enough for writes to fall into each pass.
        config.mover.max_bytes_per_second = 40 << 20;
        config.mover.parallel = 1;
        let running = world.start_with(config).await;
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        running.jobs.finish(&job, to_directory(world, "out")).await.unwrap();
        let (mut model, mut at) = (expected(0), 0u64);
        let disk = running.disk(&job, 0);
        let mut acknowledged = 0;
        loop {
            let data = vec![at as u8 | 1; 4096];
            // A held write never returns while it is held: it ends with the disk, unacknowledged.
            if disk.write(at % SIZES[0], data.clone().into()).await.is_err() {
                break;
            }
            let start = (at % SIZES[0]) as usize;
            model[start..start + 4096].copy_from_slice(&data);
            acknowledged += 1;
            at += 4096 * 37;
        }
        let done = running.end(&job).await;
        assert_eq!(done.outcome, Some(Outcome::Migrated));
        assert!(acknowledged > 10, "{acknowledged}");
        let bytes = std::fs::read(world.path("out/sample_1-flat.vmdk")).unwrap();
        assert!(bytes == model, "an acknowledged write is missing");
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_migration_that_fails_leaves_the_guest_with_all_it_wrote() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        let mut model = expected(0);
        running.write(&job, 0, 0, 5000, &mut model).await;
        std::fs::create_dir(world.path("out")).unwrap();
        // Fills the directory behind the check: publishing must fail.
        let filled = world.path("out");
        let mut view = running.jobs.watch(&job).unwrap();
        running.jobs.finish(&job, to_directory(world, "out")).await.unwrap();
        std::fs::write(filled.join("other"), b"x").unwrap();
        let view = view
            .wait_for(|view| view.state == JobState::Serving && view.error.is_some())
            .await
            .unwrap()
            .clone();
        assert_eq!(view.error.unwrap().code, "bad_directory");
        assert!(view.steps.iter().all(|step| !["copy", "publish"].contains(&step.name.as_str())));
        running.write(&job, 0, 8192, 5000, &mut model).await;
        assert_eq!(running.contents(&job, 0).await, model);
        assert_eq!(std::fs::read(filled.join("other")).unwrap(), b"x");
        std::fs::remove_file(filled.join("other")).unwrap();
        running.jobs.finish(&job, to_directory(world, "out")).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Migrated));
        assert!(std::fs::read(world.path("out/sample_1-flat.vmdk")).unwrap() == model);
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn how_much_of_a_copy_was_compared_is_told() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let all = SIZES[0] + SIZES[1];
        let sampled = |seed| Verification::Sampled(Sampling { percent: 20, seed });
        for (number, how) in
            [Verification::Full, sampled(None), sampled(Some(5))].into_iter().enumerate()
        {
            let request = RecoveryRequest { verify: Some(how), ..to_export() };
            let job = running.jobs.start(request, None).await.unwrap();
            running.serving(&job).await;
            let finish = to_directory(world, &format!("out{number}"));
            running.jobs.finish(&job, finish).await.unwrap();
            let done = running.end(&job).await;
            assert_eq!(done.outcome, Some(Outcome::Migrated), "{:?}", done.error);
            let compared = done.compared.unwrap();
            assert_eq!(compared.of_bytes, all);
            match compared.how {
                Verification::Full => assert_eq!((how, compared.bytes), (Verification::Full, all)),
                Verification::Sampled(sampling) => {
                    // First, last and one of the other seven MiB of the one disk, and all of the other.
                    assert_eq!(compared.bytes, (3 << 20) + SIZES[1]);
                    assert!(sampling.seed.is_some() && (number == 1 || sampling.seed == Some(5)));
                }
            }
            let report = Report::of(&done);
            assert_eq!(report.compared, Some(compared));
            assert!(report.csv().contains(&format!(",{},", compared.bytes)));
            assert!(report.html().contains(&compared.to_string()));
        }
        let mount =
            RecoveryRequest { mode: Mode::LiveMount, verify: Some(sampled(None)), ..to_export() };
        assert_eq!(mount.validate().unwrap_err().code(), "bad_verify");
        for percent in [0, 100] {
            let verify = Some(Verification::Sampled(Sampling { percent, seed: None }));
            let request = RecoveryRequest { verify, ..to_export() };
            assert_eq!(request.validate().unwrap_err().code(), "bad_verify");
        }
        world.assert_clean(&running);
        running.stop().await;
    });
}

/// The net is tested: a copy that is damaged behind the mover's back is never published.
#[test]
fn a_damaged_copy_is_not_published() {
    let world = World::new();
    world.live(async |world| {
        let mut config = world.config();
        config.mover.max_bytes_per_second = 4 << 20;
        config.mover.parallel = 1;
        let running = world.start_with(config).await;
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        let mut view = running.jobs.watch(&job).unwrap();
        running.jobs.finish(&job, to_directory(world, "out")).await.unwrap();
        let verifying = view.wait_for(|view| {
            view.progress.as_ref().is_some_and(|progress| progress.phase == Phase::Verify)
        });
        drop(verifying.await.unwrap());
        let hidden = world.path(&format!(".out.rekindle-{job}/sample_1-flat.vmdk"));
        let file = std::fs::OpenOptions::new().write(true).open(hidden).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", SIZES[0] - 700_000).unwrap();
        let served = view.wait_for(|view| view.error.is_some()).await.unwrap().clone();
        assert_eq!(served.error.unwrap().code, "corrupt");
        running.serving(&job).await;
        assert!(!world.path("out").exists());
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.end(&job).await;
        world.assert_clean(&running);
        running.stop().await;
    });
}
