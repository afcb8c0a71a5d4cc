//! An export as the console shows it.

use super::Export;
use super::latency::DiskLatencyView;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// An export and what happens on it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExportView {
    /// Its name.
    pub name: String,
    /// What clients mount.
    pub path: String,
    /// The real directory.
    pub directory: PathBuf,
    /// Addresses and networks that it is open to.
    pub clients: Vec<String>,
    /// Clients that have it mounted.
    pub mounted_by: Vec<IpAddr>,
    /// Files and folders in it.
    pub files: u64,
    /// Ids of the disks in it.
    pub disks: Vec<String>,
    /// Calls answered or being answered.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// READ calls.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// WRITE calls.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// READs that wait for a repository now.
    pub held_reads: u64,
    /// How long the calls of its disks took.
    pub latency: Vec<DiskLatencyView>,
    /// Its clients.
    pub sessions: Vec<SessionView>,
}

/// One client of an export.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SessionView {
    /// Its address.
    pub client: IpAddr,
    /// Its calls.
    pub calls: u64,
    /// Bytes it read.
    pub read_bytes: u64,
    /// Bytes it wrote.
    pub write_bytes: u64,
    /// When it made its last call: seconds since 1970.
    pub last_seen_unix_seconds: u64,
}

impl Export {
    /// The export as it is now.
    pub fn view(&self) -> ExportView {
        let mut disks: Vec<(String, u64)> =
            self.disks.lock().iter().map(|(disk, node)| (disk.clone(), *node)).collect();
        disks.sort();
        ExportView {
            name: self.name.clone(),
            path: self.path.clone(),
            directory: self.dir.clone(),
            clients: self.clients().iter().map(ToString::to_string).collect(),
            mounted_by: self.mounted_by(),
            files: self.nodes.read().len() as u64,
            latency: self.latencies(&disks),
            disks: disks.into_iter().map(|(disk, _)| disk).collect(),
            calls: get(&self.stats.calls),
            errors: get(&self.stats.errors),
            reads: get(&self.stats.reads),
            read_bytes: get(&self.stats.read_bytes),
            writes: get(&self.stats.writes),
            write_bytes: get(&self.stats.write_bytes),
            held_reads: get(&self.stats.held_reads),
            sessions: self.session_views(),
        }
    }

    fn latencies(&self, disks: &[(String, u64)]) -> Vec<DiskLatencyView> {
        let view = |(disk, node): &(String, u64)| Some(self.node(*node)?.latency()?.view(disk));
        disks.iter().filter_map(view).collect()
    }

    fn session_views(&self) -> Vec<SessionView> {
        let sessions = self.sessions.read();
        let mut views: Vec<SessionView> = sessions
            .iter()
            .map(|(client, session)| SessionView {
                client: *client,
                calls: get(&session.calls),
                read_bytes: get(&session.read_bytes),
                write_bytes: get(&session.write_bytes),
                last_seen_unix_seconds: get(&session.last_seen),
            })
            .collect();
        views.sort_by_key(|view| view.client);
        views
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
