//! Power, and the questions that a VM asks when it is started.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    VmId, Vsphere, VsphereError,
    error::Failure,
    moref::MoRef,
    soap::Request,
    task::{self, Outcome, Running},
    vm::{self, PowerState},
    xml::Element,
};

/// The answer to `msg.uuid.altered`, which a host asks of a VM whose `.vmx` comes from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UuidPolicy {
    /// It was moved: it keeps its UUID and MAC addresses.
    Moved,
    /// It was copied: it gets new ones.
    Copied,
}

/// Questions that one start may ask. Each is answered at most once.
const MAX_QUESTIONS: usize = 8;

impl Vsphere {
    /// Starts a VM; one that runs already is fine. `msg.uuid.altered` is answered by the policy; any
    /// other question is answered with Cancel, if it can be, and is an error with the question's text.
    pub async fn power_on(&self, vm: &VmId, policy: UuidPolicy) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_power_on(vm, policy)).await
    }

    async fn try_power_on(&self, vm: &VmId, policy: UuidPolicy) -> Result<(), Failure> {
        let deadline = Instant::now() + self.session.limits.task;
        loop {
            if self.try_power_state(vm).await? == PowerState::On {
                return Ok(());
            }
            let request = Request::new("PowerOnVM_Task", &vm.moref(), |_| {});
            let started = match self.session.call_for_moref(&request).await {
                Ok(task) => self.start(vm, task, deadline, policy).await,
                Err(failure) => Err(failure),
            };
            let Err(failure) = started else { return Ok(()) };
            if let Some(earlier) = task::in_the_way(&failure) {
                // Most likely our own earlier call, which may ask as well.
                task::settled(self.start(vm, earlier, deadline, policy).await)?;
            } else if failure.is(&["InvalidPowerState"]) {
                return match self.try_power_state(vm).await? {
                    PowerState::On => Ok(()),
                    _ => Err(failure),
                };
            } else {
                task::forgotten(failure, deadline).await?;
            }
        }
    }

    /// Follows a start to its end and answers its questions.
    async fn start(
        &self,
        vm: &VmId,
        task: MoRef,
        deadline: Instant,
        policy: UuidPolicy,
    ) -> Result<(), Failure> {
        let running = Running {
            call: "PowerOnVM_Task",
            task,
            deadline,
            progress: &|_| {},
            questions_of: Some(vm.moref()),
        };
        let mut answered: Vec<String> = Vec::new();
        loop {
            let question = match self.session.follow(&running).await? {
                Outcome::Done(_) => return Ok(()),
                Outcome::Asks(question) => Question::read(&question),
            };
            if answered.contains(&question.id) {
                // It goes away a moment after the answer.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                if Instant::now() < running.deadline {
                    continue;
                }
            }
            if answered.len() == MAX_QUESTIONS {
                return Err(question.refused(running.call));
            }
            let Some(choice) = question.choice(policy) else {
                return self.give_up(vm, &running, &question).await;
            };
            self.answer(vm, &question.id, &choice).await?;
            answered.push(question.id);
        }
    }

    async fn answer(&self, vm: &VmId, id: &str, choice: &str) -> Result<(), Failure> {
        let request = Request::new("AnswerVM", &vm.moref(), |w| {
            w.text("questionId", id);
            w.text("answerChoice", choice);
        });
        match self.session.call(&request).await {
            // Somebody else has answered it.
            Err(failure) if !failure.is(&["ConcurrentAccess"]) => Err(failure),
            _ => Ok(()),
        }
    }

    /// Ends a start that asks what we cannot answer, so that the VM is free for what comes next.
    async fn give_up(
        &self,
        vm: &VmId,
        running: &Running<'_>,
        question: &Question,
    ) -> Result<(), Failure> {
        if let Some(cancel) = question.labelled("cancel") {
            self.answer(vm, &question.id, &cancel).await?;
            self.session.wait_out(&running.task, running.deadline).await?;
        }
        Err(question.refused(running.call))
    }

    /// Stops a VM at once, as pulling the plug does; one that is off already is fine.
    pub async fn power_off(&self, vm: &VmId) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_power_off(vm)).await
    }

    async fn try_power_off(&self, vm: &VmId) -> Result<(), Failure> {
        let deadline = Instant::now() + self.session.limits.task;
        loop {
            if self.try_power_state(vm).await? == PowerState::Off {
                return Ok(());
            }
            let request = Request::new("PowerOffVM_Task", &vm.moref(), |_| {});
            let left = deadline.saturating_duration_since(Instant::now());
            let Err(failure) = self.session.run(&request, left).await else { return Ok(()) };
            if let Some(task) = task::in_the_way(&failure) {
                self.session.wait_out(&task, deadline).await?;
            } else if failure.is(&["InvalidPowerState"]) {
                // It went off by itself.
                return match self.try_power_state(vm).await? {
                    PowerState::Off => Ok(()),
                    _ => Err(failure),
                };
            } else {
                task::forgotten(failure, deadline).await?;
            }
        }
    }

    /// Whether a VM runs; `NotFound` if it is not registered any more.
    pub async fn power_state(&self, vm: &VmId) -> Result<PowerState, VsphereError> {
        self.session.insist(|| self.try_power_state(vm)).await
    }

    async fn try_power_state(&self, vm: &VmId) -> Result<PowerState, Failure> {
        Ok(vm::power(&self.session.read(&vm.moref(), &["runtime.powerState"]).await?))
    }

    /// Cancels what runs on a VM (such as a migration) and waits until it has ended. Tasks that
    /// cannot be cancelled are waited for.
    pub async fn cancel_tasks(&self, vm: &VmId) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_cancel_tasks(vm)).await
    }

    async fn try_cancel_tasks(&self, vm: &VmId) -> Result<(), Failure> {
        let deadline = Instant::now() + self.session.limits.task;
        for task in self.session.at_work().await? {
            if task.moref("info.entity") == Some(vm.moref()) {
                self.cancel(&task.id, deadline).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn cancel(&self, task: &MoRef, deadline: Instant) -> Result<(), Failure> {
        let request = Request::new("CancelTask", task, |_| {});
        match self.session.call(&request).await {
            Ok(_) => {}
            // It has ended, or cannot be cancelled.
            Err(failure) if failure.is(&["InvalidState", "NotSupported"]) => {}
            Err(failure) if failure.is_gone() => return Ok(()),
            Err(failure) => return Err(failure),
        }
        self.session.wait_out(task, deadline).await
    }
}

/// What a VM asks.
struct Question {
    id: String,
    text: String,
    /// Ids of its messages, such as `msg.uuid.altered`.
    messages: Vec<String>,
    /// Key and label of each choice.
    choices: Vec<(String, String)>,
}

impl Question {
    fn read(question: &Element) -> Self {
        let text =
            |element: &Element, name: &str| element.text_at(&[name]).unwrap_or_default().to_owned();
        let infos = question.child("choice").map(|choice| choice.all("choiceInfo"));
        Self {
            id: text(question, "id"),
            text: text(question, "text"),
            messages: question.all("message").map(|message| text(message, "id")).collect(),
            choices: infos
                .into_iter()
                .flatten()
                .map(|info| (text(info, "key"), text(info, "label")))
                .collect(),
        }
    }

    /// The key of our answer, if it is the question that we have an answer to.
    fn choice(&self, policy: UuidPolicy) -> Option<String> {
        const ALTERED: &str = "msg.uuid.altered";
        if !self.messages.iter().any(|id| id == ALTERED) && !self.text.starts_with(ALTERED) {
            return None;
        }
        self.labelled(match policy {
            UuidPolicy::Moved => "moved",
            UuidPolicy::Copied => "copied",
        })
    }

    /// The key of the choice with this word in its label: `button.uuid.movedTheVM`, `I Moved It`.
    fn labelled(&self, word: &str) -> Option<String> {
        let found = self.choices.iter().find(|(_, label)| label.to_lowercase().contains(word));
        found.map(|(key, _)| key.clone())
    }

    fn refused(&self, call: &'static str) -> Failure {
        let message = format!("the VM asks: {}", self.text.trim());
        VsphereError::Refused { call, fault: "VirtualMachineQuestion".into(), message }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::{Question, UuidPolicy};
    use crate::xml;

    fn question(message: &str, labels: [&str; 3]) -> Question {
        let choices: String = (0..3)
            .map(|n| format!("<choiceInfo><label>{}</label><key>{n}</key></choiceInfo>", labels[n]))
            .collect();
        let text = format!(
            "<q><id>17</id><text>{message}:This VM might have been moved</text><choice>{choices}</choice>\
             <message><id>{message}</id><text>t</text></message></q>"
        );
        Question::read(&xml::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn the_uuid_question_is_answered_by_policy() {
        for labels in [
            ["button.uuid.cancel", "button.uuid.movedTheVM", "button.uuid.copiedTheVM"],
            ["Cancel", "I Moved It", "I Copied It"],
        ] {
            let question = question("msg.uuid.altered", labels);
            assert_eq!(question.choice(UuidPolicy::Moved).as_deref(), Some("1"));
            assert_eq!(question.choice(UuidPolicy::Copied).as_deref(), Some("2"));
        }
    }

    #[test]
    fn other_questions_are_not() {
        let question = question("msg.disk.adapterMismatch", ["Yes moved", "No", "Cancel"]);
        assert_eq!(question.choice(UuidPolicy::Moved), None);
        assert_eq!(question.labelled("cancel").as_deref(), Some("2"));
        let text = crate::VsphereError::from(question.refused("PowerOnVM_Task")).to_string();
        assert!(text.contains("msg.disk.adapterMismatch:This VM might have been moved"), "{text}");
    }
}
