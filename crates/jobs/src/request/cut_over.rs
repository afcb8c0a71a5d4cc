//! How a VM on vSphere comes to another datastore.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mode, RecoveryRequest, TargetRef};
use crate::JobError;

/// How long a guest may take to shut down where the request does not say: five minutes.
const SHUT_DOWN_SECONDS: u64 = 300;
/// The longest that it may: an hour.
const SHUT_DOWN_MAX_SECONDS: u64 = 3600;

/// How a migration to another datastore comes to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CutOver {
    /// Whether the host moves the VM while it runs. When absent it does where it can: on a vCenter with the licence for
    /// Storage vMotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<CutOverMethod>,
    /// How the guest is stopped, if it has to be.
    #[serde(default)]
    pub stop: GuestStop,
    /// For how many seconds it may shut down, from 1 to 3600; 300 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shut_down_seconds: Option<u64>,
}

/// Who moves the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CutOverMethod {
    /// The vCenter, while it runs.
    Relocate,
    /// Its disks are copied while it runs; then it is stopped and started where they are.
    LowPause,
}

/// How a guest is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuestStop {
    /// By itself, asked by its tools. One that does not go off in time runs on, and the migration is given up.
    #[default]
    ShutDown,
    /// By its power, as when that fails.
    PowerOff,
}

impl CutOver {
    /// For how long the guest may shut down.
    pub(crate) fn shut_down_seconds(&self) -> u64 {
        self.shut_down_seconds.unwrap_or(SHUT_DOWN_SECONDS)
    }
}

impl RecoveryRequest {
    /// Whether it asks for the way with a short pause.
    pub(crate) fn pauses(&self) -> bool {
        let method = self.cut_over.as_ref().and_then(|cut_over| cut_over.method);
        method == Some(CutOverMethod::LowPause)
    }

    /// Whether a migration to a datastore must be done by a vCenter.
    pub(crate) fn needs_relocation(&self) -> bool {
        let method = self.cut_over.as_ref().and_then(|cut_over| cut_over.method);
        let bound = self.in_place.is_some() || self.redo_datastore.is_some();
        bound || self.mode == Mode::FullRestore || method == Some(CutOverMethod::Relocate)
    }

    pub(crate) fn validate_cut_over(&self) -> Result<(), JobError> {
        let Some(cut_over) = &self.cut_over else { return Ok(()) };
        let refused = |message: &str| Err(JobError::refused("bad_cut_over", message));
        let vsphere = matches!(self.target, TargetRef::Vsphere { .. });
        if !vsphere || matches!(self.mode, Mode::LiveMount | Mode::FullRestore) {
            return refused("cut_over is for a live recovery or disks alone on vSphere");
        }
        if self.pauses() && (self.in_place.is_some() || self.redo_datastore.is_some()) {
            return refused(
                "low_pause goes with neither in_place nor redo_datastore: these need a vCenter",
            );
        }
        let seconds = cut_over.shut_down_seconds();
        if !(1..=SHUT_DOWN_MAX_SECONDS).contains(&seconds) {
            let message = format!("shut_down_seconds must be from 1 to {SHUT_DOWN_MAX_SECONDS}");
            return refused(&message);
        }
        Ok(())
    }
}
