//! Which appliance is trusted: what the system's authorities vouch for, one authority, or one certificate.

use std::{fs, sync::Arc};

use anyhow::Context;
use reqwest::ClientBuilder;
use ring::digest;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{cli::DaemonArgs, exit::Failure};

/// What to do about a certificate that is not trusted.
pub(super) const ADVICE: &str = "compare it with the fingerprint in the appliance's log and pin it with --fingerprint, or give --ca-file";

pub(super) fn configure(
    builder: ClientBuilder,
    args: &DaemonArgs,
) -> Result<ClientBuilder, Failure> {
    // Ours is the only provider, so a second installation is the same one.
    let _ = crypto::ring::default_provider().install_default();
    match (&args.fingerprint, &args.ca_file) {
        (Some(text), _) => {
            let pinned = fingerprint(text).ok_or_else(|| {
                Failure::refused("--fingerprint takes a SHA-256 of 64 hexadecimal digits")
            })?;
            Ok(builder.tls_backend_preconfigured(Pin::config(pinned)?))
        }
        (None, Some(file)) => {
            let shown = file.display();
            let bad =
                |e: &dyn std::fmt::Display| Failure::refused(format!("--ca-file {shown}: {e}"));
            let pem = fs::read(file).map_err(|e| bad(&e))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| bad(&e))?;
            if roots.is_empty() {
                return Err(bad(&"no certificate in it"));
            }
            Ok(builder.tls_certs_only(roots))
        }
        (None, None) => Ok(builder),
    }
}

/// Hexadecimal, in any case, with colons or without.
fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|c| *c != ':' && !c.is_whitespace()).collect();
    hex::decode(digits).ok()?.try_into().ok()
}

/// Trusts one certificate, whatever it says of itself. The handshake's signature is checked as ever:
/// whoever shows the certificate must have its key.
#[derive(Debug)]
struct Pin {
    pinned: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl Pin {
    fn config(pinned: [u8; 32]) -> Result<ClientConfig, Failure> {
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .context("set up TLS")?;
        let pin = Arc::new(Self { pinned, provider });
        Ok(config.dangerous().with_custom_certificate_verifier(pin).with_no_client_auth())
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
        if digest::digest(&digest::SHA256, end_entity).as_ref() == self.pinned {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
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

/// Why the certificate was refused, if that is what stopped a connection.
pub(super) fn refused_certificate(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // An io::Error keeps its inner error out of the chain of sources.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = inner.map(|inner| inner as &(dyn std::error::Error + 'static));
        if let Some(Error::InvalidCertificate(why)) = inner.unwrap_or(error).downcast_ref::<Error>()
        {
            return Some(format!("{why:?}"));
        }
        cause = inner.or_else(|| error.source());
    }
    None
}
