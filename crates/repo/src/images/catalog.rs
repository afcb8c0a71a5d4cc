use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;
use rekindle_block::BlockHash;
use rekindle_image::{Folder, Revision};

use super::tree::{Place, Tree};
use super::{manifest, options};
use crate::ingest::source::{Source, refuse};
use crate::repository::{DamagedPoint, PointListing};
use crate::{PointId, PointManifest, RepoError};

/// What the VMs of a place are, as they were last looked at.
#[derive(Default)]
pub(super) struct Catalog {
    tree: Arc<Tree>,
    /// By the file that says what a VM is: a configuration, a package, or an image alone.
    vms: BTreeMap<PathBuf, Entry>,
}

/// What a file is, for as long as those that it was made of stay as they were.
#[derive(Clone)]
struct Entry {
    opened: Files,
    point: Result<PointManifest, String>,
}

/// Files by their names in the place, with their revisions; `None` for what was asked for and is not there.
type Files = BTreeMap<PathBuf, Option<Revision>>;

/// A VM that was just opened.
pub(super) struct OpenedVm {
    opened: Files,
    pub(super) result: Result<(PointManifest, Source), RepoError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Says which disks a VM has.
    Machine,
    Image,
}

impl Catalog {
    /// Looks at the files that are new or were written to since the last time.
    pub(super) fn update(&mut self, id: &str, place: &Place) -> Result<(), RepoError> {
        let tree = place.tree()?;
        let folder = place.folder(&tree)?;
        let wanted = |kind| tree.files.keys().filter(move |name| kind_of(name) == Some(kind));
        let mut vms = BTreeMap::new();
        for kind in [Kind::Machine, Kind::Image] {
            // What a VM attaches is none of its own, so that these come first.
            let used = used(&vms);
            let (known, new): (Vec<_>, Vec<_>) = wanted(kind)
                .filter(|name| !used.contains(*name))
                .partition(|name| self.vms.get(*name).is_some_and(|vm| vm.still_holds(&tree)));
            vms.extend(known.into_iter().map(|name| (name.clone(), self.vms[name].clone())));
            vms.extend(look_at(&new, place.parallel(), |name| {
                open(id, &folder, name, &tree).into_entry()
            })?);
        }
        let used = used(&vms);
        vms.retain(|name, _| !used.contains(name));
        (self.tree, self.vms) = (Arc::new(tree), vms);
        Ok(())
    }

    pub(super) fn tree(&self) -> Arc<Tree> {
        self.tree.clone()
    }

    pub(super) fn listing(&self) -> PointListing {
        let mut listing =
            PointListing { damaged: self.tree.odd.clone(), ..PointListing::default() };
        for (name, vm) in &self.vms {
            match &vm.point {
                Ok(point) => listing.points.push(point.clone()),
                Err(reason) => listing.damaged.push(DamagedPoint {
                    object: name.display().to_string(),
                    reason: reason.clone(),
                }),
            }
        }
        listing.points.sort_by(|a, b| (&a.vm.id, &a.id).cmp(&(&b.vm.id, &b.id)));
        listing
    }

    /// The file that says what the point is.
    pub(super) fn file_of(&self, id: &PointId) -> Option<&Path> {
        let is = |vm: &Entry| vm.point.as_ref().is_ok_and(|point| point.id == *id);
        self.vms.iter().find(|(_, vm)| is(vm)).map(|(name, _)| name.as_path())
    }
}

impl Entry {
    fn still_holds(&self, tree: &Tree) -> bool {
        let as_before = |(name, before): (&PathBuf, &Option<Revision>)| {
            tree.files.get(name).map(|found| &found.revision) == before.as_ref()
        };
        self.opened.iter().all(as_before)
    }
}

/// The files that VMs use besides the one that says what they are. One that cannot be read claims none, so that what
/// of its disks can be read is there to be recovered.
fn used(vms: &BTreeMap<PathBuf, Entry>) -> BTreeSet<PathBuf> {
    let readable = vms.iter().filter(|(_, vm)| vm.point.is_ok());
    let others = readable.flat_map(|(own, vm)| vm.opened.keys().filter(move |name| *name != own));
    others.cloned().collect()
}

/// Opens each of `names` with `open`, `parallel` at a time.
fn look_at(
    names: &[&PathBuf],
    parallel: usize,
    open: impl Fn(&Path) -> Result<Entry, RepoError> + Sync,
) -> Result<BTreeMap<PathBuf, Entry>, RepoError> {
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let found = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..parallel.min(names.len()) {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match open(name) {
                        Ok(entry) => drop(found.lock().insert((*name).clone(), entry)),
                        Err(error) => {
                            next.store(names.len(), Ordering::Relaxed);
                            failure.lock().get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Some(error) => Err(error),
        None => Ok(found.into_inner()),
    }
}

/// Opens the VM that the file `name` of the place `folder` is.
pub(super) fn open(id: &str, folder: &Folder, name: &Path, tree: &Tree) -> OpenedVm {
    let dir = name.parent().unwrap_or(Path::new(""));
    let watched = match folder.open_folder(dir) {
        Ok(folder) => folder.watched(),
        Err(error) => return OpenedVm { opened: Files::new(), result: Err(refuse(error)) },
    };
    let file = Path::new(name.file_name().unwrap_or_default());
    let source = Source::open_in(&watched, file, &options());
    let opened: Files =
        watched.opened().into_iter().map(|(name, found)| (dir.join(name), found)).collect();
    let result = source.and_then(|source| {
        let content = content(id, &opened);
        let point = manifest(&source, &content, newest(&opened, tree)?)?;
        Ok((point, source))
    });
    OpenedVm { opened, result }
}

impl OpenedVm {
    /// What is remembered of it; an error if it is not known what it is.
    fn into_entry(self) -> Result<Entry, RepoError> {
        let point = match self.result {
            Ok((point, _)) => Ok(point),
            Err(error @ (RepoError::Unavailable { .. } | RepoError::Full)) => return Err(error),
            Err(error) => Err(error.to_string()),
        };
        Ok(Entry { opened: self.opened, point })
    }
}

/// What stands for the files and their revisions.
fn content(id: &str, opened: &Files) -> BlockHash {
    let mut text = format!("images of {id}\n");
    for (name, revision) in opened {
        let revision = revision.as_ref().map_or("", Revision::as_str);
        text.push_str(&format!("{:?} {revision}\n", name.as_os_str()));
    }
    BlockHash::of(text.as_bytes())
}

/// When the newest of the files was written to. One that is not as it was listed is being written to.
fn newest(opened: &Files, tree: &Tree) -> Result<jiff::Timestamp, RepoError> {
    let mut newest = jiff::Timestamp::MIN;
    for (name, revision) in opened {
        let Some(revision) = revision else { continue };
        match tree.files.get(name) {
            Some(found) if found.revision == *revision => newest = newest.max(found.modified),
            _ => {
                let detail = "it was written to while it was looked at";
                return Err(RepoError::corrupt(name.display().to_string(), detail));
            }
        }
    }
    Ok(newest)
}

/// What a file may be, by its name. An ISO is no disk that a VM starts from alone.
fn kind_of(name: &Path) -> Option<Kind> {
    let end = name.extension()?.to_str()?.to_ascii_lowercase();
    match end.as_str() {
        "vmx" | "ovf" | "ova" => Some(Kind::Machine),
        "vmdk" | "vhd" | "vhdx" | "avhd" | "avhdx" | "qcow2" | "raw" | "img" => Some(Kind::Image),
        _ => None,
    }
}
