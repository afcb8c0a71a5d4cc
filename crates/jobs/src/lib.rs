//! A recovery from request to clean-up; the mover.
//!
//! # Layout
//!
//! ```text
//!   Jobs ── accept ──► journal (state) ──► Driver, one task per job
//!     │                    ▲                  │   Plan::next: apply, serve, undo, finished
//!     └── messages ────────┼─────────────►    │
//!     ◄── watch: JobView ──┼──────────────    ├─ steps   admit open overlay export files
//!                          └── begun, done ── │          mount register power_on
//!                                             ├─ in place  identify halt set_aside … commit
//!                                             ├─ disks   identify attach
//!                                             ├─ boot    replay, record
//!                                             ├─ pause   branch clone compare stop hand_over start
//!                                             └─ mover   warm relocate depart
//!                                                        copy verify freeze settle publish
//! ```
//!
//! A job's record holds all that is known of it and is rewritten as a whole before and after each
//! step. On the way back the steps are undone in reverse. Finish, cancel, expiry, failure and restart
//! are this one walk. A job whose guest's writes are kept walks back as far as its overlays, and on
//! from there when its end is undone.
//!
//! # Invariants
//!
//! 1. Every step that has begun is undone, in reverse, wherever a crash fell (`plan.rs`). When a job has
//!    ended nothing is left of it: no export, overlay, file, datastore or registered VM of its own.
//! 2. A migration that fails or is given up leaves the guest running with all it wrote.
//! 3. An undo that fails leaves the job visibly stuck and is tried again, with back-off, for ever.
//! 4. A VM that its host has migrated is never powered off, unregistered or deleted.
//! 5. A migrated copy has its name only after all of it was read back (or, where that was asked for, a sample with all that the
//!    guest wrote), compared with the recovery point's hashes and the guest's writes, and synced. A write that was acknowledged is in it.
//! 6. A passkey is checked when a recovery is asked for, and neither journaled nor logged nor kept.
//! 7. What a job reads of a cold tier stays thawed for as long as it reads.
//! 8. Exports and disks of unfinished jobs are back before [`Jobs::open`] returns, or their clients wait:
//!    none sees a disk without its bytes.
//! 9. A recovery point that is made of what a guest wrote is of one moment over all its disks, and visible only when all
//!    of it is there.
//! 10. No prune of this appliance deletes a recovery point that a job uses or a batch names which has not ended, and no
//!     job is begun from a point that a prune has condemned.
//! 11. A copy of a VM that runs is of one moment over all its disks, and outlives the job that it was copied of.
//! 12. A VM that is stopped to be migrated runs again where it was, with all that it wrote, if it cannot be started where
//!     its copy is; and its copy was compared before it was stopped.
//!
//! # In place
//!
//! The original steps aside: it is powered off, renamed and tagged, and the recovered VM runs under its name. Until that is
//! committed, which is asked for once it has migrated, every way back ends with the original under its own name, running if
//! it ran: a failure, a cancel, a discard, a restart in between. Its files are deleted by a commit that says so, never else.
//! Invariant 4 is for VMs that are committed: before, one that has migrated is powered off and unregistered as well, and
//! its files are left. See `steps/in_place.rs`.
//!
//! # Migration to a directory
//!
//! The copy is made and verified while the guest runs, then again what it wrote meanwhile. For the last
//! pass its writes are *held*: they wait, they do not fail. Then the copy gets its name, the export is
//! removed, and the held writes end with it. Whoever ran the VM from the export must start it from the
//! copy: to the guest it is as if the power had been cut. Shut it down before for a clean end. If the
//! last pass fails, the held writes go on, and the guest saw a pause.
//!
//! # Migration with a pause
//!
//! A host that cannot move a VM while it runs copies its disks under a snapshot, and the VM is stopped for as long as it
//! takes to name files anew. See `steps/low_pause.rs`.
//!
//! # Restored state
//!
//! A backup of the state holds no disks. Before anything of it is opened [`end_restored`] ends the jobs that were under way.
//!
//! # Locking
//!
//! A job is changed by its driver alone. Shared exports and datastores have an async lock each, held
//! while they are made or removed; accepting a job has one. No other lock is held across an await.
//!
//! # Crash
//!
//! "begun" is durable before a step has any effect and "done" after it, so a step is done again or undone
//! after a crash, never forgotten. Overlays outlive everything but their own undo.
//!
//! # Cancellation
//!
//! A step is a future that is dropped when its job is cancelled; its undo follows. Only the rename that
//! publishes a copy is not cut short.
//!
//! # Bounds
//!
//! [`JobsConfig::max_active`] jobs run and [`JobsConfig::max_queued`] wait; [`JobsConfig::max_remembered`]
//! ended ones are kept, below 64 KiB each. 256 boot profiles are kept, of at most 400 KB each, and the write rates of 1024 VMs. Clients remembered for wrong passkeys: 1024. The mover's memory: see `mover.rs`.

mod admission;
mod batch;
mod boot;
mod budget;
mod config;
mod descriptor;
mod driver;
mod env;
mod error;
mod failure;
mod forecast;
mod hours;
mod inboxes;
mod jobs;
mod journal;
mod live;
mod mover;
mod naming;
mod origins;
mod passkeys;
mod plan;
mod profile;
mod profiles;
mod progress;
mod report;
mod request;
mod restored;
mod room;
mod route;
mod shares;
mod space;
mod staging;
mod steps;
mod still;
mod target;
#[cfg(test)]
mod tests;
mod upkeep;
mod view;
mod vmx;
mod writes;

pub use batch::{
    BatchRequest, BatchState, BatchView, Batches, Gate, GateScripts, GateView, Group, GroupState,
    GroupView, MemberView, OnError, Resume, Selection,
};
pub use config::{Admission, JobsConfig, MoverConfig};
pub use error::{ErrorView, JobError};
pub use forecast::{Forecast, Limit, Planned, Span};
pub use hours::{Hours, LimitsView};
pub use jobs::{Jobs, JobsDeps};
pub use mover::MOVER_PIECE;
pub use origins::ORIGINS_KEYSPACE;
pub use passkeys::Offer;
pub use plan::{Next, Plan, Step};
pub use report::{Measured, Report, ReportStep};
pub use request::{
    AdapterNetwork, AdapterRule, Compared, CutOver, CutOverMethod, Destination, Finish, GuestStop,
    ImageFormat, InPlace, MacPolicy, MigrationStart, Mode, Networks, OriginalRef, RecoveryRequest,
    Sampling, SwapPolicy, TargetRef, UuidPolicy, Verification,
};
pub use restored::{LostJob, end_restored};
pub use space::SpaceView;
pub use target::{Target, VsphereTarget};
pub use upkeep::{
    CheckRequest, Ending, KeepReport, KeepRequest, PruneRequest, UpkeepConfig, UpkeepEnd,
    UpkeepKind, UpkeepRunning, UpkeepView,
};
pub use view::{
    Event, ExportedFile, ExportedVm, FileKind, JobId, JobState, JobView, Obstacle, Outcome, Phase,
    Progress, StepState, StepView,
};
