use anyhow::Context;
use rekindle_repo::{Location, S3Credentials, S3Location};

use super::{RepositoryEntry, secrets::credential};

impl RepositoryEntry {
    /// Where the repository is.
    pub(crate) fn location(&self) -> anyhow::Result<Location> {
        match (&self.path, &self.bucket) {
            (Some(path), None) => Ok(Location::Local(path.clone())),
            (None, Some(bucket)) => self.s3(bucket).map(Location::S3),
            _ => anyhow::bail!("repository \"{}\" needs a path or a bucket", self.name),
        }
    }

    fn s3(&self, bucket: &str) -> anyhow::Result<S3Location> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let mut place = S3Location::new(bucket, prefix)
            .with_context(|| format!("use repository \"{}\"", self.name))?;
        place.endpoint.clone_from(&self.endpoint);
        place.region.clone_from(&self.region);
        place.path_style = self.path_style;
        place.ca_file.clone_from(&self.ca_file);
        let file = match (&self.credentials_file, &self.credentials_credential) {
            (Some(file), _) => Some(file.clone()),
            (None, Some(name)) => Some(credential(name)?),
            (None, None) => None,
        };
        place.credentials = match (file, &self.profile) {
            (Some(path), profile) => S3Credentials::File { path, profile: profile.clone() },
            (None, Some(profile)) => S3Credentials::Profile(profile.clone()),
            (None, None) => S3Credentials::Ambient,
        };
        Ok(place)
    }
}
