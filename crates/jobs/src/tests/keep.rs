//! What a guest wrote becomes a recovery point.

use std::path::PathBuf;

use bytes::Bytes;

use super::world::{Running, World, expected, to_directory, to_export};
use crate::{Finish, JobId, JobState, KeepReport, KeepRequest, Mode, RecoveryRequest};

fn tagged(tag: &str) -> KeepRequest {
    KeepRequest { tags: vec![tag.into()] }
}

async fn kept(running: &Running, id: &JobId, request: KeepRequest) -> KeepReport {
    running.jobs.keep_as_point(id, request).await.unwrap().line().await.unwrap();
    running.jobs.upkeep("main").unwrap().keep.unwrap().report.unwrap()
}

/// What a recovery from this point serves.
async fn contents(running: &Running, point: &str) -> [Vec<u8>; 2] {
    let request = RecoveryRequest { point: point.into(), ..to_export() };
    let id = running.jobs.start(request, None).await.unwrap();
    running.serving(&id).await;
    let found = [running.contents(&id, 0).await, running.contents(&id, 1).await];
    running.jobs.cancel(&id).await.unwrap();
    running.wait(&id, &[JobState::Cancelled]).await;
    found
}

/// The path of a file of the VM's folder in its export.
fn file(running: &Running, id: &JobId, end: &str) -> PathBuf {
    let folder = running.jobs.view(id).unwrap().export.unwrap().folder;
    PathBuf::from(&folder).join(format!("{folder}.{end}"))
}

#[test]
fn a_point_of_what_a_guest_wrote_is_its_disks_and_only_what_changed_is_read() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let mount = RecoveryRequest { mode: Mode::LiveMount, ..to_export() };
        let id = running.jobs.start(mount, None).await.unwrap();
        let view = running.serving(&id).await;
        let mut models = [expected(0), expected(1)];
        running.write(&id, 0, 12345, 6789, &mut models[0]).await;
        running.write(&id, 1, (2 << 20) + 100, 412, &mut models[1]).await;
        // Zeros over data, data over zeros, and an end that moved, in the middle of a block.
        let zeros = 4 << 20..(4 << 20) + 8192;
        models[0][zeros.clone()].fill(0);
        running.disk(&id, 0).write(4 << 20, Bytes::from(vec![0; 8192])).await.unwrap();
        running.write(&id, 0, 3 << 20, 4096, &mut models[0]).await;
        models[1].resize((3 << 20) + 1024, 0);
        running.disk(&id, 1).set_size((3 << 20) + 1024).await.unwrap();
        running.write(&id, 1, (3 << 20) + 512, 512, &mut models[1]).await;
        // What is beside the disks is taken as the client left it.
        let export = running.exports.get(&view.export.unwrap().path[1..]).unwrap();
        let vmx = export.read_file(&file(&running, &id, "vmx")).unwrap().unwrap();
        let changed = [&vmx[..], b"annotation = \"patched\"\n"].concat();
        export.put_file(&file(&running, &id, "vmx"), &changed, 0o600).unwrap();
        export.put_file(&file(&running, &id, "nvram"), b"other variables", 0o600).unwrap();

        let report = kept(&running, &id, tagged("patched")).await;
        assert_eq!(report.job, id);
        // Blocks of 256 KiB: three of the first disk; of the second its last one and those behind.
        assert_eq!(report.read_bytes, (3 << 18) + (1 << 20) + 1024, "{report:?}");
        assert_eq!(running.jobs.view(&id).unwrap().state, JobState::Serving);
        let points = running.attached.get().unwrap().points().await.unwrap();
        assert_eq!((points.points.len(), points.damaged.len()), (2, 0));
        let point =
            points.points.iter().find(|point| point.id.to_string() == report.point).unwrap();
        let before = points.points.iter().find(|point| point.id.to_string() == view.point).unwrap();
        assert_eq!(point.vm, before.vm);
        assert_eq!(point.parent.as_ref(), Some(&before.id));
        assert_eq!(point.tags, ["patched"]);
        assert!(point.vmx.contains("annotation = \"patched\""), "{}", point.vmx);
        assert_eq!(point.nvram.as_deref(), Some(&b"other variables"[..]));
        assert!(contents(&running, &report.point).await == models);
        // The guest goes on, and what it writes now is not in the point.
        let wanted = models.clone();
        running.write(&id, 0, 12345, 100, &mut models[0]).await;
        running.disk(&id, 0).write(0, Bytes::from(vec![7; 4096])).await.unwrap();
        assert!(contents(&running, &report.point).await == wanted);
        assert!(contents(&running, &view.point).await == [expected(0), expected(1)]);
        running.stop().await;
    });
}

#[test]
fn what_is_kept_of_an_ended_job_becomes_a_point_also_after_a_restart() {
    let world = World::new();
    let mut models = [expected(0), expected(1)];
    let id = world.live(async |world| {
        let running = world.start().await;
        let request = RecoveryRequest { keep_seconds: Some(3600), ..to_export() };
        let id = running.jobs.start(request, None).await.unwrap();
        running.serving(&id).await;
        running.write(&id, 1, 5000, 70_000, &mut models[1]).await;
        running.jobs.finish(&id, Finish::Discard).await.unwrap();
        running.wait(&id, &[JobState::Kept]).await;
        running.stop().await;
        id
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        running.wait(&id, &[JobState::Kept]).await;
        let report = kept(&running, &id, KeepRequest::default()).await;
        running.wait(&id, &[JobState::Kept]).await;
        assert_eq!(report.read_bytes, 1 << 18);
        running.jobs.cancel(&id).await.unwrap();
        running.end(&id).await;
        assert!(contents(&running, &report.point).await == models);
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_guest_writes_on_while_its_point_is_made_of_one_moment() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let id = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&id).await;
        let mut models = [expected(0), expected(1)];
        for (n, model) in models.iter_mut().enumerate() {
            running.write(&id, n, 1000, 5000, model).await;
        }
        let still = running.jobs.still(&id).await.unwrap();
        let frozen = models.clone();
        for (n, model) in models.iter_mut().enumerate() {
            running.write(&id, n, 3000, 9000, model).await;
            running.disk(&id, n).set_size(model.len() as u64 + 512).await.unwrap();
        }
        let successor = still.successor(&tokio::runtime::Handle::current());
        for (disk, wanted) in successor.disks.into_values().zip(frozen) {
            assert_eq!(disk.written, std::slice::from_ref(&(0..1 << 18)));
            let read = move || {
                let mut found = vec![0; disk.file.size() as usize];
                disk.file.read_exact_at(0, &mut found).map(|()| found)
            };
            assert!(tokio::task::spawn_blocking(read).await.unwrap().unwrap() == wanted);
        }
        running.stop().await;
    });
}

#[test]
fn points_are_made_of_one_job_for_ever() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let id = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&id).await;
        let mut models = [expected(0), expected(1)];
        for n in 0..2 * rekindle_disk::LAYERS_MAX + 2 {
            running.write(&id, 0, n as u64 * 5000, 5000, &mut models[0]).await;
            let report = kept(&running, &id, KeepRequest::default()).await;
            assert!(contents(&running, &report.point).await == models);
        }
        running.jobs.finish(&id, to_directory(world, "out")).await.unwrap();
        running.end(&id).await;
        assert!(std::fs::read(world.path("out/sample_1-flat.vmdk")).unwrap() == models[0]);
        world.assert_clean(&running);
        running.stop().await;
    });
}

/// Killed at any moment, it leaves a point that is whole, or none.
#[test]
fn a_point_that_is_cut_short_is_not_there() {
    let world = World::new();
    let mut models = [expected(0), expected(1)];
    let id = world.live(async |world| {
        let running = world.start().await;
        let id = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&id).await;
        running.write(&id, 0, 0, 9 << 20, &mut models[0]).await;
        // Its end is not waited for: the appliance stops.
        drop(running.jobs.keep_as_point(&id, KeepRequest::default()).await.unwrap());
        running.stop().await;
        id
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        running.serving(&id).await;
        let points = running.attached.get().unwrap().points().await.unwrap();
        assert!(points.damaged.is_empty());
        for point in points.points.iter().filter(|point| point.parent.is_some()) {
            assert!(contents(&running, point.id.as_str()).await == models);
        }
        // The next one is made of all that the guest wrote.
        let report = kept(&running, &id, KeepRequest::default()).await;
        assert!(contents(&running, &report.point).await == models);
        running.stop().await;
    });
}

#[test]
fn no_point_is_made_of_what_is_no_whole_vm() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let refused = async |id: &JobId| {
            let begun = running.jobs.keep_as_point(id, KeepRequest::default()).await;
            assert!(running.jobs.upkeep("main").unwrap().running.is_none());
            begun.unwrap_err().code()
        };
        let alone = RecoveryRequest { mode: Mode::DiskOnly, ..to_export() };
        let id = running.jobs.start(alone, None).await.unwrap();
        running.serving(&id).await;
        assert_eq!(refused(&id).await, "not_a_whole_vm");
        let id = running.jobs.start(to_export(), None).await.unwrap();
        let view = running.serving(&id).await;
        let export = running.exports.get(&view.export.unwrap().path[1..]).unwrap();
        let vmx = file(&running, &id, "vmx");
        let text = String::from_utf8(export.read_file(&vmx).unwrap().unwrap()).unwrap();
        let delta = text.replace("_1.vmdk\"", "_1-000001.vmdk\"");
        assert_ne!(delta, text);
        export.put_file(&vmx, delta.as_bytes(), 0o600).unwrap();
        assert_eq!(refused(&id).await, "vm_has_snapshots");
        // A disk more, which no recovery point has.
        let more = "scsi0:2.present = \"TRUE\"\nscsi0:2.fileName = \"more.vmdk\"\n";
        export.put_file(&vmx, format!("{text}{more}").as_bytes(), 0o600).unwrap();
        let begun = running.jobs.keep_as_point(&id, KeepRequest::default()).await.unwrap();
        assert_eq!(begun.line().await.unwrap_err().code(), "repository_refused");
        // Nothing holds the guest's writes after a refusal.
        running.disk(&id, 0).write(0, Bytes::from_static(&[1; 512])).await.unwrap();
        running.jobs.cancel(&id).await.unwrap();
        running.wait(&id, &[JobState::Cancelled]).await;
        assert_eq!(refused(&id).await, "job_ended");
        let none: JobId = "20250131-235959-1f3a".parse().unwrap();
        assert_eq!(refused(&none).await, "job_not_found");
        assert_eq!(running.attached.get().unwrap().points().await.unwrap().points.len(), 1);
        running.stop().await;
    });
}
