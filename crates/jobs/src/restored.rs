//! Jobs that a backup of the state knows as under way, and of which an appliance that was restored from it has nothing: no
//! export, no disk, and not what their guests wrote. They end, and touch no host: the VM may run elsewhere by now, or
//! from the appliance that the backup is of.

use jiff::Timestamp;
use rekindle_state::Database;

use crate::batch::end_batches;
use crate::journal::{Journal, Record};
use crate::{ErrorView, JobError, JobId, JobState, Outcome};

/// A job that was under way, as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostJob {
    /// Which.
    pub id: JobId,
    /// Where it stood.
    pub state: JobState,
    /// The recovered VM's name.
    pub name: String,
    /// What may be left of it at its host, for whoever removes it there.
    pub left: Option<String>,
}

/// Ends all jobs and batches that are under way in the state, which was restored from a backup made then and which nobody
/// serves from.
pub fn end_restored(db: &Database, made_at: Timestamp) -> Result<Vec<LostJob>, JobError> {
    let journal = Journal::open(db)?;
    let mut lost = Vec::new();
    for mut record in journal.load()?.into_iter().filter(|record| !record.is_finished()) {
        let (state, left) = (record.state(), left_at_host(&record));
        end(&mut record, made_at, left.as_deref());
        journal.put(&record)?;
        lost.push(LostJob { id: record.id, state, name: record.name, left });
    }
    end_batches(db)?;
    Ok(lost)
}

fn end(record: &mut Record, made_at: Timestamp, left: Option<&str>) {
    let mut message = format!(
        "the appliance was restored from a backup of its state of {made_at}, which holds nothing that a guest wrote"
    );
    if let Some(left) = left {
        message = format!("{message}; {left}");
    }
    let now = Timestamp::now();
    record.outcome.get_or_insert(Outcome::Failed);
    record.note(now, message.clone());
    record.error = Some(ErrorView { code: "restored".into(), message });
    record.finished_at = Some(now);
    record.kept_until = None;
    record.note(now, record.state().as_str());
}

fn left_at_host(record: &Record) -> Option<String> {
    let mount = record.place.datastore.as_ref()?;
    let host = mount.host.as_ref().map_or_else(String::new, |host| format!(", host {host}"));
    let original = match &record.original {
        Some(original) => format!(
            ", and the VM that it was recovered over ({:?}) may be renamed or off",
            original.name
        ),
        None => String::new(),
    };
    Some(format!(
        "at {}{host} its VM {:?} and the datastore {:?} may be left{original}",
        mount.target, record.name, mount.datastore
    ))
}
