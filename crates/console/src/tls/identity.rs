use std::{fmt, fs, io::Read, os::unix::fs::PermissionsExt, path::Path};

use ring::digest;
use rustls::{
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{FILE_MAX, TlsError, TlsFiles};

/// The SHA-256 of a certificate: what a person compares and a client pins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(identity: &CertifiedKey) -> Self {
        let own = identity.cert.first().map(|der| der.as_ref()).unwrap_or_default();
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, own).as_ref());
        Self(hash)
    }
}

/// `AA:BB:…`, as browsers and `openssl x509 -fingerprint -sha256` show it.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if n == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

/// The certificate and key in `files`, which must belong to each other.
pub(super) fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let pem = text(&files.certificate)?;
    let shown = files.certificate.display();
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| TlsError::refused(format!("{shown} is no PEM file: {e}")))?;
    if chain.is_empty() {
        return Err(TlsError::refused(format!("{shown} holds no certificate")));
    }
    let key = key(&files.key)?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(|e| {
        let key = files.key.display();
        TlsError::refused(format!("the certificate in {shown} and the key in {key}: {e}"))
    })
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let shown = path.display();
    let pem = text(path)?;
    let meta = fs::metadata(path).map_err(|e| file("read", path, e))?;
    if meta.permissions().mode() & 0o007 != 0 {
        return Err(TlsError::refused(format!(
            "everyone on this machine may read {shown}: chmod 600 it, and get another key"
        )));
    }
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|e| TlsError::refused(format!("{shown} holds no private key: {e}")))
}

fn text(path: &Path) -> Result<Vec<u8>, TlsError> {
    let opened = fs::File::open(path).map_err(|e| file("read", path, e))?;
    let mut bytes = Vec::new();
    opened.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| file("read", path, e))?;
    if bytes.len() as u64 > FILE_MAX {
        let shown = path.display();
        return Err(TlsError::refused(format!("{shown} is longer than {FILE_MAX} bytes")));
    }
    Ok(bytes)
}

pub(super) fn file(verb: &'static str, path: &Path, source: std::io::Error) -> TlsError {
    TlsError::File { verb, path: path.to_owned(), source }
}
