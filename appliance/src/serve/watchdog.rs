//! Tells systemd that the appliance lives. Each beat stands for an answer of the NFS server, not for a timer that runs.
//!
//! NFS procedure 0 is asked over a new connection, so that listening, the threads of connections and the reading of calls
//! are all in the answer. The connection that answered last is kept: where new ones are refused, because their bound is
//! reached, it answers instead. A new connection on which nothing is said is no answer, whatever the kept one would say.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// Beats that fit into the time after which systemd acts. Two of them may fail.
const BEATS: u32 = 3;
/// NULL of NFS version 3 with no credentials (RFC 5531 section 9): last fragment, 40 bytes; then the xid, CALL, and so on.
const CALL: [u32; 11] = [0x8000_0028, 1, 0, 2, 100_003, 3, 0, 0, 0, 0, 0];
/// Its answer: last fragment, 24 bytes; the xid, REPLY, accepted, no verifier, success.
const REPLY: [u32; 7] = [0x8000_0018, 1, 1, 0, 0, 0, 0];

/// Beats until it is dropped; `None` where systemd did not ask for it (`WatchdogSec=`).
pub(super) fn start(nfs: SocketAddr) -> Option<AbortOnDropHandle<()>> {
    let mut micros = 0;
    let asked = sd_notify::watchdog_enabled(false, &mut micros) && micros > 0;
    let every = Duration::from_micros(micros) / BEATS;
    asked.then(|| AbortOnDropHandle::new(tokio::spawn(beat(reachable(nfs), every))))
}

async fn beat(nfs: SocketAddr, every: Duration) {
    let mut beats = interval(every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept = None;
    loop {
        beats.tick().await;
        match ask(nfs, kept.take(), every).await {
            Answer::Given(connection) => {
                kept = Some(connection);
                if let Err(error) = sd_notify::notify(false, &[NotifyState::Watchdog]) {
                    tracing::warn!(%error, "cannot tell systemd that the NFS server answers");
                }
            }
            Answer::Refused => tracing::warn!("the NFS server takes no connection of its watchdog"),
            Answer::Silent => tracing::warn!("the NFS server does not answer its watchdog"),
        }
    }
}

/// What came of a question.
#[derive(Debug)]
enum Answer {
    /// The right one, over this connection.
    Given(TcpStream),
    /// There was no connection, or it was closed before an answer.
    Refused,
    /// None in time, or a wrong one.
    Silent,
}

async fn ask(nfs: SocketAddr, kept: Option<TcpStream>, patience: Duration) -> Answer {
    let fresh = async { question(TcpStream::connect(nfs).await?).await };
    match (judged(fresh, patience).await, kept) {
        (Answer::Refused, Some(kept)) => judged(question(kept), patience).await,
        (answer, _) => answer,
    }
}

async fn judged(
    question: impl Future<Output = io::Result<Option<TcpStream>>>,
    patience: Duration,
) -> Answer {
    match timeout(patience, question).await {
        Ok(Ok(Some(connection))) => Answer::Given(connection),
        Ok(Err(_)) => Answer::Refused,
        Ok(Ok(None)) | Err(_) => Answer::Silent,
    }
}

/// Asks; `None` if the answer is wrong.
async fn question(mut connection: TcpStream) -> io::Result<Option<TcpStream>> {
    connection.write_all(&bytes(&CALL)).await?;
    let mut reply = [0; 4 * REPLY.len()];
    connection.read_exact(&mut reply).await?;
    Ok((reply[..] == bytes(&REPLY)[..]).then_some(connection))
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// Where a server is asked that listens on `address`: one that listens everywhere, on the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    /// What a server of the test does with each of its connections, in turn.
    #[derive(Clone, Copy)]
    enum Does {
        Answer,
        AnswerWrongly,
        Close,
        SayNothing,
    }

    async fn server(script: Vec<Does>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for does in script {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(connection, does));
            }
            std::future::pending::<()>().await;
        });
        address
    }

    async fn serve(mut connection: TcpStream, does: Does) {
        let mut call = [0; 4 * CALL.len()];
        loop {
            if matches!(does, Does::Close) || connection.read_exact(&mut call).await.is_err() {
                return;
            }
            let mut reply = bytes(&REPLY);
            match does {
                Does::Answer => {}
                Does::AnswerWrongly => *reply.last_mut().unwrap() = 1,
                Does::Close | Does::SayNothing => std::future::pending().await,
            }
            connection.write_all(&reply).await.unwrap();
        }
    }

    #[tokio::test]
    async fn only_the_right_answer_counts() {
        for (does, expected) in [
            (Does::Answer, "Given"),
            (Does::AnswerWrongly, "Silent"),
            (Does::Close, "Refused"),
            (Does::SayNothing, "Silent"),
        ] {
            let found = ask(server(vec![does]).await, None, PATIENCE).await;
            assert!(format!("{found:?}").starts_with(expected), "{found:?}, not {expected}");
        }
    }

    #[tokio::test]
    async fn the_kept_connection_answers_where_new_ones_are_refused_and_not_where_they_hang() {
        for (second, given) in [(Does::Close, true), (Does::SayNothing, false)] {
            let nfs = server(vec![Does::Answer, second]).await;
            let Answer::Given(kept) = ask(nfs, None, PATIENCE).await else { panic!("no answer") };
            let found = ask(nfs, Some(kept), PATIENCE).await;
            assert_eq!(matches!(found, Answer::Given(_)), given, "{found:?}");
        }
    }

    #[test]
    fn a_server_that_listens_everywhere_is_asked_on_the_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:2049", "127.0.0.1:2049"),
            ("[::]:2049", "[::1]:2049"),
            ("192.0.2.5:2049", "192.0.2.5:2049"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
