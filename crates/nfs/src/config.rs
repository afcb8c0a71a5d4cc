//! What the server listens on and how much it lets clients ask of it.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// The NFS server's settings. Every field has a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NfsConfig {
    /// Address that NFS, MOUNT and the portmapper listen on.
    pub listen: IpAddr,
    /// TCP port of NFS and MOUNT; 0 takes a free one.
    pub port: u16,
    /// Who answers the portmapper's port.
    pub portmap: Portmap,
    /// The portmapper's port, 111 but in tests.
    pub portmap_port: u16,
    /// Seconds that a READ is held, unanswered, while its repository does not answer.
    pub held_read_seconds: u64,
    /// What a READ gets that was held for that long.
    pub held_read_answer: HeldReadAnswer,
    /// Bounds on what clients may use.
    pub limits: Limits,
}

impl Default for NfsConfig {
    fn default() -> Self {
        Self {
            listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 2049,
            portmap: Portmap::Own,
            portmap_port: 111,
            held_read_seconds: 120,
            held_read_answer: HeldReadAnswer::Jukebox,
            limits: Limits::default(),
        }
    }
}

/// Who answers the portmapper's port. The NFS port answers the portmap program in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Portmap {
    /// This server, by TCP and UDP.
    Own,
    /// An rpcbind that runs on this machine: NFS and MOUNT are registered with it.
    Rpcbind,
    /// Nobody.
    None,
}

/// What a READ gets whose data could not be had within `held_read_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldReadAnswer {
    /// `NFS3ERR_JUKEBOX`: the client asks again later.
    Jukebox,
    /// `NFS3ERR_IO`: the guest sees a medium error.
    Io,
}

/// Bounds. Each is checked before the resource is taken; at a bound there is back-pressure, not an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections in all; more are closed when accepted.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_client: usize,
    /// Calls of one connection that wait for data. Each takes about 1 KiB: 16 MiB a connection.
    pub waiting_calls_per_connection: usize,
    /// Calls that wait for data, of all connections: 64 MiB.
    pub waiting_calls: usize,
    /// Bytes of calls over 2 KiB (WRITEs) that were received and not yet answered, of all connections; of one client's,
    /// three quarters.
    pub write_bytes: usize,
    /// Bytes of READ data gathered by blocking reads and not yet sent, of all connections.
    pub read_bytes: usize,
    /// Bytes of replies queued on a connection before no more of its calls are looked at. Less while there are so many
    /// connections that all of them together would have more than `all_reply_bytes`.
    pub reply_bytes: usize,
    /// Bytes of replies queued on all connections before each has less than `reply_bytes`; none has less than 64 KiB.
    pub all_reply_bytes: usize,
    /// Bytes that the kernel keeps for all connections and could not send yet, what clients that read nothing cost there:
    /// a new connection gets its share of it, 128 KiB to 2 MiB.
    pub all_unsent_bytes: usize,
    /// Bytes of replies kept to answer retransmitted calls, of all clients.
    pub replay_bytes: usize,
    /// Files and folders of one export. Each takes about 400 bytes of memory.
    pub files_per_export: usize,
    /// Seconds in which a call that was begun must arrive whole.
    pub record_seconds: u64,
    /// Seconds in which a client must take some bytes of a reply.
    pub send_seconds: u64,
    /// Seconds after which a connection without calls from a client of no export is closed.
    pub stranger_idle_seconds: u64,
    /// Names changed (created, removed, renamed) at one time; more wait.
    pub name_changes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_client: 256,
            waiting_calls_per_connection: 16_384,
            waiting_calls: 65_536,
            write_bytes: 256 << 20,
            read_bytes: 128 << 20,
            reply_bytes: 512 << 10,
            all_reply_bytes: 256 << 20,
            all_unsent_bytes: 64 << 20,
            replay_bytes: 64 << 20,
            files_per_export: 1 << 20,
            record_seconds: 30,
            send_seconds: 120,
            stranger_idle_seconds: 30,
            name_changes: 64,
        }
    }
}
