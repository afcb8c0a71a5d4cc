//! Which servers are trusted: the system's authorities, one authority, or one certificate.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex},
};

use reqwest::ClientBuilder;
use ring::digest;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{Trust, VsphereError};

/// The hash of a server's own certificate: SHA-1 as vSphere shows it, or SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Thumbprint {
    /// 20 bytes.
    Sha1([u8; 20]),
    /// 32 bytes.
    Sha256([u8; 32]),
}

impl Thumbprint {
    fn is_of(&self, certificate: &CertificateDer<'_>) -> bool {
        let seen = SeenCertificate::of(certificate);
        *self == seen.sha1 || *self == seen.sha256
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha1(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
        }
    }
}

/// `AA:BB:…`, as vSphere shows it.
impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.bytes().iter().enumerate() {
            write!(f, "{}{byte:02X}", if n == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hexadecimal, in any case, with colons or without.
impl FromStr for Thumbprint {
    type Err = VsphereError;

    fn from_str(text: &str) -> Result<Self, VsphereError> {
        let digits: String = text.chars().filter(|c| *c != ':' && !c.is_whitespace()).collect();
        let bad = || VsphereError::BadEndpoint {
            reason: "a thumbprint is 40 (SHA-1) or 64 (SHA-256) hexadecimal digits".into(),
        };
        let bytes = hex::decode(digits).map_err(|_| bad())?;
        match bytes.len() {
            20 => bytes.try_into().map(Self::Sha1).map_err(|_| bad()),
            32 => bytes.try_into().map(Self::Sha256).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

/// What a server showed of itself: for a person to compare, then to pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenCertificate {
    /// Its SHA-1 thumbprint, as the host's console shows it.
    pub sha1: Thumbprint,
    /// Its SHA-256 thumbprint: pin this one.
    pub sha256: Thumbprint,
}

impl SeenCertificate {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let (mut sha1, mut sha256) = ([0; 20], [0; 32]);
        sha1.copy_from_slice(
            digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, certificate).as_ref(),
        );
        sha256.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self { sha1: Thumbprint::Sha1(sha1), sha256: Thumbprint::Sha256(sha256) }
    }
}

/// Makes `builder` trust as `trust` says.
pub(crate) fn configure(
    builder: ClientBuilder,
    trust: &Trust,
) -> Result<ClientBuilder, VsphereError> {
    match trust {
        Trust::System => {
            // reqwest makes its own configuration then, with the process's default provider.
            let _ = crypto::ring::default_provider().install_default();
            Ok(builder.tls_backend_rustls())
        }
        Trust::Ca(pem) => {
            let _ = crypto::ring::default_provider().install_default();
            let bad = |reason: String| VsphereError::BadEndpoint { reason };
            let roots = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|e| bad(format!("the CA file: {e}")))?;
            if roots.is_empty() {
                return Err(bad("the CA file has no certificate in it".into()));
            }
            Ok(builder.tls_certs_only(roots))
        }
        Trust::Thumbprint(pinned) => {
            Ok(builder.tls_backend_preconfigured(with_pin(Pin::new(Some(*pinned)))?))
        }
    }
}

/// Only looks: a client that refuses every certificate and tells what it saw. Nothing is ever sent.
pub(crate) fn looking(builder: ClientBuilder) -> Result<(ClientBuilder, Arc<Pin>), VsphereError> {
    let pin = Pin::new(None);
    Ok((builder.tls_backend_preconfigured(with_pin(pin.clone())?), pin))
}

fn with_pin(pin: Arc<Pin>) -> Result<ClientConfig, VsphereError> {
    let config = ClientConfig::builder_with_provider(pin.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| VsphereError::BadEndpoint { reason: e.to_string() })?;
    Ok(config.dangerous().with_custom_certificate_verifier(pin).with_no_client_auth())
}

/// Trusts one certificate and remembers the last one seen. The handshake's signature is checked as
/// ever: whoever shows the certificate must have its key.
#[derive(Debug)]
pub(crate) struct Pin {
    pinned: Option<Thumbprint>,
    seen: Mutex<Option<SeenCertificate>>,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    fn new(pinned: Option<Thumbprint>) -> Arc<Self> {
        let provider = Arc::new(crypto::ring::default_provider());
        Arc::new(Self { pinned, seen: Mutex::default(), provider })
    }

    pub(crate) fn seen(&self) -> Option<SeenCertificate> {
        *self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap_or_else(|e| e.into_inner()) =
            Some(SeenCertificate::of(end_entity));
        match &self.pinned {
            Some(pinned) if pinned.is_of(end_entity) => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate error in the chain of causes, if that is what stopped a connection.
pub(crate) fn certificate_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a CertificateError> {
    let mut cause: Option<&'a (dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // An io::Error keeps its inner error out of the chain of sources.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = error
            .downcast_ref::<Error>()
            .or_else(|| inner.and_then(|inner| inner.downcast_ref::<Error>()));
        if let Some(Error::InvalidCertificate(why)) = tls {
            return Some(why);
        }
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{CertificateDer, SeenCertificate, Thumbprint};

    #[test]
    fn thumbprints_are_read_and_shown() {
        let text = "A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D";
        let print: Thumbprint = text.parse().unwrap();
        assert_eq!(print.to_string(), text);
        assert_eq!(text.to_lowercase().replace(':', "").parse::<Thumbprint>().unwrap(), print);
        for bad in ["", "A9", "zz", &"0".repeat(41), &"0".repeat(62)] {
            assert!(bad.parse::<Thumbprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn both_hashes_of_a_certificate_match_and_others_do_not() {
        let certificate = CertificateDer::from_slice(b"abc");
        let seen = SeenCertificate::of(&certificate);
        // FIPS 180-4's example for "abc".
        assert_eq!(
            seen.sha1.to_string().replace(':', ""),
            "A9993E364706816ABA3E25717850C26C9CD0D89D"
        );
        assert!(seen.sha256.to_string().starts_with("BA:78:16:BF:8F:01:CF:EA"));
        assert!(seen.sha1.is_of(&certificate) && seen.sha256.is_of(&certificate));
        assert!(!seen.sha1.is_of(&CertificateDer::from_slice(b"abd")));
    }
}
