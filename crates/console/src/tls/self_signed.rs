use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};

use super::{TlsError, TlsFiles, identity::file};

/// A certificate of our own in `dir` for these names and addresses, made if there is none.
///
/// It and its key are one file, so that a crash leaves both or neither: `identity.pem`, which only
/// we may read. `certificate.pem` beside it is the certificate alone, for clients to trust.
pub fn make(dir: &Path, names: &[String]) -> Result<TlsFiles, TlsError> {
    let identity = dir.join("identity.pem");
    let there = identity.try_exists().map_err(|e| file("look for", &identity, e))?;
    if !there {
        fs::create_dir_all(dir).map_err(|e| file("make", dir, e))?;
        let (certificate, key) = sign(names)?;
        let public = dir.join("certificate.pem");
        write(&public, 0o644, &certificate).map_err(|e| file("write", &public, e))?;
        write(&identity, 0o600, &format!("{key}{certificate}"))
            .map_err(|e| file("write", &identity, e))?;
    }
    Ok(TlsFiles { certificate: identity.clone(), key: identity })
}

/// A certificate and its key (ECDSA P-256) as PEM. rcgen's default lifetime outlives the appliance:
/// clients pin it, and one that ends would lock them out without making anything safer.
fn sign(names: &[String]) -> Result<(String, String), TlsError> {
    let refused = |e: rcgen::Error| TlsError::refused(format!("cannot make a certificate: {e}"));
    let mut params = CertificateParams::new(names).map_err(refused)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Rekindle, self-signed");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(refused)?;
    let certificate = params.self_signed(&key).map_err(refused)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Whole under another name first, then renamed: a crash leaves the old file or the new one.
fn write(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Tls;
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_for_us_alone() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let files = make(dir.path(), &names).unwrap();
        let first = Tls::open(files.clone()).unwrap().fingerprint();
        assert_eq!(make(dir.path(), &names).unwrap(), files);
        assert_eq!(Tls::open(files.clone()).unwrap().fingerprint(), first);
        assert_eq!(fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
        let public = fs::read_to_string(dir.path().join("certificate.pem")).unwrap();
        assert!(public.contains("CERTIFICATE") && !public.contains("PRIVATE"), "{public}");
        assert_eq!(first.to_string().len(), 95);
    }

    #[test]
    fn a_key_that_all_may_read_or_that_is_anothers_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["localhost".to_owned()];
        let one = make(&dir.path().join("one"), &names).unwrap();
        let two = make(&dir.path().join("two"), &names).unwrap();
        let mixed = TlsFiles { certificate: one.certificate.clone(), key: two.key.clone() };
        assert!(Tls::open(mixed).is_err());
        fs::set_permissions(&one.key, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Tls::open(one).err().unwrap().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
