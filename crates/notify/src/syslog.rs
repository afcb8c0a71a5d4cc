//! A line as RFC 5424 has it, over UDP (RFC 5426), TCP (RFC 6587, octets counted) or a socket of this machine.
//!
//! Syslog answers nothing. Over TCP a line counts as delivered when the system has taken it, over UDP when it is sent.

use std::fmt;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, lookup_host};

use crate::{Event, NotifyError, Severity};

/// The enterprise number that RFC 5612 sets aside: what stands under it is named in our documents.
const STRUCTURED: &str = "rekindle@32473";

/// Whose line it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named in RFC 5424, section 6.2.1")]
pub enum Facility {
    User = 1,
    #[default]
    Daemon = 3,
    Local0 = 16,
    Local1,
    Local2,
    Local3,
    Local4,
    Local5,
    Local6,
    Local7,
}

/// Where lines go: `udp://HOST:PORT`, `tcp://HOST:PORT` or `unix:/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SyslogAddress {
    /// A datagram each.
    Udp(String),
    /// A connection each.
    Tcp(String),
    /// A datagram to a socket of this machine each: `/dev/log`.
    Unix(PathBuf),
}

impl FromStr for SyslogAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |host: &str| {
            let port = host.rsplit_once(':').filter(|(name, _)| !name.is_empty());
            port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0))
        };
        match (text.split_once("://"), text.strip_prefix("unix:")) {
            (Some(("udp", host)), _) if port(host) => Ok(Self::Udp(host.to_owned())),
            (Some(("tcp", host)), _) if port(host) => Ok(Self::Tcp(host.to_owned())),
            (_, Some(path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            _ => Err(format!("{text:?} is not udp://HOST:PORT, tcp://HOST:PORT or unix:/PATH")),
        }
    }
}

impl TryFrom<String> for SyslogAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SyslogAddress> for String {
    fn from(address: SyslogAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(host) => write!(f, "udp://{host}"),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A syslog server.
pub struct Syslog {
    address: SyslogAddress,
    facility: Facility,
}

impl Syslog {
    /// Lines of `facility` to `address`.
    pub fn new(address: SyslogAddress, facility: Facility) -> Self {
        Self { address, facility }
    }

    pub(crate) fn to(&self) -> String {
        self.address.to_string()
    }

    pub(crate) async fn send(&self, event: &Event) -> Result<String, NotifyError> {
        let line = line(event, self.facility);
        let sent = match &self.address {
            SyslogAddress::Udp(host) => udp(host, &line).await,
            SyslogAddress::Tcp(host) => tcp(host, &line).await,
            SyslogAddress::Unix(path) => unix(path, &line).await,
        };
        sent.map_err(|e| NotifyError::Undelivered(format!("{}: {e}", self.address)))?;
        Ok("sent; syslog answers nothing".to_owned())
    }
}

async fn udp(host: &str, line: &str) -> std::io::Result<()> {
    let to = lookup_host(host).await?.next();
    let to = to.ok_or_else(|| std::io::Error::other("the name has no address"))?;
    let socket = match to.is_ipv4() {
        true => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?,
        false => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await?,
    };
    socket.send_to(line.as_bytes(), to).await.map(drop)
}

async fn tcp(host: &str, line: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(format!("{} {line}", line.len()).as_bytes()).await?;
    stream.shutdown().await
}

async fn unix(path: &std::path::Path, line: &str) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.send(line.as_bytes()).await.map(drop)
}

/// `<PRI>1 TIMESTAMP HOST rekindle PID KIND [DATA] BOM TEXT`
fn line(event: &Event, facility: Facility) -> String {
    let severity = match event.severity {
        Severity::Error => 3,
        Severity::Warning => 4,
        Severity::Info => 6,
    };
    let priority = facility as u8 * 8 + severity;
    let at = event.at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ");
    let host = printable(&event.appliance, 255);
    let process = std::process::id();
    let kind = event.kind.as_str();
    let data = data(event);
    format!(
        "<{priority}>1 {at} {host} rekindle {process} {kind} [{STRUCTURED}{data}] \u{feff}{}",
        event.summary
    )
}

fn data(event: &Event) -> String {
    let about = &event.about;
    let job = about.job.as_ref();
    let fields = [
        ("id", Some(event.id.clone())),
        ("job", job.map(|job| job.id.to_string())),
        ("vm", job.map(|job| job.vm.clone())),
        ("name", job.map(|job| job.name.clone())),
        ("batch", about.batch.as_ref().map(ToString::to_string)),
        ("repository", about.repository.clone()),
        ("alarm_percent", about.alarm_percent.map(|percent| percent.to_string())),
    ];
    let known = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.map(|(name, value)| format!(" {name}=\"{}\"", escaped(&value))).collect()
}

/// A value as section 6.3.3 has it.
fn escaped(value: &str) -> String {
    let line = crate::event::one_line(value, 200);
    line.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]")
}

/// A header field: no spaces, ASCII only.
fn printable(text: &str, most: usize) -> String {
    let plain: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if plain.is_empty() { "-".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{About, EventKind, News};

    fn event() -> Event {
        let about = About { repository: Some("a\"b]c\\d\n".into()), ..About::default() };
        let news = News::new(EventKind::RepositoryAway, "it\nis away".into(), about);
        Event { id: "0123".into(), at: jiff::Timestamp::UNIX_EPOCH, ..news.into_event("my host") }
    }

    #[test]
    fn a_line_is_as_the_standard_has_it() {
        let pid = std::process::id();
        let expected = format!(
            "<132>1 1970-01-01T00:00:00.000000Z myhost rekindle {pid} repository_away \
             [rekindle@32473 id=\"0123\" repository=\"a\\\"b\\]c\\\\d \"] \u{feff}it is away"
        );
        assert_eq!(line(&event(), Facility::Local0), expected);
    }

    #[test]
    fn an_address_is_read_and_written_alike() {
        for text in ["udp://192.0.2.1:514", "tcp://[::1]:601", "unix:/dev/log"] {
            assert_eq!(text.parse::<SyslogAddress>().unwrap().to_string(), text);
        }
        for text in ["udp://host", "udp://:514", "tcp://host:0", "unix:dev/log", "/dev/log", ""] {
            assert!(text.parse::<SyslogAddress>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_line_arrives_by_each_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let expected = line(&event(), Facility::Daemon);
        let mut buffer = vec![0; 4096];

        let unix = UnixDatagram::bind(&path).unwrap();
        let to = SyslogAddress::Unix(path);
        Syslog::new(to, Facility::Daemon).send(&event()).await.unwrap();
        let len = unix.recv(&mut buffer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer[..len]), expected);

        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = SyslogAddress::Udp(udp.local_addr().unwrap().to_string());
        Syslog::new(to, Facility::Daemon).send(&event()).await.unwrap();
        let len = udp.recv(&mut buffer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer[..len]), expected);

        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = SyslogAddress::Tcp(tcp.local_addr().unwrap().to_string());
        let syslog = Syslog::new(to, Facility::Daemon);
        let event = event();
        let (sent, mut taken) =
            tokio::join!(syslog.send(&event), async { tcp.accept().await.unwrap().0 });
        sent.unwrap();
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut taken, &mut text).await.unwrap();
        assert_eq!(text, format!("{} {expected}", expected.len()));
    }
}
