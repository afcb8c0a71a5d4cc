//! Files on datastores, over HTTPS: read, and written whole.

use std::ops::Range;

use reqwest::{StatusCode, header::CONTENT_RANGE};

use crate::{
    HostId, VmId, Vsphere, VsphereError,
    error::Failure,
    export::{Download, next},
    moref::MoRef,
    property::{Query, Step},
};

const UP: &[Step] = &[Step { name: "up", kind: "ManagedEntity", path: "parent", then: &["up"] }];

impl Vsphere {
    /// The whole of a file of at most `max` bytes on a datastore of the VM: `[datastore] dir/file`.
    /// `NotFound` if it is not there.
    pub async fn read_file(
        &self,
        vm: &VmId,
        path: &str,
        max: u64,
    ) -> Result<Vec<u8>, VsphereError> {
        let near = vm.moref();
        self.session.insist(|| self.try_read_file(&near, path, max)).await
    }

    /// The same, on a datastore of the host.
    pub async fn read_file_of(
        &self,
        host: &HostId,
        path: &str,
        max: u64,
    ) -> Result<Vec<u8>, VsphereError> {
        let near = host.moref();
        self.session.insist(|| self.try_read_file(&near, path, max)).await
    }

    async fn try_read_file(&self, near: &MoRef, path: &str, max: u64) -> Result<Vec<u8>, Failure> {
        let Download(mut response) = self.try_open_file(near, path).await?;
        let mut bytes = Vec::new();
        while let Some(part) = next(&mut response).await? {
            if bytes.len() as u64 + part.len() as u64 > max {
                return Err(Failure::garbled("read", format!("{path} is over {max} bytes")));
            }
            bytes.extend(part);
        }
        Ok(bytes)
    }

    /// Begins to read a file of whatever size on a datastore of the host. `NotFound` if it is not there.
    pub async fn open_file_of(&self, host: &HostId, path: &str) -> Result<Download, VsphereError> {
        let near = host.moref();
        self.session.insist(|| self.try_open_file(&near, path)).await
    }

    async fn try_open_file(&self, near: &MoRef, path: &str) -> Result<Download, Failure> {
        let (store, file) = split(path)?;
        let datacenter = self.datacenter_path(near).await?;
        let query = [("dcPath", datacenter.as_str()), ("dsName", store)];
        self.session.transport.get_folder(file, &query, None).await.map(Download)
    }

    /// Begins to read the bytes `range` of a file on a datastore of the host, which is not empty; with it, how many bytes the whole file
    /// has. `None` if the host gives files as a whole only.
    pub async fn open_part_of(
        &self,
        host: &HostId,
        path: &str,
        range: Range<u64>,
    ) -> Result<Option<(Download, u64)>, VsphereError> {
        let near = host.moref();
        self.session.insist(|| self.try_open_part(&near, path, &range)).await
    }

    async fn try_open_part(
        &self,
        near: &MoRef,
        path: &str,
        range: &Range<u64>,
    ) -> Result<Option<(Download, u64)>, Failure> {
        let (store, file) = split(path)?;
        let datacenter = self.datacenter_path(near).await?;
        let query = [("dcPath", datacenter.as_str()), ("dsName", store)];
        let wanted = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let got = self.session.transport.get_folder(file, &query, Some(&wanted)).await?;
        if got.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(None);
        }
        let said = got.headers().get(CONTENT_RANGE).and_then(|said| said.to_str().ok());
        let of_bytes = said.and_then(|said| whole(said, range));
        let garbled = || Failure::garbled("read", format!("{said:?} is not the part {wanted}"));
        let of_bytes = of_bytes.ok_or_else(garbled)?;
        Ok(Some((Download(got), of_bytes)))
    }

    /// Writes a small file to a datastore of the host, over one that is there. Its directory must be there.
    pub async fn write_file_of(
        &self,
        host: &HostId,
        path: &str,
        bytes: &[u8],
    ) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_write_file(host, path, bytes)).await
    }

    async fn try_write_file(&self, host: &HostId, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        let (store, file) = split(path)?;
        let datacenter = self.datacenter_path(&host.moref()).await?;
        let query = [("dcPath", datacenter.as_str()), ("dsName", store)];
        self.session.transport.put_folder(file, &query, bytes).await
    }

    /// The path in the inventory, without the root, of the datacenter that an object is in.
    async fn datacenter_path(&self, near: &MoRef) -> Result<String, Failure> {
        let query = Query {
            start: std::slice::from_ref(near),
            steps: UP,
            properties: &[("Datacenter", &["name", "parent"]), ("Folder", &["name", "parent"])],
        };
        let found = self.session.retrieve(&query).await?;
        let mut at = found.iter().find(|object| object.id.kind == "Datacenter");
        let mut path = String::new();
        for _ in 0..found.len() {
            // The root folder has no parent, and is in no path.
            let Some((here, parent)) = at.and_then(|at| Some((at, at.moref("parent")?))) else {
                break;
            };
            let name = here.owned("name");
            path = if path.is_empty() { name } else { format!("{name}/{path}") };
            at = found.iter().find(|object| object.id == parent);
        }
        match path.is_empty() {
            true => Err(Failure::not_found(format!("the datacenter of {}", near.value))),
            false => Ok(path),
        }
    }
}

/// Bytes of the whole file, if a `Content-Range` is of this part (RFC 9110, 14.4) or of what there is of it.
fn whole(said: &str, range: &Range<u64>) -> Option<u64> {
    let (part, of_bytes) = said.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first == range.start && last < range.end).then(|| of_bytes.parse().ok())?
}

/// The datastore and the file of `[datastore] dir/file`.
fn split(path: &str) -> Result<(&str, &str), Failure> {
    let parts = path.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    parts.ok_or_else(|| Failure::not_found(format!("a file `{path}`")))
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn a_part_is_the_one_that_was_asked_for() {
        assert_eq!(whole("bytes 10-19/100", &(10..20)), Some(100));
        assert_eq!(whole("bytes 10-14/15", &(10..20)), Some(15), "what there is of it");
        for other in
            ["bytes 0-9/100", "bytes 10-20/100", "bytes 10-19/*", "10-19/100", "bytes */100"]
        {
            assert_eq!(whole(other, &(10..20)), None, "{other}");
        }
    }
}
