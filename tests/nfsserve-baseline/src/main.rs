//! A minimal NFSv3 server on `nfsserve`: what a plain user of that library has after an afternoon, for `scripts/bench` to
//! measure beside ours. `nfsserve-baseline DIR PORT` serves the files of DIR, those that are there at the start,
//! as /export, and says "ready".
//!
//! READ is a `pread`, WRITE a `pwrite` and `fdatasync` (the library answers every WRITE as FILE_SYNC), each where it may
//! block. GETATTR is an `fstat` in place. What else there is says that it is not supported.

use async_trait::async_trait;
use nfsserve::fs_util::metadata_to_fattr3;
use nfsserve::nfs::{fattr3, fileid3, filename3, nfspath3, nfsstat3, sattr3};
use nfsserve::tcp::{NFSTcp, NFSTcpListener};
use nfsserve::vfs::{NFSFileSystem, ReadDirResult, VFSCapabilities};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::spawn_blocking;

const ROOT: fileid3 = 1;
const FIRST_FILE: fileid3 = 2;
/// The longest READ: what the library's FSINFO says.
const LONGEST: u32 = 1 << 20;

/// A directory, and its files by their ids.
struct Directory {
    path: PathBuf,
    files: Vec<(Vec<u8>, Arc<File>)>,
}

impl Directory {
    fn open(path: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let file = File::options().read(true).write(true).open(entry.path())?;
                files.push((entry.file_name().into_encoded_bytes(), Arc::new(file)));
            }
        }
        Ok(Self { path: path.to_owned(), files })
    }

    fn file(&self, id: fileid3) -> Result<Arc<File>, nfsstat3> {
        let at = id.checked_sub(FIRST_FILE).ok_or(nfsstat3::NFS3ERR_ISDIR)?;
        let found = usize::try_from(at).ok().and_then(|at| self.files.get(at));
        found.map(|(_, file)| file.clone()).ok_or(nfsstat3::NFS3ERR_STALE)
    }
}

/// Runs `work`, which blocks, where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, nfsstat3> {
    let done = spawn_blocking(work).await.map_err(|_| nfsstat3::NFS3ERR_SERVERFAULT)?;
    done.map_err(|_| nfsstat3::NFS3ERR_IO)
}

fn read(file: &File, offset: u64, count: u32) -> io::Result<(Vec<u8>, bool)> {
    let mut data = vec![0; count.min(LONGEST) as usize];
    let len = file.read_at(&mut data, offset)?;
    data.truncate(len);
    Ok((data, offset.saturating_add(len as u64) >= file.metadata()?.len()))
}

fn write(file: &File, id: fileid3, offset: u64, data: &[u8]) -> io::Result<fattr3> {
    file.write_all_at(data, offset)?;
    file.sync_data()?;
    Ok(metadata_to_fattr3(id, &file.metadata()?))
}

#[async_trait]
impl NFSFileSystem for Directory {
    fn capabilities(&self) -> VFSCapabilities {
        VFSCapabilities::ReadWrite
    }

    fn root_dir(&self) -> fileid3 {
        ROOT
    }

    async fn lookup(&self, _: fileid3, name: &filename3) -> Result<fileid3, nfsstat3> {
        let at = self.files.iter().position(|(known, _)| *known == name.0);
        at.map(|at| FIRST_FILE + at as fileid3).ok_or(nfsstat3::NFS3ERR_NOENT)
    }

    async fn getattr(&self, id: fileid3) -> Result<fattr3, nfsstat3> {
        let metadata = match id {
            ROOT => fs::metadata(&self.path),
            _ => self.file(id)?.metadata(),
        };
        metadata.map(|found| metadata_to_fattr3(id, &found)).map_err(|_| nfsstat3::NFS3ERR_IO)
    }

    async fn read(
        &self,
        id: fileid3,
        offset: u64,
        count: u32,
    ) -> Result<(Vec<u8>, bool), nfsstat3> {
        let file = self.file(id)?;
        blocking(move || read(&file, offset, count)).await
    }

    async fn write(&self, id: fileid3, offset: u64, data: &[u8]) -> Result<fattr3, nfsstat3> {
        let (file, data) = (self.file(id)?, data.to_vec());
        blocking(move || write(&file, id, offset, &data)).await
    }

    async fn setattr(&self, _: fileid3, _: sattr3) -> Result<fattr3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn create(
        &self,
        _: fileid3,
        _: &filename3,
        _: sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn create_exclusive(&self, _: fileid3, _: &filename3) -> Result<fileid3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn mkdir(&self, _: fileid3, _: &filename3) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn remove(&self, _: fileid3, _: &filename3) -> Result<(), nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn rename(
        &self,
        _: fileid3,
        _: &filename3,
        _: fileid3,
        _: &filename3,
    ) -> Result<(), nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn readdir(&self, _: fileid3, _: fileid3, _: usize) -> Result<ReadDirResult, nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn symlink(
        &self,
        _: fileid3,
        _: &filename3,
        _: &nfspath3,
        _: &sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn readlink(&self, _: fileid3) -> Result<nfspath3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, port] = &arguments[..] else {
        return Err(io::Error::other("usage: nfsserve-baseline DIR PORT"));
    };
    let directory = Directory::open(Path::new(directory))?;
    let mut listener = NFSTcpListener::bind(&format!("127.0.0.1:{port}"), directory).await?;
    listener.with_export_name("export");
    println!("ready");
    listener.handle_forever().await
}
