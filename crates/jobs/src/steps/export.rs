//! The export: made by the first job that uses it, removed by the last.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rekindle_nfs::{Export, ExportSpec};

use crate::env::Env;
use crate::journal::Record;
use crate::shares::all_clients;
use crate::{JobError, failure};

/// Serves the job's export, to all who use it.
pub(crate) async fn add(env: &Env, record: &Record) -> Result<Arc<Export>, JobError> {
    let name = record.place.export.clone();
    let mut users = env.exported.of(&name).await;
    users.insert(record.id.clone(), record.clients.clone());
    let spec = ExportSpec { dir: env.export_dir(&name), clients: all_clients(&users), name };
    let exports = env.exports.clone();
    failure::blocking(move || {
        make_dir(&spec.dir)?;
        exports.add(spec).map_err(|e| failure::nfs("export the directory", e))
    })
    .await
}

/// Takes this job's clients out of the export, and the export away if nobody else uses it.
pub(crate) async fn remove(env: &Env, record: &Record) -> Result<(), JobError> {
    let name = record.place.export.clone();
    let mut users = env.exported.of(&name).await;
    let mut rest = users.clone();
    rest.remove(&record.id);
    let (exports, dir, clients) = (env.exports.clone(), env.export_dir(&name), all_clients(&rest));
    let last = rest.is_empty();
    failure::blocking(move || {
        if last {
            exports.remove(&name).map_err(|e| failure::nfs("remove the export", e))?;
            remove_dir(&dir)
        } else if exports.get(&name).is_some() {
            let set = exports.set_clients(&name, clients);
            set.map_err(|e| failure::nfs("close the export to the job's clients", e))
        } else {
            Ok(())
        }
    })
    .await?;
    users.remove(&record.id);
    Ok(())
}

/// The job's export, if it is served.
pub(crate) fn get(env: &Env, record: &Record) -> Result<Arc<Export>, JobError> {
    let name = &record.place.export;
    let export = env.exports.get(name);
    export.ok_or_else(|| JobError::conflict("export_refused", format!("{name} is not exported")))
}

/// Makes a directory and its name durable.
fn make_dir(dir: &Path) -> Result<(), JobError> {
    let what = || format!("make {}", dir.display());
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| JobError::io(what(), e))?;
    sync_parent(dir)
}

/// Removes a directory with all that is in it; it need not exist.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), JobError> {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => sync_parent(dir),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(JobError::io(format!("remove {}", dir.display()), e)),
    }
}

/// Makes the names in a path's directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), JobError> {
    let parent: PathBuf = path.parent().unwrap_or(Path::new("/")).into();
    let synced = std::fs::File::open(&parent).and_then(|dir| dir.sync_all());
    synced.map_err(|e| JobError::io(format!("sync {}", parent.display()), e))
}
