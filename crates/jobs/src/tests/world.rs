//! An appliance without its NFS port, that can be killed and started again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use rekindle_cache::{Cache, CacheConfig, CacheError, Priority};
use rekindle_disk::{Disk, DiskId, Disks, DisksConfig};
use rekindle_nfs::{Exports, NfsConfig, NfsServer};
use rekindle_repo::{Attached, CreateOptions, IngestOptions, IngestProgress, Repository, ingest};
use rekindle_state::Database;
use tempfile::TempDir;

use crate::target::fake::FakeHost;
use crate::{
    Destination, Finish, JobId, JobState, JobView, Jobs, JobsConfig, JobsDeps, Mode,
    RecoveryRequest, Target, TargetRef,
};

/// Bytes of the sample VM's disks: the second is no multiple of a block.
pub(super) const SIZES: [u64; 2] = [9 << 20, (2 << 20) + 512];
const SEED: [u8; 2] = [7, 8];

const VMX: &str = r#".encoding = "UTF-8"
config.version = "8"
virtualHW.version = "13"
displayName = "sample"
guestOS = "debian10-64"
memSize = "256"
nvram = "sample.nvram"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "sample.vmdk"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "sample_1.vmdk"
ethernet0.present = "TRUE"
ethernet0.networkName = "VM Network"
uuid.bios = "56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee"
"#;

/// The byte that belongs at `offset` of disk `disk`. Every other MiB is zero. No two words are alike.
pub(super) fn expected_byte(disk: usize, offset: u64) -> u8 {
    if (offset >> 20) % 2 == 1 {
        return 0;
    }
    let word = (offset / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(SEED[disk]);
    (word >> (8 * (offset % 8))) as u8
}

/// All bytes of a disk of the recovery point.
pub(super) fn expected(disk: usize) -> Vec<u8> {
    (0..SIZES[disk]).map(|at| expected_byte(disk, at)).collect()
}

/// What outlives a kill.
pub(super) struct World {
    pub(super) dir: TempDir,
    pub(super) host: Arc<FakeHost>,
}

/// A running appliance.
pub(super) struct Running {
    pub(super) jobs: Arc<Jobs>,
    pub(super) disks: Arc<Disks>,
    pub(super) exports: Exports,
    pub(super) cache: Arc<Cache>,
    pub(super) attached: Attached,
    db: Database,
    _nfs: NfsServer,
}

/// The ring's thread of the life before lets its directory go a moment after the last handle to it.
async fn open_cache(config: CacheConfig) -> Arc<Cache> {
    let opened = async {
        loop {
            match Cache::open(config.clone()) {
                Err(CacheError::Unavailable(_)) => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), opened).await.expect("the cache stays locked")
}

impl World {
    /// A repository with one point of the sample VM.
    pub(super) fn new() -> Self {
        Self::of("sample", VMX, &[("sample", &expected(0)), ("sample_1", &expected(1))])
    }

    /// A repository with one point of a VM `big` of one disk.
    pub(super) fn of_image(image: &[u8]) -> Self {
        let vmx = "displayName = \"big\"\nscsi0.present = \"TRUE\"\n\
                   scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"big.vmdk\"\n";
        Self::of("big", vmx, &[("big", image)])
    }

    fn of(name: &str, vmx: &str, disks: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("source")).unwrap();
        Repository::create(&dir.path().join("repository"), &CreateOptions::default()).unwrap();
        let world = Self { dir, host: Arc::default() };
        world.ingest(name, vmx, disks);
        world
    }

    /// A point more: of a VM with these disks.
    pub(super) fn add(&self, name: &str, disks: &[Vec<u8>]) {
        let mut vmx = format!("displayName = \"{name}\"\nscsi0.present = \"TRUE\"\n");
        let mut named = Vec::new();
        for (n, bytes) in disks.iter().enumerate() {
            let disk = format!("{name}_{n}");
            vmx += &format!("scsi0:{n}.present = \"TRUE\"\nscsi0:{n}.fileName = \"{disk}.vmdk\"\n");
            named.push((disk, bytes));
        }
        let disks: Vec<_> = named.iter().map(|(name, b)| (name.as_str(), b.as_slice())).collect();
        self.ingest(name, &vmx, &disks);
    }

    fn ingest(&self, name: &str, vmx: &str, disks: &[(&str, &[u8])]) {
        let source = self.path("source");
        let vmx_path = source.join(format!("{name}.vmx"));
        std::fs::write(&vmx_path, vmx).unwrap();
        std::fs::write(source.join(format!("{name}.nvram")), b"firmware variables").unwrap();
        for (disk, bytes) in disks {
            let sectors = bytes.len() / 512;
            let descriptor = format!(
                "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                 createType=\"vmfs\"\nRW {sectors} VMFS \"{disk}-flat.vmdk\"\n"
            );
            std::fs::write(source.join(format!("{disk}.vmdk")), descriptor).unwrap();
            std::fs::write(source.join(format!("{disk}-flat.vmdk")), bytes).unwrap();
        }
        let options = IngestOptions { tags: vec!["nightly".into()], ..IngestOptions::default() };
        let repository = Repository::open(&self.path("repository")).unwrap();
        let (progress, cancel) =
            (Arc::new(IngestProgress::default()), Arc::new(AtomicBool::new(false)));
        ingest(&repository, &vmx_path, &options, &progress, &cancel).unwrap();
    }

    /// Forgets ended jobs and what they migrated; the repository stays.
    pub(super) fn reset(&self) {
        for dir in ["state", "out"] {
            match std::fs::remove_dir_all(self.path(dir)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("{e}"),
                _ => {}
            }
        }
        *self.host.state() = Default::default();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The configuration that the stories run with: nothing waits for space or for seconds.
    pub(super) fn config(&self) -> JobsConfig {
        let mut config = JobsConfig::new(self.path("state/exports"));
        config.own_dirs = vec![self.path("state"), self.path("repository")];
        config.server = Some([127, 0, 0, 1].into());
        config.reserve_min_bytes = 1 << 20;
        config.retry_first = Duration::from_millis(5);
        config.retry_max = Duration::from_millis(20);
        config.mover.warm = false;
        config
    }

    pub(super) async fn start(&self) -> Running {
        self.start_with(self.config()).await
    }

    pub(super) async fn start_with(&self, config: JobsConfig) -> Running {
        let repository = Repository::open(&self.path("repository")).unwrap();
        self.start_on(config, repository.into()).await
    }

    /// Opens everything as the daemon does, but for the port.
    pub(super) async fn start_on(&self, config: JobsConfig, attached: Attached) -> Running {
        let state = self.path("state");
        std::fs::create_dir_all(&state).unwrap();
        let db = Database::open(&state.join("db")).unwrap();
        let small = DisksConfig { journal_bytes: 1 << 20 };
        let disks = Disks::open(&state.join("overlay"), &db, small).unwrap();
        let cache = CacheConfig {
            root_dir: state.join("cache"),
            ram_bytes: 16 << 20,
            max_bytes: Some(256 << 20),
            min_free_percent: 0,
            key: None,
        };
        let cache = open_cache(cache).await;
        let nfs = NfsServer::open(&state.join("nfs"), NfsConfig::default()).unwrap();
        {
            let appliance = &mut self.host.state().appliance;
            appliance.exports = Some(nfs.exports());
            appliance.disks = Some(disks.clone());
        }
        let jobs = Jobs::open(JobsDeps {
            db: db.clone(),
            disks: disks.clone(),
            exports: nfs.exports(),
            repositories: [("main".to_owned(), attached.clone())].into(),
            cache: cache.clone(),
            targets: [("lab".to_owned(), Target::Fake(self.host.clone()))].into(),
            low_priority: tokio::runtime::Handle::current(),
            config,
        });
        let jobs = jobs.await.unwrap();
        Running { jobs, disks, exports: nfs.exports(), cache, attached, db, _nfs: nfs }
    }

    /// A story from start to kill: its tasks end in the middle of whatever they do, and everything
    /// is closed when this returns.
    pub(super) fn live<T>(&self, story: impl AsyncFnOnce(&Self) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let result = runtime.block_on(story(self));
        runtime.shutdown_timeout(Duration::from_secs(10));
        // The host outlives the appliance, and holds nothing of it.
        self.host.state().appliance = Default::default();
        result
    }

    /// Nothing is left of any job: no overlay, no export, no file, nothing at the host.
    #[track_caller]
    pub(super) fn assert_clean(&self, running: &Running) {
        assert_eq!(running.disks.list(), Vec::<DiskId>::new());
        assert!(running.exports.list().is_empty());
        let exports = self.path("state/exports");
        let left: Vec<_> = std::fs::read_dir(exports).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        let overlays: Vec<String> = std::fs::read_dir(self.path("state/overlay"))
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_type().unwrap().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        assert!(overlays.is_empty(), "{overlays:?}");
        assert_eq!(running.jobs.active(), (0, 0));
        let hidden: Vec<_> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with('.'))
            .collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}

impl Running {
    /// Waits until the job is in one of these states.
    pub(super) async fn wait(&self, id: &JobId, states: &[JobState]) -> JobView {
        let mut view = self.jobs.watch(id).unwrap();
        let reached = view.wait_for(|view| {
            assert!(
                !view.state.is_final() || states.contains(&view.state),
                "{:?} {:?} {:#?}",
                view.state,
                view.error,
                view.timeline
            );
            states.contains(&view.state)
        });
        let reached = tokio::time::timeout(Duration::from_secs(60), reached).await;
        let Ok(reached) = reached else {
            panic!("not {states:?} but {:#?}", self.jobs.view(id).unwrap());
        };
        reached.unwrap().clone()
    }

    pub(super) async fn serving(&self, id: &JobId) -> JobView {
        self.wait(id, &[JobState::Serving]).await
    }

    pub(super) fn disk(&self, id: &JobId, index: usize) -> Arc<Disk> {
        let id = DiskId::new(format!("{id}.{index}")).unwrap();
        self.disks.attached(&id).expect("the disk is attached")
    }

    /// Writes as the guest does, and into the model.
    pub(super) async fn write(
        &self,
        id: &JobId,
        disk: usize,
        at: u64,
        len: usize,
        model: &mut [u8],
    ) {
        let data: Vec<u8> = (0..len).map(|n| (n as u8) ^ 0xa5).collect();
        model[at as usize..at as usize + len].copy_from_slice(&data);
        self.disk(id, disk).write(at, Bytes::from(data)).await.unwrap();
    }

    /// The whole of a disk as the guest sees it.
    pub(super) async fn contents(&self, id: &JobId, index: usize) -> Vec<u8> {
        let disk = self.disk(id, index);
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < disk.size() {
            let at = bytes.len() as u64;
            let piece = at..(at + (1 << 20)).min(disk.size());
            for segment in disk.read(piece, Priority::Guest).await.unwrap() {
                bytes.extend_from_slice(&segment);
            }
        }
        bytes
    }

    pub(super) async fn end(&self, id: &JobId) -> JobView {
        let finals = [JobState::Completed, JobState::Cancelled, JobState::Failed];
        self.wait(id, &finals).await
    }

    pub(super) fn db(&self) -> &Database {
        &self.db
    }

    /// Leaves all jobs for the next start.
    pub(super) async fn stop(self) {
        self.jobs.stop().await;
        self.cache.close().await;
        drop(self.db);
    }
}

/// A live recovery that one client may mount.
pub(super) fn to_export() -> RecoveryRequest {
    RecoveryRequest {
        point: "sample".into(),
        from_job: None,
        before: None,
        tag: None,
        repository: None,
        mode: Mode::LiveRecovery,
        disks: Vec::new(),
        target: TargetRef::Export { clients: vec!["127.0.0.1".parse().unwrap()] },
        name: None,
        name_prefix: None,
        name_suffix: None,
        migrate: None,
        migration: None,
        cut_over: None,
        verify: None,
        expires_in_seconds: None,
        keep_seconds: None,
        power_on: None,
        networks: None,
        adapters: Default::default(),
        mac: None,
        swap: None,
        redo_datastore: None,
        in_place: None,
        attach_to: None,
        uuid: None,
        thaw: None,
    }
}

/// A live recovery on the host of the world.
pub(super) fn to_host() -> RecoveryRequest {
    let target = TargetRef::Vsphere { name: "lab".into(), host: None };
    RecoveryRequest { target, ..to_export() }
}

pub(super) fn to_directory(world: &World, name: &str) -> Finish {
    Finish::Migrate {
        to: Some(Destination::Directory(world.path(name))),
        cut_over: None,
        verify: None,
    }
}
