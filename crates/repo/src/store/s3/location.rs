use std::path::PathBuf;
use std::str::FromStr;

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

use super::request::CONNECT_WITHIN;
use crate::RepoError;

/// What a request is signed for where nobody says: most stores that are not Amazon's take any.
const DEFAULT_REGION: &str = "us-east-1";

/// A bucket, a prefix in it, and how it is reached. Holds no secret: credentials are named, not carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Location {
    /// The bucket's name.
    pub bucket: String,
    /// What all object names begin with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// The store's URL; Amazon's own when absent, or what `AWS_ENDPOINT_URL_S3` says.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: Option<String>,
    /// Whether the bucket is a part of the path and not of the host's name. By default it is wherever there is an
    /// endpoint.
    pub path_style: Option<bool>,
    /// A file of certificates in PEM that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Where the keys come from.
    pub credentials: S3Credentials,
}

/// Where the keys for a store come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum S3Credentials {
    /// The environment, the shared configuration, the container or the machine: the first that has some.
    #[default]
    Ambient,
    /// A profile of the shared configuration.
    Profile(String),
    /// A file of its own in the shared format, and which profile of it.
    File {
        /// The file.
        path: PathBuf,
        /// `default` when absent.
        profile: Option<String>,
    },
}

impl FromStr for S3Location {
    type Err = RepoError;

    /// Reads `s3://bucket/prefix`; the rest stays to be said.
    fn from_str(text: &str) -> Result<Self, RepoError> {
        let refused = || {
            RepoError::refused(format!(
                "{text:?} is no place on S3: s3://BUCKET or s3://BUCKET/PREFIX"
            ))
        };
        let rest = text.strip_prefix("s3://").ok_or_else(refused)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let location = Self::new(bucket, prefix)?;
        Ok(location)
    }
}

impl S3Location {
    /// A place in Amazon's own store with ambient credentials.
    pub fn new(bucket: &str, prefix: &str) -> Result<Self, RepoError> {
        let bucket_byte = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !(3..=255).contains(&bucket.len()) || !bucket.bytes().all(bucket_byte) {
            return Err(RepoError::refused(format!("{bucket:?} is no name of a bucket")));
        }
        let prefix = prefix.trim_matches('/');
        let plain = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(bucket_byte)
        };
        if prefix.len() > 512 || !(prefix.is_empty() || prefix.split('/').all(plain)) {
            return Err(RepoError::refused(format!(
                "{prefix:?} is no prefix: letters, digits, dots and dashes, with single slashes between"
            )));
        }
        Ok(Self {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: None,
            region: None,
            path_style: None,
            ca_file: None,
            credentials: S3Credentials::Ambient,
        })
    }

    /// The full name of an object of the repository.
    pub(super) fn key(&self, object: &str) -> String {
        match self.prefix.is_empty() {
            true => object.to_owned(),
            false => format!("{}/{object}", self.prefix),
        }
    }

    /// A client of the store. Retries, deadlines and checks are ours: see `request.rs`.
    pub(super) async fn client(&self) -> Result<Client, RepoError> {
        let http = self.http_client()?;
        let ambient = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).build())
            // A slow body is our deadline's business.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let ambient = match &self.credentials {
            S3Credentials::Ambient => ambient,
            S3Credentials::Profile(name) => ambient.profile_name(name),
            S3Credentials::File { path, profile } => {
                // Read now, so that a missing file is an error here and not at the first request.
                std::fs::metadata(path).map_err(|e| {
                    RepoError::refused(format!("cannot read credentials {}: {e}", path.display()))
                })?;
                let files = EnvConfigFiles::builder()
                    .with_file(EnvConfigFileKind::Credentials, path)
                    .build();
                let provider = ProfileFileCredentialsProvider::builder()
                    // For profiles that assume a role.
                    .configure(&ProviderConfig::without_region().with_http_client(http))
                    .profile_files(files)
                    .profile_name(profile.as_deref().unwrap_or("default"));
                ambient.credentials_provider(provider.build())
            }
        };
        // With an endpoint, where nobody says the region need not be asked of a machine at Amazon's.
        let region = self.region.as_deref().or(self.endpoint.as_ref().map(|_| DEFAULT_REGION));
        let ambient = match region {
            Some(region) => ambient.region(Region::new(region.to_owned())),
            None => ambient,
        };
        let ambient = match &self.endpoint {
            Some(endpoint) => ambient.endpoint_url(endpoint),
            None => ambient,
        };
        let shared = ambient.load().await;
        let elsewhere = self.endpoint.is_some() || shared.endpoint_url().is_some();
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(self.path_style.unwrap_or(elsewhere))
            // Blocks, maps and manifests carry their own hashes; what the SDK adds by itself many stores refuse.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if shared.region().is_none() {
            config = config.region(Region::new(DEFAULT_REGION));
        }
        Ok(Client::from_conf(config.build()))
    }

    fn http_client(&self) -> Result<SharedHttpClient, RepoError> {
        let builder = Builder::new().tls_provider(Provider::rustls(CryptoMode::Ring));
        let Some(file) = &self.ca_file else { return Ok(builder.build_https()) };
        let refused = |e: &dyn std::fmt::Display| {
            RepoError::refused(format!("cannot use CA file {}: {e}", file.display()))
        };
        let pem = std::fs::read(file).map_err(|e| refused(&e))?;
        // The TLS engine panics on what is no certificate.
        let certificates =
            pem.windows(27).filter(|at| *at == b"-----BEGIN CERTIFICATE-----").count();
        if certificates == 0 {
            return Err(refused(&"there is no certificate in it"));
        }
        let trust = TrustStore::empty().with_pem_certificate(pem);
        let tls = TlsContext::builder().with_trust_store(trust).build().map_err(|e| refused(&e))?;
        Ok(builder.tls_context(tls).build_https())
    }
}

impl std::fmt::Display for S3Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.prefix.is_empty() {
            true => write!(f, "s3://{}", self.bucket),
            false => write!(f, "s3://{}/{}", self.bucket, self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_shown() {
        for text in ["s3://backups", "s3://backups/site-1/vms"] {
            let place: S3Location = text.parse().unwrap();
            assert_eq!(place.to_string(), text);
        }
        let place: S3Location = "s3://backups/site/".parse().unwrap();
        assert_eq!(place.key("points/a"), "site/points/a");
        for bad in
            ["backups", "s3://", "s3://a", "s3://b b/x", "s3://bucket/a//b", "s3://bucket/../x"]
        {
            assert!(bad.parse::<S3Location>().is_err(), "{bad}");
        }
    }
}
