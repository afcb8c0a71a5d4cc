use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{GateScripts, Hours, UpkeepConfig};

/// How many jobs run at once, what they keep free, and where their exports are.
#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// The directory that holds one directory per export.
    pub exports_dir: PathBuf,
    /// Whether a recovery from a repository needs a passkey in its request; from one that is not named here it does
    /// if the repository is sealed.
    pub needs_passkey: BTreeMap<String, bool>,
    /// How repositories are kept, by name.
    pub upkeep: BTreeMap<String, UpkeepConfig>,
    /// Directories of the appliance that no migration may write into.
    pub own_dirs: Vec<PathBuf>,
    /// The address at which clients reach the exports, for views; unknown when absent.
    pub server: Option<IpAddr>,
    /// Whether the cache's ring lies on the file system of the overlays, and so gives way to them.
    pub ring_gives_way: bool,
    /// Bytes each job needs free for its overlays, at least.
    pub reserve_min_bytes: u64,
    /// The same in percent of the VM's size. The larger of the two counts.
    pub reserve_percent_of_vm: u8,
    /// How much each job reserves.
    pub admission: Admission,
    /// For how long a VM is to run on what it reserves by what was measured.
    pub measured_for: Duration,
    /// Jobs that may run at once; the rest is queued.
    pub max_active: usize,
    /// Jobs that may wait; past it requests are refused as busy.
    pub max_queued: usize,
    /// Ended jobs that are remembered, with their idempotency keys.
    pub max_remembered: usize,
    /// The time limit of a live mount that names none.
    pub mount_expires: Duration,
    /// How long the overlays of a job that was discarded or has expired are kept, if it does not say.
    pub keep: Duration,
    /// The first pause before an undo that failed is tried again; it doubles each time.
    pub retry_first: Duration,
    /// The longest such pause.
    pub retry_max: Duration,
    /// How long a guest's first touches are recorded; zero for neither recording nor replay.
    pub boot_profile: Duration,
    /// Programs that gates of batches may run; none when absent.
    pub gate_scripts: Option<GateScripts>,
    /// How the mover works.
    pub mover: MoverConfig,
}

/// How much of the space for guests' writes a job reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// By the VM's size.
    Reserve,
    /// By what earlier runs of the VM read at their start and wrote; by its size if there was none.
    Measured,
}

/// How the mover works.
#[derive(Clone, Debug)]
pub struct MoverConfig {
    /// Whether a live recovery that serves is read into the cache.
    pub warm: bool,
    /// Pieces of [`crate::MOVER_PIECE`] bytes in flight, per job.
    pub parallel: usize,
    /// The most storage migrations at once on one host, others' included.
    pub max_moves_per_host: usize,
    /// The most of this appliance's from or to one datastore.
    pub max_moves_per_datastore: usize,
    /// The most bytes per second and job; 0 for no limit.
    pub max_bytes_per_second: u64,
    /// The most bytes per second of all jobs together, and of read-ahead and boot profiles; 0 for no
    /// limit. Guests' reads count, and never wait for it.
    pub total_max_bytes_per_second: u64,
    /// Times of day with another such limit; the first that holds counts.
    pub hours: Vec<Hours>,
    /// What guests' reads may take, 19 of 20 of them, before the mover makes way.
    pub guest_read_p95: Duration,
    /// A migration to a directory holds the guest's writes once a pass left less than this.
    pub settle_below_bytes: u64,
    /// The most passes over what changed before it does so anyway.
    pub max_passes: usize,
    /// How often a migration to a directory makes durable what it copied, so that it goes on from
    /// there after a restart.
    pub note_every: Duration,
}

impl JobsConfig {
    /// The defaults, with exports in `exports_dir`.
    pub fn new(exports_dir: PathBuf) -> Self {
        Self {
            exports_dir,
            needs_passkey: BTreeMap::new(),
            upkeep: BTreeMap::new(),
            own_dirs: Vec::new(),
            server: None,
            ring_gives_way: true,
            reserve_min_bytes: 20_000_000_000,
            reserve_percent_of_vm: 15,
            admission: Admission::Reserve,
            measured_for: Duration::from_secs(86_400),
            max_active: 32,
            max_queued: 64,
            max_remembered: 500,
            mount_expires: Duration::from_secs(86_400),
            keep: Duration::ZERO,
            boot_profile: Duration::from_secs(180),
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            gate_scripts: None,
            mover: MoverConfig::default(),
        }
    }
}

impl Default for MoverConfig {
    fn default() -> Self {
        Self {
            warm: true,
            parallel: 4,
            max_moves_per_host: 2,
            max_moves_per_datastore: 8,
            max_bytes_per_second: 0,
            total_max_bytes_per_second: 0,
            hours: Vec::new(),
            guest_read_p95: Duration::from_millis(2),
            settle_below_bytes: 64 << 20,
            max_passes: 8,
            note_every: Duration::from_secs(10),
        }
    }
}
