//! What else a recovery point may become: disks alone, files without a running VM, several VMs at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rekindle_image::Vmx;

use super::world::{Running, SIZES, World, expected, to_export, to_host};
use crate::{
    Destination, Finish, JobId, JobState, JobView, Mode, Outcome, RecoveryRequest, Step, TargetRef,
};

fn full(to: Destination, target: TargetRef) -> RecoveryRequest {
    RecoveryRequest { mode: Mode::FullRestore, migrate: Some(to), target, ..to_export() }
}

fn full_to_directory(path: PathBuf) -> RecoveryRequest {
    full(Destination::Directory(path), TargetRef::Nowhere {})
}

fn full_to_host() -> RecoveryRequest {
    full(Destination::Datastore("vmfs".into()), to_host().target)
}

fn mount() -> RecoveryRequest {
    RecoveryRequest { mode: Mode::LiveMount, ..to_export() }
}

/// The configuration that is served.
fn served(running: &Running, view: &JobView) -> Vmx {
    let export = view.export.as_ref().unwrap();
    let path = Path::new(&export.folder).join(&export.files[0].name);
    let export = running.exports.get(export.path.trim_start_matches('/')).unwrap();
    Vmx::parse(&export.read_file(&path).unwrap().unwrap()).unwrap()
}

#[test]
fn disks_alone_come_in_the_smallest_vm() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let request =
            RecoveryRequest { mode: Mode::DiskOnly, disks: vec!["SCSI0:1".into()], ..to_export() };
        let job = running.jobs.start(request, None).await.unwrap();
        let view = running.serving(&job).await;
        assert_eq!(view.name, "sample_1");
        let vmx = served(&running, &view);
        for (key, value) in [
            ("memSize", Some("100")),
            ("numvcpus", Some("1")),
            ("svga.present", Some("TRUE")),
            ("displayName", Some("sample_1")),
            ("virtualHW.version", Some("13")),
            ("scsi0.present", Some("TRUE")),
            ("scsi0.virtualDev", Some("lsilogic")),
            ("scsi0:1.present", Some("TRUE")),
            ("scsi0:1.fileName", Some("sample_1_1.vmdk")),
            ("uuid.action", Some("create")),
            ("nvram", None),
        ] {
            assert_eq!(vmx.get(key), value, "{key}");
        }
        let others = vmx.entries().map(|(key, _)| key.to_lowercase());
        let others: Vec<String> = others
            .filter(|key| key.starts_with("ethernet") || key.starts_with("scsi0:0"))
            .collect();
        assert!(others.is_empty(), "{others:?}");
        assert_eq!(view.export.unwrap().files.len(), 3);
        assert_eq!(running.disk(&job, 1).size(), SIZES[1]);
        assert_eq!(running.contents(&job, 1).await, expected(1));
        assert_eq!(running.disks.list().len(), 1);
        let to = Finish::Migrate {
            to: Some(Destination::Directory(world.path("out"))),
            cut_over: None,
            verify: None,
        };
        running.jobs.finish(&job, to).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Migrated));
        assert!(std::fs::read(world.path("out/sample_1_1-flat.vmdk")).unwrap() == expected(1));
        assert!(!world.path("out/sample_1-flat.vmdk").exists());
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_host_does_not_start_disks_alone() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let request = RecoveryRequest { mode: Mode::DiskOnly, ..to_host() };
        let job = running.jobs.start(request, None).await.unwrap();
        running.serving(&job).await;
        let vms = world.host.state().vms.clone();
        assert!(vms.values().all(|vm| !vm.runs) && vms.len() == 1, "{vms:?}");
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.end(&job).await;
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_vm_may_leave_disks_out() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let unknown = RecoveryRequest { disks: vec!["scsi9:0".into()], ..to_export() };
        let refused = running.jobs.start(unknown, None).await.unwrap_err();
        assert_eq!(refused.code(), "unknown_disk");
        let request = RecoveryRequest { disks: vec!["scsi0:0".into()], ..to_export() };
        let job = running.jobs.start(request, None).await.unwrap();
        let view = running.serving(&job).await;
        let vmx = served(&running, &view);
        assert_eq!(vmx.get("memSize"), Some("256"));
        assert_eq!(vmx.get("scsi0:1.present"), Some("FALSE"));
        assert!(view.timeline.iter().any(|event| event.what.contains("scsi0:1")), "{view:#?}");
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_full_restore_writes_a_directory_and_serves_nothing() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let request = full_to_directory(world.path("out"));
        let job = running.jobs.start(request, None).await.unwrap();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Migrated)));
        assert_eq!(done.migrated_to.as_deref(), world.path("out").to_str());
        assert!(done.steps.iter().all(|step| step.name != Step::Export), "{:#?}", done.steps);
        assert_eq!((done.serving_since, done.pause_ms), (None, None));
        for (disk, file) in ["sample_1-flat.vmdk", "sample_1_1-flat.vmdk"].iter().enumerate() {
            assert!(std::fs::read(world.path("out").join(file)).unwrap() == expected(disk));
        }
        let nvram = std::fs::read(world.path("out/sample_1.nvram")).unwrap();
        assert_eq!(nvram, b"firmware variables");
        let vmx = Vmx::parse(&std::fs::read(world.path("out/sample_1.vmx")).unwrap()).unwrap();
        assert_eq!(vmx.get("scsi0:1.fileName"), Some("sample_1_1.vmdk"));
        assert_eq!(vmx.get("ethernet0.networkName"), Some("VM Network"));
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_full_restore_to_a_datastore_is_not_started() {
    let world = World::new();
    world.host.state().datastores.insert("vmfs".into());
    world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(full_to_host(), None).await.unwrap();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Migrated)));
        {
            let state = world.host.state();
            let vm = &state.vms["[vmfs] sample_1/sample_1.vmx"];
            assert!(!vm.runs && state.vms.len() == 1 && state.mounted.is_empty());
            assert!(!state.calls.contains(&"power_on"));
        }
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_full_restore_that_fails_leaves_nothing() {
    let world = World::new();
    world.host.state().datastores.insert("vmfs".into());
    world.live(async |world| {
        let running = world.start().await;
        world.host.state().fail.insert("relocate", 1);
        let job = running.jobs.start(full_to_host(), None).await.unwrap();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Failed, Some(Outcome::Failed)));
        assert_eq!(done.error.unwrap().code, "target_unreachable");
        assert!(world.host.state().vms.is_empty());
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_full_restore_cannot_be_asked_for_otherwise() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let good = full_to_directory(world.path("out"));
        let cases = [
            ("bad_target", RecoveryRequest { target: to_export().target, ..good.clone() }),
            ("bad_target", RecoveryRequest { mode: Mode::LiveRecovery, ..good.clone() }),
            ("destination_missing", RecoveryRequest { migrate: None, ..good.clone() }),
            ("full_restore_runs_nowhere", RecoveryRequest { power_on: Some(true), ..good.clone() }),
            ("recovery_does_not_expire", RecoveryRequest { expires_in_seconds: Some(9), ..good }),
            (
                "destination_unreachable",
                full(Destination::Datastore("a".into()), TargetRef::Nowhere {}),
            ),
        ];
        for (code, request) in cases {
            let refused = running.jobs.start(request.clone(), None).await.unwrap_err();
            assert_eq!(refused.code(), code, "{request:?}");
        }
        running.stop().await;
    });
}

#[test]
fn one_point_is_mounted_several_times_at_once() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let mut jobs: Vec<JobId> = Vec::new();
        for request in [to_export(), mount(), mount(), mount()] {
            jobs.push(running.jobs.start(request, None).await.unwrap());
        }
        let mut models = Vec::new();
        for (n, job) in jobs.iter().enumerate() {
            running.serving(job).await;
            let mut model = expected(0);
            running.write(job, 0, 4096 * n as u64 + 100, 5000, &mut model).await;
            models.push(model);
        }
        for (job, model) in jobs.iter().zip(&models) {
            assert!(running.contents(job, 0).await == *model, "{job} sees another's writes");
        }
        // One ends, and the others do not notice.
        running.jobs.finish(&jobs[1], Finish::Discard).await.unwrap();
        running.end(&jobs[1]).await;
        assert!(running.contents(&jobs[2], 0).await == models[2]);
        for job in [&jobs[0], &jobs[2], &jobs[3]] {
            running.jobs.cancel(job).await.unwrap();
            running.end(job).await;
        }
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_mount_is_extended_also_across_a_restart() {
    let world = World::new();
    let (job, at) = world.live(async |world| {
        let running = world.start().await;
        let soon = RecoveryRequest { expires_in_seconds: Some(600), ..mount() };
        let job = running.jobs.start(soon, None).await.unwrap();
        let before = running.serving(&job).await.expires_at.unwrap();
        running.jobs.extend(&job, 7200).await.unwrap();
        let after = running.jobs.view(&job).unwrap().expires_at.unwrap();
        assert!(after.duration_since(before).as_secs() > 6000, "{before} {after}");
        assert_eq!(running.jobs.extend(&job, 0).await.unwrap_err().code(), "bad_expiry");
        assert_eq!(running.jobs.extend(&job, u64::MAX).await.unwrap_err().code(), "bad_expiry");
        let recovery = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&recovery).await;
        let refused = running.jobs.extend(&recovery, 60).await.unwrap_err();
        assert_eq!(refused.code(), "recovery_does_not_expire");
        running.jobs.cancel(&recovery).await.unwrap();
        running.end(&recovery).await;
        running.stop().await;
        (job, after)
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        assert_eq!(running.jobs.view(&job).unwrap().expires_at, Some(at));
        // A limit that is moved nearer counts as well.
        running.jobs.extend(&job, 1).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(30), running.end(&job)).await.unwrap();
        assert_eq!(ended.outcome, Some(Outcome::Expired));
        assert_eq!(running.jobs.extend(&job, 1).await.unwrap_err().code(), "job_ended");
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_point_is_chosen_by_its_time_and_tag() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let point = running.attached.get().unwrap().latest("sample").await.unwrap();
        let (at, id) = (point.created_at, point.id.to_string());
        let just_before = Some(at.saturating_sub(jiff::SignedDuration::from_millis(1)).unwrap());
        let by = |point: &str, before, tag: Option<&str>| RecoveryRequest {
            point: point.into(),
            before,
            tag: tag.map(str::to_owned),
            ..full_to_directory(world.path("out"))
        };
        for name in ["sample", &id] {
            for bad in [by(name, just_before, None), by(name, None, Some("weekly"))] {
                let refused = running.jobs.forecast(&bad).await.unwrap_err();
                assert_eq!(refused.code(), "point_not_found", "{bad:?}");
            }
            let found = running.jobs.forecast(&by(name, Some(at), Some("nightly"))).await.unwrap();
            assert_eq!(found.point, id);
        }
        running.stop().await;
    });
}
