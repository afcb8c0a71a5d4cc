use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use rekindle_cache::RingKey;
use rekindle_console::AdminToken;

use super::Config;

/// The largest file that is read as a secret.
const SECRET_MAX: u64 = 4096;
/// The shortest secret that a key is made of: 128 bits in hexadecimal digits.
const KEY_MIN: usize = 32;

/// The admin token, and where it stands.
pub(crate) struct AdminTokenFile {
    pub(crate) token: AdminToken,
    pub(crate) path: PathBuf,
}

/// The admin token: from the configured file or credential, else from the state directory, where
/// it is made at the first start.
pub(crate) fn admin_token(config: &Config) -> anyhow::Result<AdminTokenFile> {
    let console = &config.console;
    let path = match (&console.token_file, &console.token_credential) {
        (Some(file), _) => file.clone(),
        (None, Some(name)) => credential(name)?,
        (None, None) => {
            let path = config.state_dir.join("admin-token");
            make_token(&path).with_context(|| format!("make {}", path.display()))?;
            path
        }
    };
    let text = read_file(&path)?;
    let token =
        AdminToken::new(&text).with_context(|| format!("use the token in {}", path.display()))?;
    Ok(AdminTokenFile { token, path })
}

/// A secret from a file, or by name from systemd's credentials, without the newline at its end.
pub(crate) fn read_secret(file: Option<&Path>, name: Option<&str>) -> anyhow::Result<String> {
    let path = match (file, name) {
        (Some(file), _) => file.to_owned(),
        (None, Some(name)) => credential(name)?,
        (None, None) => bail!("no file and no credential is named"),
    };
    let text = read_file(&path)?;
    let text = text.trim_end_matches(['\r', '\n']);
    ensure!(!text.is_empty(), "{} is empty", path.display());
    Ok(text.to_owned())
}

/// What the cache's ring is encrypted with, if it is: made of all that the secret says.
pub(crate) fn ring_key(config: &Config) -> anyhow::Result<Option<RingKey>> {
    let (file, name) = (config.cache.key_file.as_deref(), config.cache.key_credential.as_deref());
    if file.is_none() && name.is_none() {
        return Ok(None);
    }
    let secret = read_secret(file, name).context("read the key of the cache")?;
    ensure!(
        secret.len() >= KEY_MIN,
        "the key of the cache is shorter than {KEY_MIN} characters: make one with `openssl rand -hex 32`"
    );
    let digest = ring::digest::digest(&ring::digest::SHA256, secret.as_bytes());
    let mut key = [0; 32];
    key.copy_from_slice(digest.as_ref());
    Ok(Some(RingKey::new(key)))
}

pub(super) fn credential(name: &str) -> anyhow::Result<PathBuf> {
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    ensure!(plain, "credential name {name:?} is no file name");
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY").with_context(|| {
        format!(
            "credential {name:?} needs systemd: set LoadCredential={name}:/path in the unit, or use a file"
        )
    })?;
    Ok(PathBuf::from(dir).join(name))
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let meta = fs::metadata(path).with_context(|| format!("read the secret {shown}"))?;
    ensure!(meta.is_file(), "{shown} is not a file");
    ensure!(meta.len() <= SECRET_MAX, "{shown} is longer than {SECRET_MAX} bytes");
    ensure!(
        meta.permissions().mode() & 0o007 == 0,
        "everyone on this machine may read {shown}: chmod 600 it, and change the secret"
    );
    fs::read_to_string(path).with_context(|| format!("read the secret {shown}"))
}

/// Makes a token unless there is one. Written whole under another name first, so that a crash
/// leaves no half token.
fn make_token(path: &Path) -> anyhow::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    writeln!(file, "{}", hex::encode(secret))?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_for_us() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { state_dir: dir.path().into(), ..Config::default() };
        let first = admin_token(&config).unwrap();
        let text = fs::read_to_string(&first.path).unwrap();
        assert_eq!(text.trim().len(), 64);
        assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o600);
        admin_token(&config).unwrap();
        assert_eq!(fs::read_to_string(&first.path).unwrap(), text);
    }

    #[test]
    fn a_secret_that_all_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "hunter2\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let error = read_secret(Some(&file), None).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_secret(Some(&file), None).unwrap(), "hunter2");
        assert!(read_secret(None, Some("../x")).is_err());
    }
}
