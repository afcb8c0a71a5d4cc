//! How long a recovery will take, told from what earlier ones took.
//!
//! An earlier job counts if it took the same steps. Those of the same VM are believed before those of
//! others; then the newest [`SAMPLES_MAX`] count. Bytes per second come from their migrations or, where
//! there was none, from a few blocks that are read from the repository on the spot.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{JobView, RecoveryRequest, Step, StepView};

mod probe;

pub(crate) use probe::probe;

/// Earlier jobs that a forecast is made from, at most.
const SAMPLES_MAX: usize = 10;

/// How long a recovery will take, if nothing else changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Forecast {
    /// The backed-up VM's name.
    pub vm: String,
    /// The recovery point's id.
    pub point: String,
    /// Bytes of the disks that are recovered.
    pub size_bytes: u64,
    /// From the job's turn until the VM is served; absent if nobody has done the like before.
    pub to_power_on: Option<Span>,
    /// From the beginning of the migration until the VM is where it stays; absent where none was asked
    /// for, or its rate is not known.
    pub to_full_copy: Option<Span>,
    /// What takes longest.
    pub limited_by: Limit,
    /// Bytes that it reserves for what the guest writes.
    #[serde(default)]
    pub reserve_bytes: u64,
    /// What the job would wait for before its turn comes.
    pub waits_for: Option<String>,
    /// Earlier jobs that this is told from.
    pub samples: usize,
    /// Whether all of these were of the same VM.
    pub same_vm: bool,
    /// Bytes per second of a migration, as measured.
    pub bytes_per_second: Option<u64>,
}

/// Milliseconds: the least, the middle and the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    /// The least of the samples.
    pub low_ms: u64,
    /// Their median.
    pub likely_ms: u64,
    /// The most of them.
    pub high_ms: u64,
}

/// What a recovery's time goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// This step took longest.
    Step(Step),
    /// How fast the repository is read.
    Repository,
    /// `mover.max_bytes_per_second` of the configuration.
    MoverLimit,
    /// Nothing is known yet.
    Unknown,
}

/// What was told when a job was accepted, to be compared with what came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Planned {
    /// Milliseconds until the VM is served.
    pub to_power_on_ms: Option<u64>,
    /// Milliseconds that the migration takes.
    pub to_full_copy_ms: Option<u64>,
}

/// What a forecast is about.
pub(crate) struct Subject<'a> {
    pub(crate) request: &'a RecoveryRequest,
    pub(crate) vm: &'a str,
    pub(crate) point: &'a str,
    pub(crate) size_bytes: u64,
    /// The configured limit; 0 for none.
    pub(crate) max_bytes_per_second: u64,
    /// Of a probe of the repository, if there was one.
    pub(crate) probed_bytes_per_second: Option<u64>,
}

impl Subject<'_> {
    /// The forecast from earlier jobs, the newest first. No I/O.
    pub(crate) fn forecast(&self, earlier: &[JobView]) -> Forecast {
        let set_up = self.request.steps();
        let starts = self.samples(earlier, &set_up);
        let to = self.request.migrate.as_ref();
        let moving = to.map(|to| self.request.migration_steps(to)).unwrap_or_default();
        let moves = self.samples(earlier, moving);
        let rate = self.rate(&moves, moving);
        let capped = self.max_bytes_per_second > 0
            && rate.is_some_and(|rate| rate >= self.max_bytes_per_second);
        let to_full_copy = self.to_full_copy(&moves, moving, rate, capped);
        let all = || starts.iter().chain(&moves);
        Forecast {
            vm: self.vm.to_owned(),
            point: self.point.to_owned(),
            size_bytes: self.size_bytes,
            to_power_on: span(starts.iter().filter_map(|job| took(job, &without_admit(&set_up)))),
            limited_by: match (capped, moves.is_empty(), rate) {
                (true, _, _) => Limit::MoverLimit,
                (false, false, _) => longest(&moves, moving),
                (false, true, Some(_)) => Limit::Repository,
                (false, true, None) => longest(&starts, &without_admit(&set_up)),
            },
            to_full_copy,
            reserve_bytes: 0,
            waits_for: None,
            samples: starts.len().max(moves.len()),
            same_vm: all().next().is_some() && all().all(|job| job.vm == self.vm),
            bytes_per_second: rate,
        }
    }

    /// Earlier jobs that did all of these steps: of this VM if there are any, else of any.
    fn samples<'j>(&self, earlier: &'j [JobView], steps: &[Step]) -> Vec<&'j JobView> {
        let did = |job: &&JobView| !steps.is_empty() && took(job, steps).is_some();
        let of_vm: Vec<&JobView> =
            earlier.iter().filter(did).filter(|job| job.vm == self.vm).take(SAMPLES_MAX).collect();
        if !of_vm.is_empty() {
            return of_vm;
        }
        earlier.iter().filter(did).take(SAMPLES_MAX).collect()
    }

    /// Bytes per second of the migrations; of the probe without any.
    fn rate(&self, moves: &[&JobView], steps: &[Step]) -> Option<u64> {
        if steps.is_empty() {
            return None;
        }
        let rates = moves.iter().filter_map(|job| {
            let bytes = u128::from(job.size_bytes) * 1000;
            u64::try_from(bytes / u128::from(took(job, steps)?.max(1))).ok()
        });
        let rate = span(rates).map(|rate| rate.likely_ms).or(self.probed_bytes_per_second)?;
        let most = self.max_bytes_per_second;
        Some(if most > 0 { rate.min(most) } else { rate }.max(1))
    }

    /// The samples' times, each by the size of its VM to the size of this one.
    fn to_full_copy(
        &self,
        moves: &[&JobView],
        steps: &[Step],
        rate: Option<u64>,
        capped: bool,
    ) -> Option<Span> {
        let at = |rate: u64| {
            let ms = u128::from(self.size_bytes) * 1000 / u128::from(rate.max(1));
            u64::try_from(ms).unwrap_or(u64::MAX)
        };
        if moves.is_empty() || capped {
            let likely_ms = at(rate?);
            // A probe knows neither the destination nor what else goes on: as much again at most.
            let high_ms = likely_ms.saturating_mul(2);
            return Some(Span { low_ms: likely_ms, likely_ms, high_ms });
        }
        span(moves.iter().filter_map(|job| {
            let scaled = u128::from(took(job, steps)?) * u128::from(self.size_bytes);
            u64::try_from(scaled / u128::from(job.size_bytes.max(1))).ok()
        }))
    }
}

/// The wait for a turn is no work.
fn without_admit(steps: &[Step]) -> Vec<Step> {
    steps.iter().copied().filter(|step| *step != Step::Admit).collect()
}

/// Milliseconds that the steps took together, if all of them were done.
pub(crate) fn took(job: &JobView, steps: &[Step]) -> Option<u64> {
    let of = |step: &Step| job.steps.iter().find(|view| view.name == *step).and_then(step_ms);
    steps.iter().try_fold(0u64, |sum, step| Some(sum.saturating_add(of(step)?)))
}

/// Milliseconds from the step's begin to its end.
pub(crate) fn step_ms(step: &StepView) -> Option<u64> {
    let (from, to) = (step.started_at?, step.finished_at?);
    u64::try_from(to.as_millisecond().saturating_sub(from.as_millisecond())).ok()
}

/// The step that took longest in all of these jobs together.
fn longest(jobs: &[&JobView], steps: &[Step]) -> Limit {
    let total = |step: &Step| -> u64 {
        jobs.iter().filter_map(|job| took(job, std::slice::from_ref(step))).sum()
    };
    match steps.iter().max_by_key(|step| total(step)) {
        Some(step) if !jobs.is_empty() => Limit::Step(*step),
        _ => Limit::Unknown,
    }
}

fn span(values: impl Iterator<Item = u64>) -> Option<Span> {
    let mut all: Vec<u64> = values.collect();
    all.sort_unstable();
    let (low_ms, high_ms) = (*all.first()?, *all.last()?);
    Some(Span { low_ms, likely_ms: all[all.len() / 2], high_ms })
}
