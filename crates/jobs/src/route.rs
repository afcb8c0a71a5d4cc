//! Which steps a recovery takes.

use crate::{Destination, Mode, Plan, RecoveryRequest, Step, TargetRef};

/// How a VM moves to another datastore of a host that cannot move it while it runs.
pub(crate) const LOW_PAUSE: &[Step] =
    &[Step::Branch, Step::Clone, Step::Compare, Step::Stop, Step::HandOver, Step::Start];

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
                steps.extend(self.redo_datastore.iter().map(|_| Step::Redirect));
                if self.in_place.is_some() {
                    // As late as can be: until the recovered VM runs, neither does.
                    steps.extend([Step::Identify, Step::Halt, Step::SetAside]);
                }
                if self.attach_to.is_some() {
                    steps.extend([Step::Identify, Step::Attach]);
                    return steps;
                }
                steps.push(Step::Register);
                steps.extend(self.redo_datastore.iter().map(|_| Step::Snapshot));
                if self.power_on() {
                    steps.push(Step::PowerOn);
                }
            }
        }
        steps
    }

    /// The steps that move the VM to where it stays, where a host that can move it does.
    pub fn migration_steps(&self, to: &Destination) -> &'static [Step] {
        if to.datastore().is_some() && self.pauses() {
            return LOW_PAUSE;
        }
        match (to, self.mode, &self.redo_datastore) {
            (Destination::Datastore(_), _, None) if self.in_place.is_some() => {
                &[Step::Warm, Step::Relocate, Step::Depart, Step::Commit]
            }
            (Destination::Datastore(_), _, Some(_)) if self.in_place.is_some() => {
                &[Step::Warm, Step::Consolidate, Step::Relocate, Step::Depart, Step::Commit]
            }
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
