//! All exports of the server.

use crate::clients::ClientNet;
use crate::export::{Export, ExportView, Shared, SpaceProvider};
use crate::{NfsError, handle};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Exports at one time. A lookup by path goes through all.
const EXPORTS: usize = 4096;

/// What is to be exported.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// Clients mount `/` and this name: 1 to 200 letters, digits, `.`, `_` and `-`, no leading dot.
    pub name: String,
    /// The directory; made if it is not there. Nobody else may change it while it is exported.
    pub dir: PathBuf,
    /// Who may use it; nobody if empty.
    pub clients: Vec<ClientNet>,
}

/// All exports of a server. Its clones are the same.
#[derive(Clone)]
pub struct Exports(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    /// Held while a directory is scanned, so that none is scanned twice at a time.
    adding: Mutex<()>,
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<u64, Arc<Export>>,
    by_name: HashMap<String, Arc<Export>>,
}

impl Exports {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(Arc::new(Inner { shared, adding: Mutex::default(), table: RwLock::default() }))
    }

    /// Exports a directory. If it is exported under that name already, its clients are set. Scans the directory, so it
    /// blocks for long where there are many files. Handles from before a restart work again.
    pub fn add(&self, spec: ExportSpec) -> Result<Arc<Export>, NfsError> {
        check_name(&spec.name)?;
        let _adding = self.0.adding.lock();
        if let Some(export) = self.get(&spec.name) {
            if export.dir() != spec.dir {
                return Err(NfsError::Refused(format!("{} is another export's name", spec.name)));
            }
            export.set_clients(spec.clients);
            return Ok(export);
        }
        if self.0.table.read().by_id.len() >= EXPORTS {
            return Err(NfsError::Refused(format!("there are {EXPORTS} exports already")));
        }
        let export = Arc::new(Export::from_dir(self.0.shared.clone(), spec)?);
        let mut table = self.0.table.write();
        if let Some(other) = table.by_id.get(&export.id()) {
            return Err(NfsError::Refused(format!("its directory is export {}", other.name())));
        }
        table.by_id.insert(export.id(), export.clone());
        table.by_name.insert(export.name().to_owned(), export.clone());
        tracing::info!(export = export.name(), directory = %export.dir().display(), "exported");
        Ok(export)
    }

    /// The export of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Export>> {
        self.0.table.read().by_name.get(name).cloned()
    }

    /// Opens an export to these clients and to no others.
    pub fn set_clients(&self, name: &str, clients: Vec<ClientNet>) -> Result<(), NfsError> {
        let export = self.get(name).ok_or_else(|| NfsError::NotFound(format!("export {name}")))?;
        export.set_clients(clients);
        Ok(())
    }

    /// Ends an export; its handles are stale from then on. Idempotent. The directory stays.
    pub fn remove(&self, name: &str) -> Result<(), NfsError> {
        let removed = {
            let mut table = self.0.table.write();
            let removed = table.by_name.remove(name);
            removed.inspect(|export| drop(table.by_id.remove(&export.id())))
        };
        if let Some(export) = removed {
            export.close();
            tracing::info!(export = name, "no longer exported");
        }
        Ok(())
    }

    /// All exports, by name.
    pub fn list(&self) -> Vec<ExportView> {
        self.all().iter().map(|export| export.view()).collect()
    }

    /// Where FSSTAT's numbers come from, if not from each export's own file system. Asked every other second.
    pub fn set_space(&self, provider: SpaceProvider) {
        *self.0.shared.space.write() = Some(provider);
        self.refresh_space();
    }

    pub(crate) fn refresh_space(&self) {
        for export in self.all() {
            export.refresh_space();
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Export>> {
        let mut all: Vec<_> = self.0.table.read().by_id.values().cloned().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    pub(crate) fn by_id(&self, id: u64) -> Option<Arc<Export>> {
        self.0.table.read().by_id.get(&id).cloned()
    }

    /// Whether the address is a client of any export.
    pub(crate) fn know(&self, client: IpAddr) -> bool {
        self.0.table.read().by_id.values().any(|export| export.allows(client))
    }

    pub(crate) fn is_genuine(&self, named: &handle::Named) -> bool {
        self.0.shared.handles.is_genuine(named)
    }
}

fn check_name(name: &str) -> Result<(), NfsError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let is_good =
        (1..=200).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(good);
    match is_good {
        true => Ok(()),
        false => Err(NfsError::Refused(format!("{name:?} is no name for an export"))),
    }
}
