//! The console's certificate: made at the first start or the operator's own, and read again without a
//! restart.

mod identity;
mod self_signed;

use std::{fs, io, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc};

use parking_lot::{Mutex, RwLock};
use rustls::{
    ServerConfig,
    crypto::ring::default_provider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

pub use identity::Fingerprint;
pub use self_signed::make as make_self_signed;

/// The largest file that is read as a certificate or key: a chain of ten is below 64 KiB.
const FILE_MAX: u64 = 256 << 10;

/// What is wrong with a certificate or its key. Fix the files; until then the last good ones are used.
#[derive(thiserror::Error, Debug)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot {verb} {}: {source}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The files do not hold a certificate and its key.
    #[error("{reason}")]
    Refused {
        /// What is wrong, and with which file.
        reason: String,
    },
}

impl TlsError {
    fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }
}

/// Where a certificate and its key are, both as PEM. They may be in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and the chain above it in order.
    pub certificate: PathBuf,
    /// Its private key, which only we may read.
    pub key: PathBuf,
}

/// The certificate that the console shows, and how its connections are encrypted: TLS 1.2 and 1.3.
pub struct Tls {
    files: TlsFiles,
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
    seen: Mutex<Stamp>,
}

impl Tls {
    /// Reads the files.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let stamp = Stamp::of(&files);
        let shown = Arc::new(Shown(RwLock::new(Arc::new(identity::read(&files)?))));
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::refused(e.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { files, shown, config: Arc::new(config), seen: Mutex::new(stamp) })
    }

    /// The hash of the certificate that is shown now, for a person to compare.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.shown.0.read())
    }

    /// Reads the files again if they changed since they were last looked at: the new fingerprint if the
    /// certificate did. When they are no good, the last good ones stay, and that is said once.
    pub fn refresh(&self) -> Result<Option<Fingerprint>, TlsError> {
        let stamp = Stamp::of(&self.files);
        if std::mem::replace(&mut *self.seen.lock(), stamp.clone()) == stamp {
            return Ok(None);
        }
        self.reload()
    }

    /// Reads the files again, as they are: the new fingerprint if the certificate changed.
    pub fn reload(&self) -> Result<Option<Fingerprint>, TlsError> {
        let before = self.fingerprint();
        *self.shown.0.write() = Arc::new(identity::read(&self.files)?);
        let now = self.fingerprint();
        Ok((now != before).then_some(now))
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// The identity that new handshakes get. Connections that stand keep theirs.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

/// What tells that a file was replaced: its inode, size and times, `None` while it is not there.
#[derive(Clone, PartialEq, Eq)]
struct Stamp([Option<(u64, u64, i64, i64)>; 2]);

impl Stamp {
    fn of(files: &TlsFiles) -> Self {
        Self([&files.certificate, &files.key].map(|path| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_certificate_is_taken_and_a_bad_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        let files = make_self_signed(&first, &["localhost".into()]).unwrap();
        let tls = Tls::open(files.clone()).unwrap();
        let before = tls.fingerprint();
        assert_eq!(tls.refresh().unwrap(), None);
        let other = make_self_signed(&second, &["localhost".into()]).unwrap();
        fs::copy(&other.certificate, &files.certificate).unwrap();
        let now = tls.refresh().unwrap().unwrap();
        assert!(now != before && now == tls.fingerprint());
        fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
        assert!(tls.refresh().is_err());
        // Said once; the last good one is shown.
        assert_eq!(tls.refresh().unwrap(), None);
        assert_eq!(tls.fingerprint(), now);
        assert!(tls.reload().is_err());
    }
}
