//! The vSphere calls a recovery needs, over SOAP (vim25), to a vCenter or a standalone ESXi 6.5 to 8.
//!
//! # Layout
//!
//! ```text
//!  inventory datastore directory vm power snapshot relocate network   what a recovery wants, each call idempotent
//!  export                                                             what a backup wants: disks and files of a VM
//!  files disk_copy                                                    files and disks of datastores, read, written, copied
//!  aside                                                              a VM that makes room for another: found, renamed, put back
//!  budget                                                             what a host bears: mounts, migrations under way
//!  attach                                                             disks of ours on a VM that is not: attached, detached
//!      └─────────┴────────┴─────┴────┴──────┴────────┴───────┘
//!                  task   property                        tasks are followed, objects read and watched
//!                     session                             log in, once more when the server forgot us
//!              soap   transport   tls                     envelopes and faults over bounded HTTPS posts
//!               xml                                       the only reader and writer of XML
//! ```
//!
//! # Invariants
//!
//! 1. Every public call but those that take a snapshot or a lease, or copy a disk, is idempotent: asked twice, it finds its work done. So is every call that was
//!    cut off, by us or by the network, and is made again.
//! 2. Nothing is sent, least of all the password, before the server's certificate was checked.
//! 3. A datastore is removed only if it mounts the very export that the caller names.
//! 4. A password is in no log, no error and no `Debug` output.
//!
//! # Locking
//!
//! One mutex around logging in, held across that call alone; one around the session cookie, held to copy
//! it. Nothing else is shared: any number of calls go on at once over one [`Vsphere`].
//!
//! # Crash
//!
//! Nothing is kept here. Ids ([`HostId`], [`VmId`], [`DatastoreId`]) may be kept in a journal; a call
//! made again after a crash finds what the first one did, and waits for its task if that still runs.
//!
//! # Cancellation
//!
//! Every future may be dropped at any await. A task at the server goes on then; see
//! [`Vsphere::cancel_tasks`].
//!
//! # Bounds
//!
//! A reply has 8 MiB, 200 000 elements and 64 levels at most; a listing 50 000 objects; every call and
//! task a deadline ([`Limits`]). A server that cannot be reached is waited for as long as
//! [`Limits::patience`] says, except by [`Vsphere::connect`].

mod aside;
mod attach;
mod budget;
mod datastore;
mod directory;
mod disk_copy;
mod endpoint;
mod error;
mod export;
mod files;
mod guest;
mod inventory;
mod moref;
mod network;
mod power;
mod property;
mod relocate;
mod secret;
mod session;
mod snapshot;
mod soap;
mod task;
mod tls;
mod transport;
mod vm;
mod xml;

use std::sync::Arc;

pub use aside::{Standing, VmRef};
pub use attach::{Attached, NewDisk, off_limits};
pub use budget::NasMounts;
pub use datastore::{Datastore, NasExport};
pub use endpoint::{Endpoint, Limits, Trust};
pub use error::VsphereError;
pub use export::{Download, ExportOf, Lease, LeasedDisk};
pub use guest::{GuestView, Heartbeat};
pub use inventory::{Host, Network, PortGroup};
pub use moref::{DatastoreId, HostId, SnapshotId, VmId};
pub use network::{Nic, NicChange};
pub use power::UuidPolicy;
pub use secret::Secret;
pub use session::About;
pub use tls::{SeenCertificate, Thumbprint};
pub use vm::{PowerState, Vm, VmDisk, VmView};

/// A logged-in connection to a vCenter or ESXi. Clones share it.
#[derive(Clone)]
pub struct Vsphere {
    session: Arc<session::Session>,
}

impl std::fmt::Debug for Vsphere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vsphere").field("about", &self.session.about).finish_non_exhaustive()
    }
}

impl Vsphere {
    /// Connects and logs in. Tried once: who configures a target wants to know at once.
    pub async fn connect(endpoint: Endpoint) -> Result<Self, VsphereError> {
        Ok(Self { session: Arc::new(session::Session::open(endpoint).await?) })
    }

    /// What the server is.
    pub fn about(&self) -> &About {
        &self.session.about
    }

    /// Whether it is a vCenter, which alone can migrate VMs.
    pub fn is_vcenter(&self) -> bool {
        self.session.about.api_type == "VirtualCenter"
    }

    /// Ends the session, so that the server need not keep it until it is idle for long.
    pub async fn log_out(&self) -> Result<(), VsphereError> {
        self.session.log_out().await.map_err(VsphereError::from)
    }
}

/// The certificate that a server shows, for a person to compare and then pin. Nothing is sent to it.
pub async fn look_at_certificate(endpoint: &Endpoint) -> Result<SeenCertificate, VsphereError> {
    let url = endpoint.api_url()?;
    let seen = transport::look(&url, &endpoint.limits).await;
    let reason = format!("no TLS server at {url}");
    seen.ok_or(VsphereError::Unreachable { call: "connect", reason })
}
