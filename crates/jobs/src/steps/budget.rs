//! What a job waits for beside its turn: a mount, its turn and room for a storage migration, room for a copy.

use std::time::Duration;

use super::{Status, Work, turn};
use crate::budget::{AtHost, Move, MoveLimits, Moving};
use crate::room::{self, Room, Wanted};
use crate::staging::Staging;
use crate::{JobError, failure, mover};

/// How often a host or a file system is looked at again by itself.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Says what is waited for, until it is dropped.
struct Waiting<'a>(&'a Status);

impl Waiting<'_> {
    fn say(&self, what: String) {
        *self.0.waits_for.lock() = Some(what);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *self.0.waits_for.lock() = None;
    }
}

impl<'w> Work<'w> {
    /// What keeps the export from being mounted on the job's host; `None` without a host.
    pub(super) async fn mount_obstacle(&self) -> Result<Option<String>, JobError> {
        if self.record.place.datastore.is_none() {
            return Ok(None);
        }
        let (link, mount, _) = self.link()?;
        link.mount_obstacle(mount, &self.export_path()).await
    }

    /// Waits until the host has our export, or may mount one more.
    pub(super) async fn await_mount(&self) -> Result<(), JobError> {
        let waiting = Waiting(self.status);
        loop {
            let changed = self.env.gate.changed();
            let Some(what) = self.mount_obstacle().await? else { return Ok(()) };
            waiting.say(what);
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
    }

    /// Waits for its turn among the storage migrations of its host and datastores, and for room. Others wait for it until
    /// what is returned is dropped.
    pub(super) async fn await_move(&mut self) -> Result<Moving<'w>, JobError> {
        let (to, vm) = (self.to_datastore()?.to_owned(), self.vm()?.to_owned());
        let (disks, point) = (
            self.live.disks(self.env, self.record).await?,
            self.live.point(self.env, self.record).await?,
        );
        let bytes = mover::data_bytes(&disks, &point.maps).await?;
        let (env, waiting) = (self.env, Waiting(self.status));
        let (link, mount, _) = self.link()?;
        let wanted = Move {
            target: mount.target.clone(),
            host: mount.host.clone(),
            from: mount.datastore.clone(),
            to,
            bytes,
            vm,
        };
        let config = &env.config.mover;
        let limits = MoveLimits {
            per_host: config.max_moves_per_host,
            per_datastore: config.max_moves_per_datastore,
        };
        let moving = env.moves.join(turn(self.record), wanted.clone());
        loop {
            let changed = env.moves.changed();
            let others = link.moves(mount, &env.moves.vms(&mount.target)).await?;
            let free = link.free_bytes(mount, &wanted.to).await?;
            let Err(what) = moving.ask(limits, AtHost { others, free }) else { return Ok(moving) };
            waiting.say(what);
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
    }

    /// Waits for its turn among the copies to a directory's file system, and for room there. Others leave it what it lacks
    /// until what is returned is dropped.
    pub(super) async fn await_room(&mut self, staging: Staging) -> Result<Room, JobError> {
        let (disks, point) = (
            self.live.disks(self.env, self.record).await?,
            self.live.point(self.env, self.record).await?,
        );
        let bytes = mover::data_bytes(&disks, &point.maps).await?;
        let directory = staging.directory().to_owned();
        let (env, job, waiting) = (self.env, Some(&self.record.id), Waiting(self.status));
        let there = room::file_system(env, &directory, job).await?;
        room::check(there, &directory, bytes)?;
        let wanted = Wanted { device: there.device, bytes, staging };
        let (rooms, turn) = (env.rooms.clone(), turn(self.record));
        let mut room = failure::blocking(move || Ok(rooms.join(turn, wanted))).await?;
        loop {
            let changed = env.rooms.changed();
            match room::file_system(env, &directory, job).await {
                // One that is lost for a moment ends no wait.
                Err(error) => waiting.say(format!("the directory to copy to: {error}")),
                Ok(there) => {
                    let asked = failure::blocking(move || Ok((room.ask(there), room)));
                    let (answer, back) = asked.await?;
                    let Err(what) = answer else { return Ok(back) };
                    room = back;
                    waiting.say(what);
                }
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
    }
}
