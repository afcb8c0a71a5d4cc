use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use rekindle_jobs::{Admission, Hours};
use rekindle_nfs::{ClientNet, HeldReadAnswer, Portmap};
use serde::{Deserialize, Serialize};

/// The configuration file. Every key has a default, and its unit in its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) state_dir: PathBuf,
    pub(crate) cache: CacheSection,
    pub(crate) recovery: RecoverySection,
    pub(crate) mover: MoverSection,
    pub(crate) nfs: NfsSection,
    pub(crate) console: ConsoleSection,
    pub(crate) state_backup: StateBackupSection,
    pub(crate) repository: Vec<RepositoryEntry>,
    pub(crate) target: Vec<TargetEntry>,
    pub(crate) webhook: Vec<super::WebhookEntry>,
    pub(crate) mail: Option<super::MailSection>,
    pub(crate) syslog: Option<super::SyslogSection>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/rekindle".into(),
            cache: CacheSection::default(),
            recovery: RecoverySection::default(),
            mover: MoverSection::default(),
            nfs: NfsSection::default(),
            console: ConsoleSection::default(),
            state_backup: StateBackupSection::default(),
            repository: Vec::new(),
            target: Vec::new(),
            webhook: Vec::new(),
            mail: None,
            syslog: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CacheSection {
    pub(crate) root_dir: Option<PathBuf>,
    pub(crate) ram_bytes: u64,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) min_free_percent: u8,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) key_credential: Option<String>,
}

impl Default for CacheSection {
    fn default() -> Self {
        Self {
            root_dir: None,
            ram_bytes: 512 << 20,
            max_bytes: None,
            min_free_percent: 5,
            key_file: None,
            key_credential: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RecoverySection {
    pub(crate) reserve_min_bytes: u64,
    pub(crate) reserve_percent_of_vm: u8,
    pub(crate) admission: Admission,
    pub(crate) measured_hours: u64,
    pub(crate) max_active: usize,
    pub(crate) max_queued: usize,
    pub(crate) mount_expires_seconds: u64,
    pub(crate) boot_profile_seconds: u64,
    pub(crate) keep_seconds: u64,
    pub(crate) gate_scripts_dir: Option<PathBuf>,
}

impl Default for RecoverySection {
    fn default() -> Self {
        Self {
            reserve_min_bytes: 20_000_000_000,
            reserve_percent_of_vm: 15,
            admission: Admission::Reserve,
            measured_hours: 24,
            max_active: 32,
            max_queued: 64,
            mount_expires_seconds: 86_400,
            boot_profile_seconds: 180,
            keep_seconds: 0,
            gate_scripts_dir: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MoverSection {
    pub(crate) warm: bool,
    pub(crate) parallel: usize,
    pub(crate) max_bytes_per_second: u64,
    pub(crate) total_max_bytes_per_second: u64,
    pub(crate) hours: Vec<Hours>,
    pub(crate) guest_read_p95_ms: u64,
    pub(crate) settle_below_bytes: u64,
    pub(crate) max_passes: usize,
    pub(crate) max_moves_per_host: usize,
    pub(crate) max_moves_per_datastore: usize,
}

impl Default for MoverSection {
    fn default() -> Self {
        Self {
            warm: true,
            parallel: 4,
            max_bytes_per_second: 0,
            total_max_bytes_per_second: 0,
            hours: Vec::new(),
            guest_read_p95_ms: 2,
            settle_below_bytes: 64 << 20,
            max_passes: 8,
            max_moves_per_host: 2,
            max_moves_per_datastore: 8,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StateBackupSection {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) every_hours: u64,
    pub(crate) keep: usize,
}

impl Default for StateBackupSection {
    fn default() -> Self {
        Self { dir: None, every_hours: 24, keep: 14 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NfsSection {
    pub(crate) listen: IpAddr,
    pub(crate) port: u16,
    pub(crate) portmap: Portmap,
    pub(crate) portmap_port: u16,
    pub(crate) advertise: Option<IpAddr>,
    pub(crate) held_read_seconds: u64,
    pub(crate) held_read_answer: HeldReadAnswer,
}

impl Default for NfsSection {
    fn default() -> Self {
        Self {
            listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 2049,
            portmap: Portmap::Own,
            portmap_port: 111,
            advertise: None,
            held_read_seconds: 120,
            held_read_answer: HeldReadAnswer::Jukebox,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ConsoleSection {
    pub(crate) listen: SocketAddr,
    pub(crate) tls: TlsUse,
    pub(crate) certificate_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) plain_http_beyond_loopback: bool,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) token_credential: Option<String>,
    pub(crate) restore_requires_totp: bool,
    pub(crate) restore_requires_reason: bool,
}

impl Default for ConsoleSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8480)),
            tls: TlsUse::Auto,
            certificate_file: None,
            key_file: None,
            plain_http_beyond_loopback: false,
            token_file: None,
            token_credential: None,
            restore_requires_totp: false,
            restore_requires_reason: false,
        }
    }
}

/// Whether the console's port speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TlsUse {
    /// Where it leaves this machine, or a certificate is configured.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl ConsoleSection {
    /// Whether connections are encrypted.
    pub(crate) fn speaks_tls(&self) -> bool {
        match self.tls {
            TlsUse::On => true,
            TlsUse::Off => false,
            TlsUse::Auto => {
                let leaves = !self.listen.ip().is_loopback() && !self.plain_http_beyond_loopback;
                leaves || self.certificate_file.is_some()
            }
        }
    }
}

/// A repository by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RepositoryEntry {
    pub(crate) name: String,
    /// Recovery points unless it says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<RepositoryKind>,
    /// A directory, or
    pub(crate) path: Option<PathBuf>,
    /// a bucket, with what follows.
    pub(crate) bucket: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) path_style: Option<bool>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) credentials_file: Option<PathBuf>,
    pub(crate) credentials_credential: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) passkey_file: Option<PathBuf>,
    pub(crate) passkey_credential: Option<String>,
    pub(crate) recover_needs_passkey: Option<bool>,
    pub(crate) compression_level: Option<i32>,
    /// What a prune keeps.
    pub(crate) keep_last: Option<u32>,
    pub(crate) keep_daily: Option<u32>,
    pub(crate) keep_weekly: Option<u32>,
    pub(crate) keep_monthly: Option<u32>,
    pub(crate) keep_yearly: Option<u32>,
    pub(crate) keep_tags: Option<Vec<String>>,
    pub(crate) prune_grace_hours: Option<u32>,
    pub(crate) hot_copy: Option<super::HotCopySection>,
}

/// What lies in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RepositoryKind {
    /// Recovery points, which ingest wrote.
    Points,
    /// Images of VMs as others left them: read where they lie, never written to.
    Images,
}

impl RepositoryEntry {
    /// Whether it is read where others left it.
    pub(crate) fn has_images(&self) -> bool {
        self.kind == Some(RepositoryKind::Images)
    }

    /// A repository in a directory.
    pub(crate) fn local(name: &str, path: PathBuf) -> Self {
        Self {
            name: name.into(),
            kind: None,
            path: Some(path),
            bucket: None,
            prefix: None,
            endpoint: None,
            region: None,
            path_style: None,
            ca_file: None,
            credentials_file: None,
            credentials_credential: None,
            profile: None,
            passkey_file: None,
            passkey_credential: None,
            recover_needs_passkey: None,
            compression_level: None,
            keep_last: None,
            keep_daily: None,
            keep_weekly: None,
            keep_monthly: None,
            keep_yearly: None,
            keep_tags: None,
            prune_grace_hours: None,
            hot_copy: None,
        }
    }
}

/// A vCenter or ESXi by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetEntry {
    pub(crate) name: String,
    pub(crate) kind: TargetKind,
    pub(crate) url: String,
    pub(crate) user: String,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) password_credential: Option<String>,
    pub(crate) thumbprint: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) host: Option<String>,
    pub(crate) server: Option<String>,
    pub(crate) datastore: Option<String>,
    #[serde(default)]
    pub(crate) clients: Vec<ClientNet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TargetKind {
    Vsphere,
}

impl Config {
    /// Where the cache's ring is.
    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.cache.root_dir.clone().unwrap_or_else(|| self.state_dir.join("cache"))
    }

    /// The configured repositories; without any, the one in the state directory.
    pub(crate) fn repositories(&self) -> Vec<RepositoryEntry> {
        if self.has_default_repository() {
            let path = self.state_dir.join("repository");
            return vec![RepositoryEntry::local(super::DEFAULT_REPOSITORY, path)];
        }
        self.repository.clone()
    }

    /// Whether the repository in the state directory is used, which is made when it is missing.
    pub(crate) fn has_default_repository(&self) -> bool {
        self.repository.is_empty()
    }
}
