//! A mail over SMTP, with STARTTLS (RFC 3207) unless it is configured otherwise.

mod message;
mod session;

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Event, NotifyError};
use message::Address;
use session::Session;

/// How the connection is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// From its beginning, usually on port 465.
    On,
    /// After STARTTLS, which must work; usually on port 587.
    Starttls,
    /// Not at all, usually on port 25.
    Off,
}

impl MailTls {
    /// The usual port.
    pub fn port(self) -> u16 {
        match self {
            Self::On => 465,
            Self::Starttls => 587,
            Self::Off => 25,
        }
    }
}

/// Who logs in to the mail server.
pub struct MailLogin {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for MailLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Where mails go.
pub struct MailSettings {
    /// The server's name or address.
    pub server: String,
    /// Its port; the usual one when absent.
    pub port: Option<u16>,
    /// How the connection is kept from others.
    pub tls: MailTls,
    /// PEM text with the certificates that are trusted, and no others.
    pub ca: Option<Vec<u8>>,
    /// Who logs in.
    pub login: Option<MailLogin>,
    /// The sender.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
}

/// A mail server, and who gets mail through it.
pub struct Mail {
    server: String,
    port: u16,
    security: Security,
    login: Option<MailLogin>,
    from: Address,
    to: Vec<Address>,
}

/// What stands between us and those who listen.
enum Security {
    On(Tls),
    Starttls(Tls),
    Off,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Mail {
    /// A password is never sent over a connection that others can read.
    pub fn new(settings: MailSettings) -> Result<Self, NotifyError> {
        if settings.login.is_some() && settings.tls == MailTls::Off {
            let why =
                "a mail server with a user needs tls: the password would be sent in the clear";
            return Err(NotifyError::refused(why));
        }
        if settings.to.is_empty() {
            return Err(NotifyError::refused("nobody gets mail: `to` is empty"));
        }
        let security = match settings.tls {
            MailTls::On => Security::On(tls(&settings)?),
            MailTls::Starttls => Security::Starttls(tls(&settings)?),
            MailTls::Off => Security::Off,
        };
        Ok(Self {
            port: settings.port.unwrap_or(settings.tls.port()),
            server: settings.server,
            security,
            login: settings.login,
            from: settings.from.parse()?,
            to: settings.to.iter().map(|to| to.parse()).collect::<Result<_, _>>()?,
        })
    }

    /// Refuses what is no mail address.
    pub fn check_address(text: &str) -> Result<(), NotifyError> {
        text.parse::<Address>().map(drop)
    }

    pub(crate) fn to(&self) -> String {
        let to: Vec<_> = self.to.iter().map(|to| to.mailbox.as_str()).collect();
        format!("{} by {}:{}", to.join(", "), self.server, self.port)
    }

    pub(crate) async fn send(&self, event: &Event) -> Result<String, NotifyError> {
        let stream = TcpStream::connect((self.server.as_str(), self.port)).await;
        let stream = stream.map_err(|e| NotifyError::undelivered(&e))?;
        match &self.security {
            Security::On(tls) => {
                self.deliver(Session::greeted(tls.wrap(stream).await?).await?, event).await
            }
            Security::Starttls(tls) => {
                let mut plain = Session::greeted(stream).await?;
                plain.hello().await?;
                plain.say("STARTTLS", 220).await?;
                // What the server said before TLS is forgotten: anybody may have said it.
                let secure = Session::begun(tls.wrap(plain.into_inner()?).await?);
                self.deliver(secure, event).await
            }
            Security::Off => self.deliver(Session::greeted(stream).await?, event).await,
        }
    }

    async fn deliver<S>(
        &self,
        mut session: Session<S>,
        event: &Event,
    ) -> Result<String, NotifyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let offers = session.hello().await?;
        if let Some(login) = &self.login {
            session.log_in(&offers, login).await?;
        }
        session.say(&format!("MAIL FROM:<{}>", self.from.mailbox), 250).await?;
        let mut refused = Vec::new();
        for to in &self.to {
            if let Err(error) = session.recipient(&to.mailbox).await {
                refused.push(format!("{}: {error}", to.mailbox));
            }
        }
        if refused.len() == self.to.len() {
            return Err(NotifyError::Undelivered(refused.join("; ")));
        }
        session.say("DATA", 354).await?;
        let message = message::message(event, &self.from, &self.to);
        let answer = session.say(&(message + "\r\n."), 250).await?;
        session.leave().await;
        for refusal in refused {
            // The others have it; tried again they would have it twice.
            tracing::warn!("the mail server refuses a recipient: {refusal}");
        }
        Ok(answer)
    }
}

impl Tls {
    async fn wrap(
        &self,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, NotifyError> {
        let wrapped = self.connector.connect(self.name.clone(), stream).await;
        wrapped.map_err(|e| NotifyError::Undelivered(format!("TLS with the mail server: {e}")))
    }
}

fn tls(settings: &MailSettings) -> Result<Tls, NotifyError> {
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        Some(pem) => {
            let bad = |e: &dyn fmt::Display| NotifyError::refused(format!("the CA file: {e}"));
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
            }
            if roots.is_empty() {
                return Err(bad(&"it has no certificate in it"));
            }
        }
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    let bad = |e: &dyn fmt::Display| NotifyError::refused(format!("TLS to the mail server: {e}"));
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(settings.server.clone()).map_err(|e| bad(&e))?;
    Ok(Tls { connector: TlsConnector::from(Arc::new(config)), name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> MailSettings {
        MailSettings {
            server: "mail.example.org".into(),
            port: None,
            tls: MailTls::Off,
            ca: None,
            login: None,
            from: "Rekindle <rekindle@example.org>".into(),
            to: vec!["admin@example.org".into()],
        }
    }

    #[test]
    fn a_password_is_not_sent_in_the_clear_and_bad_settings_are_refused() {
        assert_eq!(Mail::new(settings()).unwrap().to(), "admin@example.org by mail.example.org:25");
        let login = || Some(MailLogin { user: "u".into(), password: "hunter22".into() });
        assert!(!format!("{:?}", login()).contains("hunter22"));
        assert!(Mail::new(MailSettings { login: login(), ..settings() }).is_err());
        let tls = MailTls::Starttls;
        assert!(Mail::new(MailSettings { login: login(), tls, ..settings() }).is_ok());
        assert!(Mail::new(MailSettings { to: vec![], ..settings() }).is_err());
        assert!(Mail::new(MailSettings { from: "nobody".into(), ..settings() }).is_err());
        let ca = Some(b"no certificate".to_vec());
        assert!(Mail::new(MailSettings { ca, tls, ..settings() }).is_err());
    }
}
