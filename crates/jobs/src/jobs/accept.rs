use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rekindle_nfs::ClientNet;
use rekindle_repo::PointManifest;

mod on_target;

use on_target::{OnTarget, export_name, original_name};

use super::Jobs;
use crate::journal::{Accepted, DiskRecord, HostMount, Place, Record};
use crate::request::check_source;
use crate::staging::check_directory;
use crate::steps::{files, turn};
use crate::{
    Destination, JobError, JobId, JobView, Mode, Offer, RecoveryRequest, failure, naming, room,
};

/// The longest idempotency key, in bytes.
const KEY_MAX: usize = 200;

/// What must be known before names are chosen.
pub(super) struct Checked {
    pub(super) repository: String,
    pub(super) point: PointManifest,
    clients: Vec<ClientNet>,
    mount: Option<HostMount>,
    /// The name of the VM that is to step aside.
    original: Option<String>,
    /// What its host has no room for now.
    pub(super) waits_for: Option<String>,
}

impl Jobs {
    /// Accepts a recovery: durable when it returns, on its way at once.
    ///
    /// With an idempotency key the same request gets the same job, and another request under the
    /// same key is a `Conflict`. What cannot work is refused here, with nothing changed: an unknown
    /// point or target, a host that does not answer, a bad directory, a name in use, a full disk, a
    /// full queue.
    ///
    /// May be dropped: the request is then accepted or not, never half of it.
    pub async fn start(
        self: &Arc<Self>,
        request: RecoveryRequest,
        idempotency_key: Option<String>,
    ) -> Result<JobId, JobError> {
        self.start_with(request, idempotency_key, None).await
    }

    /// The same with what the request offers to open the repository. It is checked and forgotten: the job goes on
    /// without it, also after a restart.
    pub async fn start_with(
        self: &Arc<Self>,
        request: RecoveryRequest,
        idempotency_key: Option<String>,
        offer: Option<Offer>,
    ) -> Result<JobId, JobError> {
        request.validate()?;
        if let Some(known) = self.known(idempotency_key.as_deref(), &request)? {
            return Ok(known);
        }
        // Before anything that takes time: a wrong passkey is refused within a second.
        let admitted = self.admit(&request, offer.as_ref()).await?.into_iter().collect();
        self.begin(request, idempotency_key, &admitted).await
    }

    /// The same where `admitted` repositories were opened with a passkey before.
    pub(crate) async fn start_admitted(
        self: &Arc<Self>,
        request: RecoveryRequest,
        idempotency_key: String,
        admitted: &BTreeSet<String>,
    ) -> Result<JobId, JobError> {
        request.validate()?;
        match self.known(Some(&idempotency_key), &request)? {
            Some(known) => Ok(known),
            None => self.begin(request, Some(idempotency_key), admitted).await,
        }
    }

    async fn begin(
        self: &Arc<Self>,
        request: RecoveryRequest,
        idempotency_key: Option<String>,
        admitted: &BTreeSet<String>,
    ) -> Result<JobId, JobError> {
        let checked = self.check(&request).await?;
        if self.asks_for_passkey(&checked.repository) && !admitted.contains(&checked.repository) {
            let why =
                "the VM's newest point is in another repository since a moment ago: ask again";
            return Err(JobError::conflict("point_changed", why));
        }
        let jobs = self.clone();
        // A task of its own, which goes on when the caller does not wait: a job in the journal must
        // have its driver.
        let accept = async move { jobs.accept(request, checked, idempotency_key).await };
        failure::joined(tokio::spawn(accept)).await
    }

    async fn accept(
        &self,
        request: RecoveryRequest,
        checked: Checked,
        key: Option<String>,
    ) -> Result<JobId, JobError> {
        let _accepting = self.accepting.lock().await;
        // Somebody may have been faster with the same key.
        if let Some(known) = self.known(key.as_deref(), &request)? {
            return Ok(known);
        }
        let queued = self.env.gate.waiting();
        if queued >= self.env.config.max_queued {
            return Err(JobError::Busy { queued });
        }
        let record = self.plan(request, checked)?;
        self.enter(record, key).await
    }

    /// From here on the job exists, whatever happens.
    async fn enter(&self, record: Record, key: Option<String>) -> Result<JobId, JobError> {
        self.forget()?;
        let (journal, accepted) = (self.env.journal.clone(), record.clone());
        failure::blocking(move || journal.accept(&accepted, key.as_deref())).await?;
        let id = record.id.clone();
        self.env.gate.join(turn(&record));
        tracing::info!(job = %id, vm = record.vm, point = record.point, "accepted");
        let driver = self.add(record);
        self.drive(driver);
        Ok(id)
    }

    /// The job that this key has brought before.
    fn known(
        &self,
        key: Option<&str>,
        request: &RecoveryRequest,
    ) -> Result<Option<JobId>, JobError> {
        let Some(key) = key else { return Ok(None) };
        if key.is_empty() || key.len() > KEY_MAX {
            return Err(JobError::refused(
                "bad_idempotency_key",
                format!("an idempotency key has 1 to {KEY_MAX} bytes"),
            ));
        }
        match self.env.journal.key(key)? {
            None => Ok(None),
            Some(known) if known.request == *request => Ok(Some(known.job)),
            Some(known) => Err(JobError::conflict(
                "idempotency_key_reused",
                format!("job {} was asked for otherwise under this key", known.job),
            )),
        }
    }

    /// The repository that the point is in, if what is offered opens it where that is asked for.
    async fn admit(
        &self,
        request: &RecoveryRequest,
        offer: Option<&Offer>,
    ) -> Result<Option<String>, JobError> {
        if !self.env.repositories.keys().any(|name| self.env.needs_passkey(name)) {
            return Ok(None);
        }
        let name = self.repository_of(request).await?;
        if self.asks_for_passkey(&name) {
            self.admit_to(&name, offer).await?;
        }
        Ok(Some(name))
    }

    /// The repository that has the point.
    pub(crate) async fn repository_of(
        &self,
        request: &RecoveryRequest,
    ) -> Result<String, JobError> {
        Ok(self.find_point(request).await?.0)
    }

    /// Whether recoveries from a repository need one of its passkeys.
    pub(crate) fn asks_for_passkey(&self, repository: &str) -> bool {
        self.env.needs_passkey(repository)
    }

    /// Whether what is offered opens the repository.
    pub(crate) async fn admit_to(&self, name: &str, offer: Option<&Offer>) -> Result<(), JobError> {
        self.env.passkeys.admit(name, &self.env.repository(name)?, offer).await
    }

    /// Whether the request can work: everything that needs I/O.
    pub(super) async fn check(&self, request: &RecoveryRequest) -> Result<Checked, JobError> {
        if let Some(source) = &request.from_job {
            let source = self.view(source)?;
            check_source(source.request.mode, source.state)?;
            if !source.request.disks.is_empty() {
                let message =
                    "the job has some of the VM's disks: only of all of them one is a copy";
                return Err(JobError::conflict("not_a_whole_vm", message));
            }
        }
        let (repository, point) = self.find_point(request).await?;
        if point.disks.is_empty() {
            return Err(JobError::refused("no_disks", "the recovery point has no disks"));
        }
        let has = |key: &str| point.disks.iter().any(|disk| disk.key.eq_ignore_ascii_case(key));
        if let Some(missing) = request.disks.iter().find(|key| !has(key)) {
            let message = format!("the recovery point has no disk {missing}");
            return Err(JobError::refused("unknown_disk", message));
        }
        if let Some((path, _)) = request.migrate.as_ref().and_then(Destination::directory) {
            let (path, own) = (path.clone(), self.env.config.own_dirs.clone());
            failure::blocking(move || check_directory(&path, &own)).await?;
        }
        self.check_space(self.reserve(request, &repository, &point)?)?;
        let chosen = point.disks.iter().filter(|disk| is_chosen(request, &disk.key));
        // As they are stored they are no larger than where they go.
        let least = chosen.clone().fold(0u64, |sum, disk| sum.saturating_add(disk.stored_bytes));
        if let Some((path, _)) = request.migrate.as_ref().and_then(Destination::directory) {
            let there = room::file_system(&self.env, path, None).await?;
            room::check(there, path, least)?;
        }
        let chosen = (chosen.count(), least);
        let OnTarget { clients, mount, original, waits_for } =
            self.check_target(request, &point, chosen).await?;
        Ok(Checked { repository, point, clients, mount, original, waits_for })
    }

    fn check_space(&self, need: u64) -> Result<(), JobError> {
        let used = self.env.overlays.used_by_each();
        match self.env.gate.missing(need, self.env.free()?, used) {
            0 => Ok(()),
            missing => Err(JobError::Full { place: "the overlays' file system".into(), missing }),
        }
    }

    /// Chooses the names and writes the plan down.
    fn plan(&self, request: RecoveryRequest, checked: Checked) -> Result<Record, JobError> {
        let now = Timestamp::now();
        let others: Vec<JobView> =
            self.list().into_iter().filter(|j| !j.state.is_final()).collect();
        let id = self.new_id(now)?;
        let name = match &checked.original {
            Some(original) => original_name(original, &others)?,
            None => vm_name(&request, &checked.point, &others)?,
        };
        let slug = match &request.in_place {
            // The original may have files of that name where the recovered VM goes.
            Some(_) => format!("{}-{}", naming::slug(&name), id.suffix()),
            None => naming::slug(&name),
        };
        let place = self.place(&id, &slug, checked.mount, &others);
        let plan = request.plan();
        let planned = self.planned(&request, &checked.repository, &checked.point);
        let reserve = self.reserve(&request, &checked.repository, &checked.point)?;
        let record = Record::new(Accepted {
            vm: checked.point.vm.name.clone(),
            point: checked.point.id.to_string(),
            repository: checked.repository,
            disks: disks(&id, &place.folder, &request, &checked.point),
            nvram: checked.point.nvram.is_some() && request.mode != Mode::DiskOnly,
            clients: checked.clients,
            planned: Some(planned),
            reserve,
            created_at: now,
            expires_at: self.expires_at(&request, now)?,
            id,
            request,
            name,
            place,
            plan,
        });
        // A configuration that cannot be rewritten is refused now, not minutes later.
        files::small_files(&checked.point, &record)?;
        Ok(record)
    }

    fn new_id(&self, now: Timestamp) -> Result<JobId, JobError> {
        let known = self.entries.lock();
        loop {
            let id = JobId::new(now, failure::random()?);
            if !known.contains_key(&id) {
                return Ok(id);
            }
        }
    }

    fn expires_at(
        &self,
        request: &RecoveryRequest,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, JobError> {
        // What hangs on a VM of somebody's stays until somebody says so, or has said for how long.
        let hangs = request.attach_to.is_some() && request.expires_in_seconds.is_none();
        if !request.may_expire() || hangs {
            return Ok(None);
        }
        let default = self.env.config.mount_expires.as_secs();
        let seconds = request.expires_in_seconds.unwrap_or(default);
        after(now, seconds).map(Some)
    }

    /// The export and the folder. A host has one export for all its VMs; other clients get one each.
    fn place(&self, id: &JobId, slug: &str, mount: Option<HostMount>, others: &[JobView]) -> Place {
        // Folders and exports of jobs that have not come as far as making them are taken as well.
        let entries = self.entries.lock();
        let taken: Vec<&Place> =
            others.iter().filter_map(|job| entries.get(&job.id)).map(|e| &e.place).collect();
        let export = match &mount {
            Some(mount) => export_name(mount),
            None => {
                let exports = taken.iter().map(|place| place.export.clone()).collect();
                naming::free(&format!("{slug}-{}", id.suffix()), &exports)
            }
        };
        let beside = taken.iter().filter(|place| place.export == export);
        let mut folders: BTreeSet<String> = beside.map(|place| place.folder.clone()).collect();
        folders.extend(names_in(&self.env.export_dir(&export)));
        let folder = naming::free(slug, &folders);
        Place { export, folder, datastore: mount }
    }
}

/// So many seconds after `now`.
pub(crate) fn after(now: Timestamp, seconds: u64) -> Result<Timestamp, JobError> {
    let limit = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    let at = now.checked_add(limit);
    at.map_err(|e| JobError::refused("bad_expiry", format!("the time limit: {e}")))
}

/// Whether a request is for the disk at this place.
pub(super) fn is_chosen(request: &RecoveryRequest, key: &str) -> bool {
    request.disks.is_empty() || request.disks.iter().any(|disk| disk.eq_ignore_ascii_case(key))
}

/// The names in an export's directory: what a client left there is not written over.
fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn vm_name(
    request: &RecoveryRequest,
    point: &PointManifest,
    others: &[JobView],
) -> Result<String, JobError> {
    let taken: BTreeSet<String> = others.iter().map(|job| job.name.clone()).collect();
    let affixes = (request.name_prefix.as_deref(), request.name_suffix.as_deref());
    match &request.name {
        None if affixes == (None, None) => naming::numbered(&point.vm.name, &taken),
        None => {
            let affixes = (affixes.0.unwrap_or_default(), affixes.1.unwrap_or_default());
            naming::affixed(affixes, &point.vm.name, &taken)
        }
        Some(name) if taken.contains(name) => Err(JobError::conflict(
            "name_taken",
            format!("a job that has not ended recovers a VM as {name} already"),
        )),
        Some(name) => Ok(name.clone()),
    }
}

fn disks(
    id: &JobId,
    stem: &str,
    request: &RecoveryRequest,
    point: &PointManifest,
) -> Vec<DiskRecord> {
    let disk = |(index, disk): (usize, &rekindle_repo::DiskManifest)| {
        let name = if index == 0 { stem.to_owned() } else { format!("{stem}_{index}") };
        DiskRecord {
            id: format!("{id}.{index}"),
            index,
            key: disk.key.clone(),
            descriptor: format!("{name}.vmdk"),
            extent: format!("{name}-flat.vmdk"),
            size: disk.size_bytes,
        }
    };
    let all = point.disks.iter().enumerate();
    all.filter(|(_, disk)| is_chosen(request, &disk.key)).map(disk).collect()
}
