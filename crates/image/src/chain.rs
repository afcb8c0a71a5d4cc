//! The way down from a disk over the disks that it is the difference to.

use std::path::{Path, PathBuf};

use crate::ImageError;
use crate::file::SourceFile;
use crate::folder::Folder;

/// The longest path that Windows has.
pub(crate) const MAX_PATH_CHARS: usize = 32_767;

/// The disks opened so far. It bounds them, and ends a chain that leads back to itself.
pub(crate) struct Chain<'a> {
    folder: &'a Folder,
    names: Vec<PathBuf>,
    most: usize,
}

impl<'a> Chain<'a> {
    /// A chain of at most `most` disks above the last.
    pub(crate) fn new(folder: &'a Folder, most: usize) -> Self {
        Self { folder, names: Vec::new(), most }
    }

    pub(crate) fn folder(&self) -> &'a Folder {
        self.folder
    }

    pub(crate) fn enter(&mut self, name: &Path) -> Result<(), ImageError> {
        let file = name.display().to_string();
        // Two names of one file go round until the depth ends them.
        let name: PathBuf = name.components().collect();
        if self.names.contains(&name) {
            return Err(ImageError::unsupported(&file, "its parents go in a circle"));
        }
        if self.names.len() > self.most {
            let what = format!("there are more than {} disks above it, or a circle", self.most);
            return Err(ImageError::unsupported(&file, what));
        }
        self.names.push(name);
        Ok(())
    }

    /// Opens the disk below `child`, in `file`, under the first of its names that there is.
    pub(crate) fn open_parent(
        &mut self,
        child: &Path,
        file: &SourceFile,
        names: &ParentNames,
    ) -> Result<(PathBuf, SourceFile), ImageError> {
        let mut failure = None;
        for path in names.paths(child.parent().unwrap_or(Path::new(""))) {
            match self.folder.open_file(&path) {
                Ok(below) => {
                    self.enter(&path)?;
                    return Ok((path, below));
                }
                // The first says what is amiss: that the parent was there, or elsewhere.
                Err(error @ (ImageError::NotFound { .. } | ImageError::Escapes { .. })) => {
                    failure.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure
            .unwrap_or_else(|| file.corrupt("it is a difference and names no parent".into())))
    }
}

/// What a disk of Hyper-V calls its parent: paths of the Windows it was made on. A relative one is followed, within
/// the folder. All else, and a backup that keeps its files in one directory, has the parent beside the child.
#[derive(Debug, Default)]
pub(crate) struct ParentNames(Vec<String>);

impl ParentNames {
    pub(crate) fn add(&mut self, path: String) {
        if !path.is_empty() {
            self.0.push(path);
        }
    }

    fn paths(&self, dir: &Path) -> Vec<PathBuf> {
        let relative = self.0.iter().filter(|path| is_relative(path));
        let base = |path: &String| parts(path).last().map(|name| dir.join(name));
        let mut paths: Vec<PathBuf> = Vec::new();
        for path in relative.map(|path| join(dir, path)).chain(self.0.iter().filter_map(base)) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split(['\\', '/']).filter(|part| !part.is_empty() && *part != ".")
}

fn is_relative(path: &str) -> bool {
    !path.starts_with(['\\', '/']) && path.as_bytes().get(1) != Some(&b':')
}

/// `dir` and the way on from it. One that leads out of the folder begins with `..`, for the folder to refuse.
fn join(dir: &Path, path: &str) -> PathBuf {
    let mut joined = dir.to_owned();
    for part in parts(path) {
        let up = part == ".." && joined.file_name().is_some();
        if !(up && joined.pop()) {
            joined.push(part);
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_as_they_are_and_then_beside_the_child() {
        let paths = |names: &[&str], dir: &str| {
            let mut all = ParentNames::default();
            names.iter().for_each(|name| all.add((*name).to_owned()));
            let paths = all.paths(Path::new(dir));
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(paths(&[".\\base.vhd", "C:\\vm\\base.vhd"], ""), ["base.vhd"]);
        assert_eq!(paths(&["..\\disks\\a.vhdx"], "snap"), ["disks/a.vhdx", "snap/a.vhdx"]);
        assert_eq!(paths(&["..\\..\\a.vhdx"], "snap"), ["../a.vhdx", "snap/a.vhdx"]);
        assert_eq!(paths(&["\\\\?\\d:\\x\\a.vhdx", ""], "s"), ["s/a.vhdx"]);
        assert_eq!(paths(&["C:a.vhd", "\\", ".."], ""), ["..", "C:a.vhd"]);
    }
}
