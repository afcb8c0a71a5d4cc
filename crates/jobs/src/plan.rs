use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One step of a job. Each has an apply and an undo that may be called again.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Wait for a turn and for space.
    Admit,
    /// Open the recovery point and its disks' maps.
    Open,
    /// Make an overlay for each disk.
    Overlay,
    /// Serve the directory over NFS.
    Export,
    /// Write the VM's folder and put the disks into it.
    Files,
    /// Mount the export as a datastore of the host.
    Mount,
    /// Make a directory on another datastore for what the guest writes.
    Redirect,
    /// Find the VM that is to step aside or to get the disks, and note how it stands.
    Identify,
    /// Attach the disks to that VM.
    Attach,
    /// Shut that VM down.
    Halt,
    /// Give it another name.
    SetAside,
    /// Register the VM at the host.
    Register,
    /// Make a snapshot, so that the guest writes to that directory.
    Snapshot,
    /// Power the VM on.
    PowerOn,
    /// Read the VM into the cache, ahead of its storage migration.
    Warm,
    /// Write the snapshot back to the disks.
    Consolidate,
    /// Let the host move the VM to another datastore.
    Relocate,
    /// See that it has gone there.
    Depart,
    /// Wait until somebody says whether it stays in the place of the VM that stepped aside.
    Commit,
    /// Write the VM to the directory while its guest runs.
    Copy,
    /// Read the copy back and compare, while the guest runs.
    Verify,
    /// Hold the guest's writes.
    Freeze,
    /// Write and compare what changed last.
    Settle,
    /// Give the copy its name.
    Publish,
    /// Make a snapshot, under which the disks stay as they are.
    Branch,
    /// Let the host copy the disks to the other datastore.
    Clone,
    /// Read that copy back and compare.
    Compare,
    /// Stop the guest.
    Stop,
    /// Put what the guest wrote since over the copy, and register the VM there.
    HandOver,
    /// Start the VM there.
    Start,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 30] = [
        Self::Admit,
        Self::Open,
        Self::Overlay,
        Self::Export,
        Self::Files,
        Self::Mount,
        Self::Redirect,
        Self::Identify,
        Self::Attach,
        Self::Halt,
        Self::SetAside,
        Self::Register,
        Self::Snapshot,
        Self::PowerOn,
        Self::Warm,
        Self::Consolidate,
        Self::Relocate,
        Self::Depart,
        Self::Commit,
        Self::Copy,
        Self::Verify,
        Self::Freeze,
        Self::Settle,
        Self::Publish,
        Self::Branch,
        Self::Clone,
        Self::Compare,
        Self::Stop,
        Self::HandOver,
        Self::Start,
    ];

    /// Whether it moves a VM to where it stays.
    pub fn is_of_migration(self) -> bool {
        match self {
            Self::Warm | Self::Consolidate | Self::Relocate | Self::Depart | Self::Commit => true,
            Self::Copy | Self::Verify | Self::Freeze | Self::Settle | Self::Publish => true,
            Self::Branch | Self::Clone | Self::Compare => true,
            Self::Stop | Self::HandOver | Self::Start => true,
            Self::Admit | Self::Open | Self::Overlay | Self::Export | Self::Files => false,
            Self::Mount | Self::Redirect | Self::Register | Self::Snapshot | Self::PowerOn => false,
            Self::Identify | Self::Attach | Self::Halt | Self::SetAside => false,
        }
    }

    /// The step as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Open => "open",
            Self::Overlay => "overlay",
            Self::Export => "export",
            Self::Files => "files",
            Self::Mount => "mount",
            Self::Redirect => "redirect",
            Self::Identify => "identify",
            Self::Attach => "attach",
            Self::Halt => "halt",
            Self::SetAside => "set_aside",
            Self::Register => "register",
            Self::Snapshot => "snapshot",
            Self::PowerOn => "power_on",
            Self::Warm => "warm",
            Self::Consolidate => "consolidate",
            Self::Relocate => "relocate",
            Self::Depart => "depart",
            Self::Commit => "commit",
            Self::Copy => "copy",
            Self::Verify => "verify",
            Self::Freeze => "freeze",
            Self::Settle => "settle",
            Self::Publish => "publish",
            Self::Branch => "branch",
            Self::Clone => "clone",
            Self::Compare => "compare",
            Self::Stop => "stop",
            Self::HandOver => "hand_over",
            Self::Start => "start",
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Do this step; journal `begin` before and `applied` after.
    Apply(Step),
    /// All steps up to serving are done. Wait for what comes.
    Serve,
    /// Take this step back; journal `undone` after.
    Undo(Step),
    /// What the guest wrote is all that is left. Wait for what comes.
    Keep,
    /// Nothing is left.
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Walk {
    /// Towards serving, or towards the end of a migration.
    Forward,
    /// Back from a migration that failed, as far as serving.
    Retreat,
    /// Back to what the guest wrote, which is kept.
    Shelve,
    /// Back to nothing.
    Unwind,
}

/// Where a job stands, as its journal tells it. Pure: no clock, I/O or lock.
///
/// ```text
/// steps   admit open overlay export files | copy verify freeze settle publish
///         0 ......................... floor ............................. end
///                    serving is here ^
/// done <= begun <= done + 1
/// ```
///
/// A migration appends its steps; a job that never serves has them from the start. When the last is done the walk turns round by itself; when one
/// fails the walk goes back to serving, because the guest's writes must outlive a migration that
/// did not work. Everything else that ends a job unwinds all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    steps: Vec<Step>,
    floor: usize,
    begun: usize,
    done: usize,
    walk: Walk,
    /// The job never serves: its migration follows its set-up at once, and ends it either way.
    #[serde(default)]
    straight: bool,
    /// What the guest wrote was kept, and is to be kept again if it cannot be served.
    #[serde(default)]
    shelved: bool,
}

impl Plan {
    /// A job that has not begun, with its steps up to serving.
    pub fn new(steps: Vec<Step>) -> Self {
        let floor = steps.len();
        Self {
            floor,
            steps,
            begun: 0,
            done: 0,
            walk: Walk::Forward,
            straight: false,
            shelved: false,
        }
    }

    /// A job that has not begun and never serves.
    pub fn straight(mut set_up: Vec<Step>, migration: &[Step]) -> Self {
        let floor = set_up.len();
        set_up.extend_from_slice(migration);
        Self { floor, straight: true, ..Self::new(set_up) }
    }

    /// What to do next. The driver does it, journals it, and says so below.
    pub fn next(&self) -> Next {
        match self.walk {
            Walk::Forward if self.done < self.steps.len() => Next::Apply(self.steps[self.done]),
            Walk::Forward => Next::Serve,
            Walk::Shelve if self.begun > self.shelf() => Next::Undo(self.steps[self.begun - 1]),
            Walk::Shelve => Next::Keep,
            // Begun is enough: a step cut short by a crash may have had its effect, and undoing
            // what never happened is harmless.
            Walk::Retreat | Walk::Unwind if self.begun > 0 => {
                Next::Undo(self.steps[self.begun - 1])
            }
            Walk::Retreat | Walk::Unwind => Next::Finished,
        }
    }

    /// The step that [`Plan::next`] named is about to be applied.
    pub fn begin(&mut self) {
        self.begun = self.done + 1;
    }

    /// It was. After the last step of a migration the walk turns round.
    pub fn applied(&mut self) {
        self.done = self.begun;
        if self.done == self.steps.len() && self.steps.len() > self.floor {
            self.walk = Walk::Unwind;
        }
        self.shelved &= self.done < self.floor;
    }

    /// The step that [`Plan::next`] named has been taken back.
    pub fn undone(&mut self) {
        self.begun = self.begun.saturating_sub(1);
        self.done = self.begun;
        self.settle();
    }

    /// The step that is being taken back, of a migration that was given up, had been done all the same: forward again
    /// from there. False if the walk is not on such a way back.
    pub fn arrive(&mut self) -> bool {
        let back = self.walk == Walk::Retreat && self.begun > self.floor;
        if back {
            (self.walk, self.done) = (Walk::Forward, self.begun);
        }
        back
    }

    /// Adds the steps of a migration to a job that serves; false for any other.
    pub fn migrate(&mut self, steps: &[Step]) -> bool {
        let serves = self.is_serving() && !steps.is_empty();
        if serves {
            self.steps.extend_from_slice(steps);
        }
        serves
    }

    /// Gives a migration up: back to serving. Before serving there is nothing to go back to, and
    /// the job unwinds.
    pub fn retreat(&mut self) {
        if self.walk == Walk::Forward {
            let migrating = self.steps.len() > self.floor;
            self.walk = match (migrating && !self.straight, self.shelved) {
                (true, _) => Walk::Retreat,
                // What was kept outlives a try to serve it again.
                (false, true) => Walk::Shelve,
                (false, false) => Walk::Unwind,
            };
            self.settle();
        }
    }

    /// Finish, cancel, expiry and failure are one thing: the steps, backwards.
    pub fn unwind(&mut self) {
        self.walk = Walk::Unwind;
    }

    /// Steps that stay when the guest's writes are kept: up to the overlay.
    fn shelf(&self) -> usize {
        self.steps.iter().position(|step| *step == Step::Overlay).map_or(0, |at| at + 1)
    }

    /// Ends serving but keeps what the guest wrote; false for a job that does not serve.
    pub fn shelve(&mut self) -> bool {
        let serves = self.is_serving() && self.has_done(Step::Overlay);
        if serves {
            (self.walk, self.shelved) = (Walk::Shelve, true);
        }
        serves
    }

    /// Serves again what was kept; false if nothing is.
    pub fn unshelve(&mut self) -> bool {
        let kept = self.next() == Next::Keep;
        if kept {
            self.walk = Walk::Forward;
        }
        kept
    }

    /// A retreat that has reached serving ends there.
    fn settle(&mut self) {
        if self.walk == Walk::Retreat && self.begun <= self.floor {
            self.steps.truncate(self.floor);
            self.walk = Walk::Forward;
        }
    }

    /// Whether the step may have had an effect that has not been taken back.
    pub fn has_begun(&self, step: Step) -> bool {
        self.steps[..self.begun].contains(&step)
    }

    /// Whether the step was done and not taken back.
    pub fn has_done(&self, step: Step) -> bool {
        self.steps[..self.done].contains(&step)
    }

    /// All steps up to serving are done, and nothing else was asked for.
    pub fn is_serving(&self) -> bool {
        self.next() == Next::Serve
    }

    /// On the way through a migration, or back from one.
    pub fn is_migrating(&self) -> bool {
        let under_way =
            self.steps.len() > self.floor && (!self.straight || self.done >= self.floor);
        self.walk == Walk::Retreat || (self.walk == Walk::Forward && under_way)
    }

    /// On the way back to what the guest wrote, or there.
    pub fn is_shelved(&self) -> bool {
        self.walk == Walk::Shelve
    }

    /// On the way back to nothing.
    pub fn is_unwinding(&self) -> bool {
        self.walk == Walk::Unwind
    }

    /// The steps in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether a journal can have written this plan.
    pub fn is_sound(&self) -> bool {
        self.floor <= self.steps.len()
            && self.begun <= self.steps.len()
            && (self.done == self.begun || self.done + 1 == self.begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETUP: [Step; 5] = [Step::Admit, Step::Open, Step::Overlay, Step::Export, Step::Files];
    const MIGRATION: [Step; 5] =
        [Step::Copy, Step::Verify, Step::Freeze, Step::Settle, Step::Publish];

    /// What may happen to a job between two of its journal entries.
    #[derive(Clone, Copy, Debug)]
    enum Happens {
        /// The next thing is done and journaled.
        Works,
        /// The next thing is begun, and the process is killed before or after its effect.
        Crash {
            after_effect: bool,
        },
        Fails,
        Migrate,
        Shelve,
        Unshelve,
        Unwind,
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            8 => Just(Happens::Works),
            2 => any::<bool>().prop_map(|after_effect| Happens::Crash { after_effect }),
            1 => Just(Happens::Fails),
            2 => Just(Happens::Migrate),
            1 => Just(Happens::Shelve),
            1 => Just(Happens::Unshelve),
            1 => Just(Happens::Unwind),
        ]
    }

    /// The world: what has had its effect, in order. The model of the ten lines.
    #[derive(Default)]
    struct World(Vec<Step>);

    impl World {
        fn apply(&mut self, step: Step) {
            if !self.0.contains(&step) {
                self.0.push(step);
            }
        }
        /// In reverse order only; undoing what never happened is harmless.
        fn undo(&mut self, step: Step) {
            if self.0.contains(&step) {
                assert_eq!(self.0.pop(), Some(step), "undone out of order");
            }
        }
    }

    fn journaled(plan: &Plan) -> Plan {
        serde_json::from_str(&serde_json::to_string(plan).unwrap()).unwrap()
    }

    fn step_once(plan: &mut Plan, world: &mut World, crash: Option<bool>) {
        match plan.next() {
            Next::Apply(step) => {
                plan.begin();
                let journal = journaled(plan);
                if crash != Some(false) {
                    world.apply(step);
                }
                if crash.is_some() { *plan = journal } else { plan.applied() }
            }
            Next::Undo(step) => {
                if crash != Some(false) {
                    world.undo(step);
                }
                if crash.is_none() {
                    plan.undone();
                }
            }
            Next::Serve | Next::Keep | Next::Finished => {}
        }
    }

    proptest! {
        /// Every begun step is undone, in reverse, wherever the crashes fell (invariant 1); a
        /// migration that fails leaves what serves untouched (invariant 2); and what is kept stays
        /// until all is unwound.
        #[test]
        fn whatever_happens_nothing_is_left(story in proptest::collection::vec(happens(), 0..80)) {
            let (mut plan, mut world) = (Plan::new(SETUP.to_vec()), World::default());
            let mut kept = false;
            for event in story {
                let served = plan.is_serving() || plan.is_migrating();
                match event {
                    Happens::Works => step_once(&mut plan, &mut world, None),
                    Happens::Crash { after_effect } =>
                        step_once(&mut plan, &mut world, Some(after_effect)),
                    Happens::Fails => plan.retreat(),
                    Happens::Migrate => { plan.migrate(&MIGRATION); }
                    Happens::Shelve => { kept |= plan.shelve(); }
                    Happens::Unshelve => { plan.unshelve(); }
                    Happens::Unwind => plan.unwind(),
                }
                if kept && !plan.is_unwinding() {
                    prop_assert!(world.0.contains(&Step::Overlay), "what was kept is gone");
                }
                prop_assert!(plan.is_sound());
                if served && !plan.is_unwinding() && !plan.is_shelved() {
                    prop_assert!(SETUP.iter().all(|s| world.0.contains(s)), "{:?}", world.0);
                }
                for step in &world.0 {
                    prop_assert!(plan.has_begun(*step), "{step:?} is forgotten");
                }
            }
            plan.unwind();
            for _ in 0..=SETUP.len() + MIGRATION.len() {
                step_once(&mut plan, &mut world, None);
            }
            prop_assert_eq!(plan.next(), Next::Finished);
            prop_assert!(world.0.is_empty());
        }
    }

    #[test]
    fn a_job_that_never_serves_ends_with_its_last_step_or_its_first_failure() {
        for fails_at in 0..=SETUP.len() + MIGRATION.len() {
            let mut plan = Plan::straight(SETUP.to_vec(), &MIGRATION);
            let mut world = World::default();
            for at in 0..fails_at {
                assert_eq!(plan.is_migrating(), at >= SETUP.len());
                assert!(!plan.is_serving() && !plan.is_unwinding());
                assert!(!plan.migrate(&MIGRATION));
                step_once(&mut plan, &mut world, Some(at % 2 == 0));
                step_once(&mut plan, &mut world, None);
            }
            assert_eq!(plan.is_unwinding(), fails_at == SETUP.len() + MIGRATION.len());
            plan.retreat();
            assert!(plan.is_unwinding());
            while plan.next() != Next::Finished {
                step_once(&mut plan, &mut world, None);
            }
            assert!(world.0.is_empty() && plan.is_sound());
        }
    }

    #[test]
    fn a_migration_that_arrived_while_it_was_given_up_goes_on() {
        let mut plan = Plan::new(SETUP.to_vec());
        let mut world = World::default();
        assert!(!plan.arrive());
        for _ in SETUP {
            step_once(&mut plan, &mut world, None);
        }
        plan.migrate(&MIGRATION);
        step_once(&mut plan, &mut world, None);
        plan.begin();
        world.apply(Step::Verify);
        plan.retreat();
        assert_eq!(plan.next(), Next::Undo(Step::Verify));
        assert!(plan.arrive() && plan.is_sound());
        assert_eq!(plan.next(), Next::Apply(Step::Freeze));
        for _ in 0..3 {
            step_once(&mut plan, &mut world, None);
        }
        assert!(plan.is_unwinding() && !plan.arrive());
    }

    #[test]
    fn a_finished_migration_turns_round() {
        let mut plan = Plan::new(SETUP.to_vec());
        let mut world = World::default();
        for _ in SETUP {
            step_once(&mut plan, &mut world, None);
        }
        assert!(plan.is_serving());
        assert!(plan.migrate(&MIGRATION) && !plan.migrate(&MIGRATION));
        for _ in MIGRATION {
            step_once(&mut plan, &mut world, None);
        }
        assert!(plan.is_unwinding());
        assert_eq!(plan.next(), Next::Undo(Step::Publish));
    }
}
