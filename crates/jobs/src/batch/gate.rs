use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::WAIT_MAX_SECONDS;
use crate::{JobError, RecoveryRequest, TargetRef};

mod guest;
mod ping;
mod script;

pub(super) use guest::Guest;
pub use script::GateScripts;

/// How long one look may take, and the least time between the beginnings of two, where somebody is only asked.
const LOOK: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);
/// The same for what costs more: calls of a vCenter, and programs.
const CALLS: Duration = Duration::from_secs(30);
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// VMs that one gate looks at at once.
const SIDE_BY_SIDE: usize = 8;
/// VMs that are named when a gate stays shut.
const NAMED: usize = 5;
/// How long one run of a script may take, if that is not said, and at most.
const RUN_SECONDS: u64 = 60;
const RUN_MAX_SECONDS: u64 = 3600;

/// Something that answers when a group does its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Gate {
    /// A TCP port that takes connections.
    Port {
        /// The guest's name or address.
        host: String,
        /// Its port.
        port: u16,
        /// How long it is waited for.
        within_seconds: u64,
    },
    /// An echo (ICMP) that comes back.
    Ping {
        /// The guest's name or address. When absent, each VM of the group at the address that its tools tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// How long it is waited for.
        within_seconds: u64,
    },
    /// The tools in each VM of the group run, and their heartbeat is green.
    Tools {
        /// How long it is waited for.
        within_seconds: u64,
    },
    /// A program of the administrator's that ends with 0, for each VM of the group.
    Script {
        /// Its file in the configured directory.
        name: String,
        /// How long one run may take.
        #[serde(default = "run_seconds")]
        run_seconds: u64,
        /// How long it is waited for; it is run again until then.
        within_seconds: u64,
    },
}

fn run_seconds() -> u64 {
    RUN_SECONDS
}

impl Gate {
    /// Refuses what could never work. No I/O.
    pub(super) fn validate(&self) -> Result<(), JobError> {
        let refused = |message: String| Err(JobError::refused("bad_batch", message));
        if !(1..=WAIT_MAX_SECONDS).contains(&self.within_seconds()) {
            return refused(format!("a gate is waited for 1 to {WAIT_MAX_SECONDS} seconds"));
        }
        match self {
            Self::Port { port: 0, .. } => refused("a gate has a port from 1".into()),
            Self::Port { host, .. } | Self::Ping { host: Some(host), .. } => {
                crate::request::text("gates.host", host)
            }
            Self::Ping { host: None, .. } | Self::Tools { .. } => Ok(()),
            Self::Script { run_seconds, .. } if !(1..=RUN_MAX_SECONDS).contains(run_seconds) => {
                refused(format!("a run of a gate's script takes 1 to {RUN_MAX_SECONDS} seconds"))
            }
            Self::Script { name, .. } => script::check_name(name),
        }
    }

    /// Refuses what cannot work for these VMs, or with these scripts. Blocks for the file system.
    pub(super) fn admit(
        &self,
        vms: &[RecoveryRequest],
        scripts: Option<&GateScripts>,
    ) -> Result<(), JobError> {
        let at_host = |vm: &RecoveryRequest| matches!(vm.target, TargetRef::Vsphere { .. });
        match self {
            Self::Tools { .. } | Self::Ping { host: None, .. } if !vms.iter().all(at_host) => {
                let message = "a gate asks the guests' tools, and not all of the group runs on \
                               vSphere: give a host to ping, or a port";
                Err(JobError::refused("bad_batch", message))
            }
            Self::Script { name, .. } => script::find(scripts, name).map(drop),
            Self::Port { .. } | Self::Ping { .. } | Self::Tools { .. } => Ok(()),
        }
    }

    fn within_seconds(&self) -> u64 {
        match self {
            Self::Port { within_seconds, .. }
            | Self::Ping { within_seconds, .. }
            | Self::Tools { within_seconds }
            | Self::Script { within_seconds, .. } => *within_seconds,
        }
    }

    /// Whether it looks at each VM of its group, not at one place.
    fn is_of_each(&self) -> bool {
        match self {
            Self::Port { .. } | Self::Ping { host: Some(_), .. } => false,
            Self::Ping { host: None, .. } | Self::Tools { .. } | Self::Script { .. } => true,
        }
    }

    /// How long one look may take, and the least time between the beginnings of two.
    fn rhythm(&self) -> (Duration, Duration) {
        match self {
            Self::Port { .. } | Self::Ping { host: Some(_), .. } => (LOOK, PAUSE),
            Self::Ping { host: None, .. } | Self::Tools { .. } => (CALLS, LONG_PAUSE),
            Self::Script { run_seconds, .. } => (Duration::from_secs(*run_seconds), LONG_PAUSE),
        }
    }

    /// Waits until it is open; `guests` are the VMs of its group that came up. `Err` says why the last look failed.
    pub(super) async fn pass(&self, guests: &[Arc<Guest>]) -> Result<(), String> {
        let within = self.within_seconds();
        let end = Instant::now() + Duration::from_secs(within);
        let shut = |why: String| format!("{self}, waited for {within} s: {why}");
        let turns = Semaphore::new(SIDE_BY_SIDE);
        if !self.is_of_each() {
            return self.until_open(None, end, &turns).await.map_err(shut);
        }
        if guests.is_empty() {
            return Err("none of its VMs came up".to_owned());
        }
        let waits = guests.iter().map(|guest| async {
            let open = self.until_open(Some(guest), end, &turns).await;
            open.map_err(|why| format!("{}: {why}", guest.name()))
        });
        let failed: Vec<_> = join_all(waits).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() {
            return Ok(());
        }
        let more = failed.len().saturating_sub(NAMED);
        let named = failed.into_iter().take(NAMED).collect::<Vec<_>>().join("; ");
        Err(shut(if more > 0 { format!("{named}; and {more} more") } else { named }))
    }

    async fn until_open(
        &self,
        guest: Option<&Guest>,
        end: Instant,
        turns: &Semaphore,
    ) -> Result<(), String> {
        let (look, pause) = self.rhythm();
        let mut why = "its turn did not come".to_owned();
        loop {
            let Ok(turn) = timeout_at(end, turns.acquire()).await else { return Err(why) };
            let began = Instant::now();
            match self.look(guest, look, end).await {
                Ok(()) => return Ok(()),
                Err(said) => why = said,
            }
            drop(turn);
            let next = began + pause;
            if next.max(Instant::now()) >= end {
                return Err(why);
            }
            sleep_until(next).await;
        }
    }

    /// One look, which takes `within` at most and ends by `end`.
    async fn look(
        &self,
        guest: Option<&Guest>,
        within: Duration,
        end: Instant,
    ) -> Result<(), String> {
        let until = (Instant::now() + within).min(end);
        match (self, guest) {
            (Self::Port { host, port, .. }, _) => {
                let taken = TcpStream::connect((host.as_str(), *port));
                in_time(until, async { taken.await.map(drop).map_err(|e| e.to_string()) }).await
            }
            (Self::Ping { host: Some(host), .. }, _) => {
                in_time(until, async {
                    let mut found =
                        lookup_host((host.as_str(), 0)).await.map_err(|e| e.to_string())?;
                    let address = found.next().ok_or("the name has no address")?;
                    ping::ping(address.ip()).await
                })
                .await
            }
            (Self::Ping { host: None, .. }, Some(guest)) => {
                in_time(until, async {
                    let told = guest.told().await?;
                    ping::ping(told.address.ok_or("its tools tell no address yet")?).await
                })
                .await
            }
            (Self::Tools { .. }, Some(guest)) => in_time(until, guest.is_healthy()).await,
            (Self::Script { name, .. }, Some(guest)) => script::run(name, guest, within, end).await,
            (_, None) => Err("it looks at VMs, and there is none".to_owned()),
        }
    }
}

async fn in_time(
    until: Instant,
    look: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    timeout_at(until, look).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

impl fmt::Display for Gate {
    /// What it looks at, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { host, port, .. } => write!(f, "{host} port {port}"),
            Self::Ping { host: Some(host), .. } => write!(f, "ping of {host}"),
            Self::Ping { host: None, .. } => f.write_str("ping"),
            Self::Tools { .. } => f.write_str("guest tools"),
            Self::Script { name, .. } => write!(f, "script {name}"),
        }
    }
}
