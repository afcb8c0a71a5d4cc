//! What a job was planned to take and what it took, for a person or a program to keep.

use std::fmt::Write;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::forecast::{step_ms, took};
use crate::{Compared, ErrorView, JobId, JobState, JobView, Mode, Outcome, Step};

/// A job, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Which job.
    pub job: JobId,
    /// The backed-up VM's name.
    pub vm: String,
    /// The recovered VM's name.
    pub name: String,
    /// The recovery point's id.
    pub point: String,
    /// The repository that holds it.
    pub repository: String,
    /// Which kind of recovery.
    pub mode: Mode,
    /// Where it stands.
    pub state: JobState,
    /// Why it ended.
    pub outcome: Option<Outcome>,
    /// Bytes of its disks.
    pub size_bytes: u64,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Until the VM is served, from its turn on: the recovery time objective's share of this job.
    pub rto: Measured,
    /// The same from the moment it was accepted, with its wait in the queue.
    pub with_queue_ms: Option<u64>,
    /// The migration.
    pub full_copy: Measured,
    /// For how long the guest's writes were held.
    pub pause_ms: Option<u64>,
    /// What was compared of the copy, once it was.
    #[serde(default)]
    pub compared: Option<Compared>,
    /// Its steps.
    pub steps: Vec<ReportStep>,
    /// Why it failed.
    pub error: Option<ErrorView>,
}

/// What was planned and what came, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// The forecast when the job was accepted, if there was one.
    pub planned_ms: Option<u64>,
    /// What it took, once it is over.
    pub measured_ms: Option<u64>,
    /// By how many percent it took longer than planned; less than 0 for faster.
    pub error_percent: Option<i64>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReportStep {
    /// Its name.
    pub step: Step,
    /// When it was begun.
    pub started_at: Option<Timestamp>,
    /// What it took.
    pub took_ms: Option<u64>,
    /// When it had been taken back.
    pub undone_at: Option<Timestamp>,
    /// Why it could not be done or taken back.
    pub error: Option<ErrorView>,
}

/// The columns of [`Report::csv`], which has a line for each step.
const COLUMNS: [&str; 20] = [
    "job",
    "vm",
    "name",
    "point",
    "repository",
    "mode",
    "state",
    "outcome",
    "size_bytes",
    "accepted_at",
    "rto_planned_ms",
    "rto_measured_ms",
    "rto_error_percent",
    "full_copy_planned_ms",
    "full_copy_measured_ms",
    "compared_bytes",
    "compared_seed",
    "step",
    "took_ms",
    "step_error",
];

impl Measured {
    fn new(planned_ms: Option<u64>, measured_ms: Option<u64>) -> Self {
        let error = planned_ms.zip(measured_ms).and_then(|(planned, measured)| {
            let more = i128::from(measured) - i128::from(planned);
            i64::try_from(more * 100 / i128::from(planned.max(1))).ok()
        });
        Self { planned_ms, measured_ms, error_percent: error }
    }
}

impl Report {
    /// The report of a job as it stands.
    pub fn of(job: &JobView) -> Self {
        let set_up = job.request.steps();
        let turn: Vec<Step> = set_up.into_iter().filter(|step| *step != Step::Admit).collect();
        let queued = took(job, &[Step::Admit]);
        let start = took(job, &turn);
        let to = job.request.migrate.as_ref();
        let moving = job.steps.iter().map(|step| step.name).filter(|step| step.is_of_migration());
        let moving: Vec<Step> = moving.collect();
        let planned = job.planned.unwrap_or_default();
        let copied = to.is_some() || !moving.is_empty();
        let copy = took(job, &moving).filter(|_| !moving.is_empty());
        Self {
            job: job.id.clone(),
            vm: job.vm.clone(),
            name: job.name.clone(),
            point: job.point.clone(),
            repository: job.repository.clone(),
            mode: job.request.mode,
            state: job.state,
            outcome: job.outcome,
            size_bytes: job.size_bytes,
            accepted_at: job.created_at,
            rto: Measured::new(planned.to_power_on_ms, start),
            with_queue_ms: queued.zip(start).map(|(queued, start)| queued.saturating_add(start)),
            full_copy: Measured::new(planned.to_full_copy_ms.filter(|_| copied), copy),
            pause_ms: job.pause_ms,
            compared: job.compared,
            steps: job.steps.iter().map(step).collect(),
            error: job.error.clone(),
        }
    }

    /// Comma-separated values, RFC 4180: a line of names, then one for each step.
    pub fn csv(&self) -> String {
        let mut out = COLUMNS.join(",") + "\r\n";
        for step in &self.steps {
            let cells: Vec<String> = self.cells(step).iter().map(|cell| csv_cell(cell)).collect();
            out.push_str(&cells.join(","));
            out.push_str("\r\n");
        }
        out
    }

    fn cells(&self, step: &ReportStep) -> [String; COLUMNS.len()] {
        let number = |value: Option<u64>| value.map(|v| v.to_string()).unwrap_or_default();
        let error = step.error.as_ref().map(|e| e.message.clone()).unwrap_or_default();
        let seed = self.compared.and_then(|compared| Some(compared.how.sampling()?.1));
        [
            self.job.to_string(),
            self.vm.clone(),
            self.name.clone(),
            self.point.clone(),
            self.repository.clone(),
            word(&self.mode),
            self.state.as_str().to_owned(),
            self.outcome.as_ref().map(word).unwrap_or_default(),
            self.size_bytes.to_string(),
            self.accepted_at.to_string(),
            number(self.rto.planned_ms),
            number(self.rto.measured_ms),
            self.rto.error_percent.map(|v| v.to_string()).unwrap_or_default(),
            number(self.full_copy.planned_ms),
            number(self.full_copy.measured_ms),
            number(self.compared.map(|compared| compared.bytes)),
            number(seed),
            step.step.as_str().to_owned(),
            number(step.took_ms),
            error,
        ]
    }

    /// A page that stands alone: no script, nothing loaded.
    pub fn html(&self) -> String {
        let mut page = String::new();
        let title = format!("{} of {}", self.name, self.vm);
        // Writing to a string does not fail.
        let _ = write!(page, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">");
        let _ = write!(page, "<title>Recovery {}</title>\n<h1>{}</h1>\n", self.job, html(&title));
        page.push_str("<table>\n");
        for (name, value) in self.facts() {
            let _ = writeln!(page, "<tr><th>{name}</th><td>{}</td></tr>", html(&value));
        }
        page.push_str("</table>\n<h2>Steps</h2>\n<table>\n<tr><th>step</th><th>begun</th><th>ms</th><th>undone</th><th>problem</th></tr>\n");
        for step in &self.steps {
            let at = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
            let took = step.took_ms.map(|ms| ms.to_string()).unwrap_or_default();
            let error = step.error.as_ref().map(|e| html(&e.message)).unwrap_or_default();
            let (begun, undone) = (at(step.started_at), at(step.undone_at));
            let name = step.step.as_str();
            let _ = writeln!(
                page,
                "<tr><td>{name}</td><td>{begun}</td><td>{took}</td><td>{undone}</td><td>{error}</td></tr>"
            );
        }
        page.push_str("</table>\n</html>\n");
        page
    }

    /// What is known of the job as a whole, by name.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let measured = |what: &Measured| {
            let show = |ms: Option<u64>| ms.map_or("unknown".into(), |ms| format!("{ms} ms"));
            let error = what.error_percent.map(|p| format!(", {p:+} %")).unwrap_or_default();
            format!("planned {}, measured {}{error}", show(what.planned_ms), show(what.measured_ms))
        };
        let mut facts = vec![
            ("job", self.job.to_string()),
            ("recovery point", format!("{} in {}", self.point, self.repository)),
            ("kind", word(&self.mode)),
            ("state", self.state.as_str().to_owned()),
            ("outcome", self.outcome.as_ref().map(word).unwrap_or_default()),
            ("size", format!("{} bytes", self.size_bytes)),
            ("accepted", self.accepted_at.to_string()),
            ("until served", measured(&self.rto)),
            ("migration", measured(&self.full_copy)),
        ];
        let stopped = self.steps.iter().any(|step| step.step == Step::HandOver);
        let pause = if stopped { "guest off" } else { "writes held" };
        facts.extend(self.pause_ms.map(|ms| (pause, format!("{ms} ms"))));
        facts.extend(self.compared.map(|compared| ("compared", compared.to_string())));
        facts.extend(self.error.as_ref().map(|e| ("problem", e.message.clone())));
        facts
    }
}

fn step(view: &crate::StepView) -> ReportStep {
    ReportStep {
        step: view.name,
        started_at: view.started_at,
        took_ms: step_ms(view),
        undone_at: view.undone_at,
        error: view.error.clone(),
    }
}

/// A value of a closed set as the API spells it.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => String::new(),
    }
}

/// Quoted where it must be. A name that a spreadsheet would take for a formula gets a quote before it.
fn csv_cell(text: &str) -> String {
    let number = text.parse::<f64>().is_ok();
    let text = match text.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t' | '\r') if !number => format!("'{text}"),
        _ => text.to_owned(),
    };
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_no_formulas() {
        for (text, want) in [
            ("a", "a"),
            ("-5", "-5"),
            ("a,\"b\"", "\"a,\"\"b\"\"\""),
            ("=1+1", "'=1+1"),
            ("-cmd", "'-cmd"),
            ("@x,y", "\"'@x,y\""),
            ("two\nlines", "\"two\nlines\""),
        ] {
            assert_eq!(csv_cell(text), want, "{text:?}");
        }
        assert_eq!(html("<a href='x'>&"), "&lt;a href=&#39;x&#39;&gt;&amp;");
    }

    #[test]
    fn the_error_of_a_plan_is_in_percent_of_it() {
        let of = |planned, measured| Measured::new(planned, measured).error_percent;
        assert_eq!(of(Some(200), Some(250)), Some(25));
        assert_eq!(of(Some(200), Some(50)), Some(-75));
        assert_eq!(of(Some(0), Some(5)), Some(500));
        assert_eq!((of(None, Some(5)), of(Some(5), None)), (None, None));
    }
}
