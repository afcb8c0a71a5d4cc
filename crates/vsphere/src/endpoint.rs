//! Where a vCenter or ESXi is, and how it is trusted.

use std::time::Duration;

use reqwest::Url;

use crate::{Secret, Thumbprint, VsphereError};

/// A vCenter or a standalone ESXi, and who logs in.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `https://vcenter.example/sdk`; a name or address alone will do. Plain `http` only for loopback.
    pub url: String,
    /// The user, such as `rekindle@vsphere.local`.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// How the server's certificate is checked. There is no way to leave it unchecked.
    pub trust: Trust,
    /// How long calls take at most, and how long an unreachable server is waited for.
    pub limits: Limits,
}

impl Endpoint {
    /// An endpoint that is trusted as the system trusts, with the default limits.
    pub fn new(url: impl Into<String>, user: impl Into<String>, password: Secret) -> Self {
        let (url, user) = (url.into(), user.into());
        Self { url, user, password, trust: Trust::System, limits: Limits::default() }
    }

    /// The URL of the API. Passwords go over plain HTTP only to this machine itself.
    pub(crate) fn api_url(&self) -> Result<Url, VsphereError> {
        let bad = |reason: String| VsphereError::BadEndpoint { reason };
        let text = self.url.trim();
        let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let mut url = Url::parse(&full).map_err(|e| bad(format!("`{text}`: {e}")))?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad(format!("`{text}` has no host")));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("user and password do not belong into the URL".into()));
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&url) => {}
            other => return Err(bad(format!("{other} is not allowed, use https"))),
        }
        if url.path() == "/" {
            url.set_path("/sdk");
        }
        Ok(url)
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// How a server's certificate is checked.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By the system's certificate authorities, for the name in the URL.
    System,
    /// It must be the very certificate with this thumbprint; name and dates do not matter then.
    Thumbprint(Thumbprint),
    /// By these certificate authorities alone (PEM), for the name in the URL.
    Ca(Vec<u8>),
}

/// How long things take at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until one call is answered.
    pub call: Duration,
    /// How long an idempotent operation is repeated while the server cannot be reached.
    pub patience: Duration,
    /// Until a task other than a migration has ended.
    pub task: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            call: Duration::from_secs(60),
            patience: Duration::from_secs(120),
            task: Duration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Secret};

    fn url(text: &str) -> Result<String, String> {
        let endpoint = Endpoint::new(text, "u", Secret::new("p"));
        endpoint.api_url().map(String::from).map_err(|e| e.to_string())
    }

    #[test]
    fn urls_are_completed() {
        for (given, want) in [
            ("vc.example", "https://vc.example/sdk"),
            ("vc.example:8443", "https://vc.example:8443/sdk"),
            ("https://10.0.0.1/", "https://10.0.0.1/sdk"),
            ("https://vc/other", "https://vc/other"),
            ("http://127.0.0.1:80/sdk", "http://127.0.0.1/sdk"),
            ("http://[::1]:8080", "http://[::1]:8080/sdk"),
        ] {
            assert_eq!(url(given).as_deref(), Ok(want), "{given}");
        }
    }

    #[test]
    fn unsafe_or_meaningless_urls_are_refused() {
        for given in ["http://vc.example/sdk", "ftp://vc", "https://u:p@vc/", "https://", "", "::"]
        {
            assert!(url(given).is_err(), "{given}");
        }
    }

    #[test]
    fn debug_does_not_show_the_password() {
        let endpoint = Endpoint::new("vc", "u", Secret::new("hunter2"));
        assert!(!format!("{endpoint:?}").contains("hunter2"));
    }
}
