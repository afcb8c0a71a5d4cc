//! Which steps a recovery takes.

use crate::{Destination, Mode, Plan, RecoveryRequest, Step, TargetRef};

impl RecoveryRequest {
    /// The steps until the VM is served. A full restore takes those of its migration after them at
    /// once, and never serves.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Admit, Step::Open, Step::Overlay];
        match (&self.target, self.mode) {
            (TargetRef::Nowhere {}, _) => {}
            (TargetRef::Export { .. }, _) => steps.extend([Step::Export, Step::Files]),
            (TargetRef::Vsphere { .. }, _) => {
                steps.extend([Step::Export, Step::Files, Step::Mount]);
                match self.redo_datastore {
                    Some(_) => steps.extend([Step::Redirect, Step::Register, Step::Snapshot]),
                    None => steps.push(Step::Register),
                }
                if self.power_on() {
                    steps.push(Step::PowerOn);
                }
            }
        }
        steps
    }

    /// The steps that move the VM to where it stays.
    pub fn migration_steps(&self, to: &Destination) -> &'static [Step] {
        match (to, self.mode, &self.redo_datastore) {
            (Destination::Datastore(_), Mode::FullRestore, _) => &[Step::Relocate, Step::Depart],
            (Destination::Datastore(_), _, None) => &[Step::Warm, Step::Relocate, Step::Depart],
            (Destination::Datastore(_), _, Some(_)) => {
                &[Step::Warm, Step::Consolidate, Step::Relocate, Step::Depart]
            }
            // Nobody writes to what is not served.
            (Destination::Directory(_) | Destination::Images { .. }, Mode::FullRestore, _) => {
                &[Step::Copy, Step::Verify, Step::Settle, Step::Publish]
            }
            (Destination::Directory(_) | Destination::Images { .. }, _, _) => {
                &[Step::Copy, Step::Verify, Step::Freeze, Step::Settle, Step::Publish]
            }
        }
    }

    /// The job's plan at its beginning.
    pub(crate) fn plan(&self) -> Plan {
        match (self.mode, &self.migrate) {
            (Mode::FullRestore, Some(to)) => Plan::straight(self.steps(), self.migration_steps(to)),
            (Mode::FullRestore | Mode::LiveRecovery | Mode::LiveMount | Mode::DiskOnly, _) => {
                Plan::new(self.steps())
            }
        }
    }
}
