//! What the tools in a guest tell of it.

use std::net::IpAddr;

use serde::Serialize;

use crate::{PowerState, VmId, Vsphere, VsphereError, error::Failure, property::Object, vm::power};

/// A guest as its tools tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestView {
    /// Whether its VM runs.
    pub power: PowerState,
    /// Whether its tools run.
    pub tools_running: bool,
    /// How their heartbeat is.
    pub heartbeat: Heartbeat,
    /// Its first address, once it is known.
    pub address: Option<IpAddr>,
}

/// The heartbeat of a guest's tools (`ManagedEntityStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Heartbeat {
    /// There is none: no tools, or none that run.
    Gray,
    /// It comes as it should.
    Green,
    /// It comes at times.
    Yellow,
    /// It has stopped.
    Red,
}

impl Heartbeat {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gray => "gray",
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }
}

const VIEW: &[&str] =
    &["runtime.powerState", "guest.toolsRunningStatus", "guestHeartbeatStatus", "guest.ipAddress"];

impl Vsphere {
    /// What a VM's tools tell of its guest now; `NotFound` if it is not registered any more.
    pub async fn guest(&self, vm: &VmId) -> Result<GuestView, VsphereError> {
        self.session.insist(|| self.try_guest(vm)).await
    }

    async fn try_guest(&self, vm: &VmId) -> Result<GuestView, Failure> {
        Ok(view(&self.session.read(&vm.moref(), VIEW).await?))
    }
}

fn view(vm: &Object) -> GuestView {
    GuestView {
        power: power(vm),
        tools_running: vm.text("guest.toolsRunningStatus") == Some("guestToolsRunning"),
        heartbeat: match vm.text("guestHeartbeatStatus") {
            Some("green") => Heartbeat::Green,
            Some("yellow") => Heartbeat::Yellow,
            Some("red") => Heartbeat::Red,
            _ => Heartbeat::Gray,
        },
        address: vm.text("guest.ipAddress").and_then(|text| text.trim().parse().ok()),
    }
}
