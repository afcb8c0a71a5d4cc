//! Tasks: waited for until they end, with progress and a deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    VsphereError,
    error::Failure,
    moref::MoRef,
    property::{Object, Query, Step, Watch},
    session::Session,
    soap::{self, Request},
    xml::Element,
};

const INFO: &[&str] = &["info.state", "info.progress", "info.error", "info.result"];
/// Looks at a new task before we ask to be woken: most end so soon, and being woken takes four calls.
const FIRST_LOOKS: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
];

const QUESTION: &[&str] = &["runtime.question"];

/// A task that runs at the server, and what to do while it does.
pub(crate) struct Running<'a> {
    /// The call that started it.
    pub(crate) call: &'static str,
    pub(crate) task: MoRef,
    pub(crate) deadline: Instant,
    pub(crate) progress: &'a (dyn Fn(u8) + Sync),
    /// The VM whose questions are to be noticed.
    pub(crate) questions_of: Option<MoRef>,
}

/// Why waiting for a task came to an end.
pub(crate) enum Outcome {
    /// It ended well; with its result, if it has one.
    Done(Option<Element>),
    /// It waits for the answer to this question.
    Asks(Element),
}

impl Session {
    /// Starts a task and waits for it to end.
    pub(crate) async fn run(
        &self,
        request: &Request,
        within: Duration,
    ) -> Result<Option<Element>, Failure> {
        let task = self.call_for_moref(request).await?;
        let deadline = Instant::now() + within;
        let running =
            Running { call: request.call, task, deadline, progress: &|_| {}, questions_of: None };
        match self.follow(&running).await? {
            Outcome::Done(result) => Ok(result),
            Outcome::Asks(_) => Err(Failure::garbled(request.call, "it asks a question")),
        }
    }

    /// Waits until a task ends or asks. Its own fault becomes ours.
    pub(crate) async fn follow(&self, running: &Running<'_>) -> Result<Outcome, Failure> {
        let mut objects = vec![(running.task.clone(), INFO)];
        objects.extend(running.questions_of.clone().map(|vm| (vm, QUESTION)));
        let mut watch = Watch::new(self, objects);
        let outcome = self.follow_with(running, &mut watch).await;
        if !matches!(&outcome, Err(failure) if failure.is_unreachable()) {
            watch.end().await;
        }
        outcome
    }

    async fn follow_with(
        &self,
        running: &Running<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Outcome, Failure> {
        let started = Instant::now();
        let mut looks = FIRST_LOOKS.into_iter();
        loop {
            if let Some(outcome) = self.persist(|| self.look_at(running)).await? {
                return Ok(outcome);
            }
            let left = running.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let after = started.elapsed();
                return Err(VsphereError::TimedOut { call: running.call, after }.into());
            }
            match looks.next() {
                Some(pause) => sleep(pause.min(left)).await,
                None => watch.changed(left).await,
            }
        }
    }

    async fn look_at(&self, running: &Running<'_>) -> Result<Option<Outcome>, Failure> {
        let mut info = self.read(&running.task, INFO).await?;
        if let Some(percent) = info.number("info.progress") {
            (running.progress)(percent.min(100) as u8);
        }
        match info.text("info.state") {
            Some("success") => return Ok(Some(Outcome::Done(info.take("info.result")))),
            Some("error") => {
                let error = info.take("info.error").unwrap_or_default();
                return Err(Failure::Fault(Box::new(soap::task_fault(running.call, error))));
            }
            _ => {}
        }
        let Some(vm) = &running.questions_of else { return Ok(None) };
        let question = self.read(vm, QUESTION).await?.take("runtime.question");
        Ok(question.filter(|question| !question.children.is_empty()).map(Outcome::Asks))
    }

    /// The tasks that run or wait at the server, with what they are and what they are about.
    pub(crate) async fn at_work(&self) -> Result<impl Iterator<Item = Object>, Failure> {
        let query = Query {
            start: std::slice::from_ref(&self.roots.task_manager),
            steps: &[Step { name: "task", kind: "TaskManager", path: "recentTask", then: &[] }],
            properties: &[("Task", &["info.entity", "info.state", "info.descriptionId"])],
        };
        let recent = self.retrieve(&query).await?;
        Ok(recent
            .into_iter()
            .filter(|task| matches!(task.text("info.state"), Some("running" | "queued"))))
    }

    /// Waits for somebody's task that is in our way, whatever comes of it.
    pub(crate) async fn wait_out(&self, task: &MoRef, deadline: Instant) -> Result<(), Failure> {
        let running = Running {
            call: "wait",
            task: task.clone(),
            deadline,
            progress: &|_| {},
            questions_of: None,
        };
        match self.follow(&running).await {
            Err(failure @ Failure::Error(_)) => Err(failure),
            _ => Ok(()),
        }
    }
}

/// The task that a `TaskInProgress` fault says is in the way.
pub(crate) fn in_the_way(failure: &Failure) -> Option<MoRef> {
    match failure {
        Failure::Fault(fault) if fault.name == "TaskInProgress" => fault.moref("task"),
        _ => None,
    }
}

/// The end of another's task that we waited for. That it failed is no failure of ours, as we try
/// next; that somebody cancelled it is.
pub(crate) fn settled(end: Result<(), Failure>) -> Result<(), Failure> {
    match end {
        Err(Failure::Fault(fault)) if fault.name != "RequestCanceled" => Ok(()),
        end => end,
    }
}

/// A pause before we look again what became of a task that the server has forgotten, as a vCenter
/// that was started anew has.
pub(crate) async fn forgotten(failure: Failure, deadline: Instant) -> Result<(), Failure> {
    if !failure.is_gone() || Instant::now() >= deadline {
        return Err(failure);
    }
    sleep(Duration::from_millis(500)).await;
    Ok(())
}
