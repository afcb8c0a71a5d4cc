//! `rekindle state restore`: a state directory of a backup.

use std::{fs, path::Path};

use anyhow::Context;
use rekindle_console::Audit;
use rekindle_jobs::{LostJob, end_restored};
use rekindle_state::{Backup, StateError};
use serde_json::json;

use crate::{
    cli::RestoreArgs,
    config,
    exit::{Failure, Kind},
    serve::lock_state_dir,
};

/// What is made of the state directory by those who serve from it: none of it may be there.
const IN_USE: [&str; 4] = ["db", "overlay", "exports", "nfs"];
/// The database until it is whole.
const PARTIAL: &str = "db.restoring";

/// 1. the backup is looked through                 crash here: nothing was changed
/// 2. its records are in `db.restoring`, durably   crash here: the next try begins anew
/// 3. jobs that were under way have ended there
/// 4. it is called `db`                            crash before: the next try begins anew; after: it is done
pub(super) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let config = config::load(&args.config)?;
    let refused = |e| Failure::new(Kind::Refused, e);
    let shown = args.file.display();
    let mut backup = Backup::open(&args.file).map_err(|error| match error {
        // Of the backup, that is.
        StateError::Corrupt(what) => Failure::said(Kind::Refused, format!("{shown}: {what}")),
        other => refused(anyhow::Error::from(other).context(shown.to_string())),
    })?;
    let dir = &config.state_dir;
    let _lock = lock_state_dir(dir)?;
    if let Some(there) = IN_USE.iter().find(|name| dir.join(name).exists()) {
        let text = format!(
            "{} has a state ({there}): move it away first, or name another --state-dir",
            dir.display()
        );
        return Err(Failure::said(Kind::Refused, text));
    }
    let partial = dir.join(PARTIAL);
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::from(anyhow::Error::from(error).context("remove an earlier try")));
        }
        _ => {}
    }
    let made_at = backup.head().made_at;
    let lost = fill(&mut backup, &partial)?;
    let renamed =
        fs::rename(&partial, dir.join("db")).and_then(|()| fs::File::open(dir)?.sync_all());
    renamed.context("put the restored database in its place")?;
    if args.json {
        let jobs: Vec<_> = lost.iter().map(|job| {
            json!({ "id": job.id, "state": job.state, "name": job.name, "left": job.left })
        }).collect();
        let head = backup.head();
        println!(
            "{:#}",
            json!({ "made_at": made_at, "host": head.host, "version": head.version, "jobs": jobs })
        );
        return Ok(());
    }
    say(&backup, dir, &lost);
    Ok(())
}

fn fill(backup: &mut Backup, partial: &Path) -> Result<Vec<LostJob>, Failure> {
    let made_at = backup.head().made_at;
    let db = backup.restore(partial).context("restore the records")?;
    let lost = end_restored(&db, made_at).context("end the jobs that were under way")?;
    let audit = Audit::open(&db).context("open the audit log")?;
    audit.restored(made_at).context("write the audit log")?;
    Ok(lost)
}

fn say(backup: &Backup, dir: &Path, lost: &[LostJob]) {
    let head = backup.head();
    println!(
        "{} is as it was on {} at {} (version {}).",
        dir.display(),
        head.host,
        head.made_at,
        head.version
    );
    for job in lost {
        println!(
            "job {} ({}, {}) has ended: what its guest wrote is not in a backup of the state",
            job.id,
            job.name,
            job.state.as_str()
        );
        if let Some(left) = &job.left {
            println!("  {left}");
        }
    }
    println!(
        "Start the appliance: it has a new admin token and certificate, unless they are in files of yours."
    );
}
