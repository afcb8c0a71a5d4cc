use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Gate;

/// How long one attempt may take, and the least time between two.
const ATTEMPT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

impl Gate {
    /// Waits until it is open. `Err` says why the last attempt failed.
    pub(super) async fn pass(&self) -> Result<(), String> {
        let Self::Port { host, port, within_seconds } = self;
        let end = Instant::now() + Duration::from_secs(*within_seconds);
        loop {
            let began = Instant::now();
            let attempt = TcpStream::connect((host.as_str(), *port));
            let why = match timeout_at((began + ATTEMPT).min(end), attempt).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            let next = began + PAUSE;
            if next >= end {
                return Err(format!("{host} port {port}, waited for {within_seconds} s: {why}"));
            }
            sleep_until(next).await;
        }
    }
}
