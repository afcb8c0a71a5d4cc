//! A recovery in the place of the VM that was backed up.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mode, RecoveryRequest, TargetRef, UuidPolicy, text, vm_name};
use crate::JobError;

/// The longest that a guest may take to shut down: an hour.
const SHUT_DOWN_MAX_SECONDS: u64 = 3600;
/// The most characters that may be set behind the original's name, so that some of that stays.
const SUFFIX_MAX: usize = 40;

/// The original, which steps aside: it is powered off and renamed, and the recovered VM runs under its name. It goes
/// back to where it was unless the recovery is committed, and is never deleted unless a commit says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InPlace {
    /// Which VM it is; the one with the backed-up VM's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<OriginalRef>,
    /// For how many seconds its guest may shut down before its power is cut; cut at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shut_down_seconds: Option<u64>,
    /// What is set behind its name; ` (before JOB)` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
}

/// How a VM of the target is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OriginalRef {
    /// By its name in the inventory.
    Name(String),
    /// By its instance UUID, or its BIOS UUID.
    Uuid(String),
    /// By its managed object's id: `vm-42`.
    Moref(String),
}

impl RecoveryRequest {
    /// Only a whole VM that stays, and stays who it is, can take the place of another.
    pub(super) fn validate_in_place(&self) -> Result<(), JobError> {
        let Some(in_place) = &self.in_place else { return Ok(()) };
        let refused = |message: &str| Err(JobError::refused("bad_in_place", message));
        let named = self.name.is_some() || self.name_prefix.is_some() || self.name_suffix.is_some();
        match &self.target {
            TargetRef::Vsphere { .. } => {}
            TargetRef::Export { .. } | TargetRef::Nowhere {} => {
                return refused("in_place needs a vsphere target, where the original is");
            }
        }
        if self.mode != Mode::LiveRecovery || !self.disks.is_empty() {
            return refused("in_place is for a live recovery of a whole VM");
        }
        if named || self.uuid == Some(UuidPolicy::New) {
            return refused("in_place has the original's name and UUID: give no other");
        }
        in_place.validate()
    }
}

impl InPlace {
    fn validate(&self) -> Result<(), JobError> {
        self.original.as_ref().map_or(Ok(()), |vm| vm.validate("in_place.original"))?;
        if self.shut_down_seconds.is_some_and(|s| !(1..=SHUT_DOWN_MAX_SECONDS).contains(&s)) {
            let message = format!("shut_down_seconds must be from 1 to {SHUT_DOWN_MAX_SECONDS}");
            return Err(JobError::refused("bad_in_place", message));
        }
        let Some(suffix) = &self.suffix else { return Ok(()) };
        text("in_place.suffix", suffix)?;
        vm_name(suffix.trim_matches([' ', '.']))?;
        if suffix.trim().is_empty() || suffix.ends_with(' ') || suffix.chars().count() > SUFFIX_MAX
        {
            let message = format!("suffix has 1 to {SUFFIX_MAX} characters, the last no space");
            return Err(JobError::refused("bad_in_place", message));
        }
        Ok(())
    }
}
