//! The listening socket: how many connections there may be, how they are encrypted, and how long one
//! may dawdle.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{Tls, plain};

/// Connections open at once; the next one waits in the kernel's queue. At about 64 KiB of buffers
/// each this bounds them at 16 MiB.
const CONNECTIONS: usize = 256;
/// A connection to which nothing could be written for this long is closed. An answer comes within
/// the request timeout and an event stream writes every 15 s, so only an idle client, one that
/// sends its request byte by byte, or one that does not read, is hit.
const QUIET: Duration = Duration::from_secs(75);
/// Until the first byte has come and, with TLS, the handshake is done.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Until a request's head is there. An idle connection is closed after it too.
const HEAD: Duration = Duration::from_secs(30);
/// The largest head of a request, in bytes and header lines. Browsers send below 4 KiB and 40 lines.
const HEAD_BYTES: usize = 32 << 10;
const HEAD_LINES: usize = 64;
/// The first byte of a TLS handshake (RFC 8446, section 5.1), which no HTTP request begins with.
const HANDSHAKE_RECORD: u8 = 0x16;
/// Pause after `accept` failed (out of descriptors, mostly) before it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The address a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) SocketAddr);

/// Answers on `listener` with `router`, encrypted if there is a certificate, until `shutdown`; then
/// what is under way is answered.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<Tls>>,
    shutdown: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let door = Door { router, tls, shutdown: shutdown.clone() };
    let mut connections = JoinSet::new();
    loop {
        let (stream, address, permit) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        connections.spawn(door.clone().answer(stream, address, permit));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let permit = Arc::clone(permits).acquire_owned().await.expect("never closed");
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, address, permit),
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept a console connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What every connection is answered with.
#[derive(Clone)]
struct Door {
    router: Router,
    tls: Option<Arc<Tls>>,
    shutdown: CancellationToken,
}

impl Door {
    /// Serves one connection to its end. Why it ended is its client's business: scanners and closed
    /// laptops are no news.
    async fn answer(self, stream: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) {
        // Fails only when the peer has gone already, which the first read will tell.
        let _ = stream.set_nodelay(true);
        let opened = tokio::select! {
            () = self.shutdown.cancelled() => return,
            opened = timeout(HANDSHAKE, self.open(stream)) => opened,
        };
        let ended = match opened {
            Ok(Ok(Opened::Plain(stream))) => {
                self.http(Connection::new(stream, permit), self.router.clone(), address).await
            }
            Ok(Ok(Opened::Tls(stream))) => {
                self.http(Connection::new(*stream, permit), self.router.clone(), address).await
            }
            Ok(Ok(Opened::Stray(stream))) => {
                self.http(Connection::new(stream, permit), plain::router(), address).await
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no handshake in time".to_owned()),
        };
        if let Err(error) = ended {
            tracing::debug!(client = %address, error, "a console connection ended");
        }
    }

    async fn open(&self, stream: TcpStream) -> io::Result<Opened> {
        let Some(tls) = &self.tls else { return Ok(Opened::Plain(stream)) };
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
            return Ok(Opened::Stray(stream));
        }
        let stream = TlsAcceptor::from(tls.config()).accept(stream).await?;
        Ok(Opened::Tls(Box::new(stream)))
    }

    async fn http<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: Connection<S>,
        router: Router,
        address: SocketAddr,
    ) -> Result<(), String> {
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(ClientAddress(address)));
            let router = router.clone();
            async move {
                Ok::<_, Infallible>(match router.oneshot(request.map(Body::new)).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                })
            }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD);
        http.max_buf_size(HEAD_BYTES).max_headers(HEAD_LINES);
        let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = serving.as_mut() => return ended.map_err(|e| e.to_string()),
            () = self.shutdown.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        serving.await.map_err(|e| e.to_string())
    }
}

/// A connection whose first byte has been seen.
enum Opened {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Plain HTTP where TLS is spoken.
    Stray(TcpStream),
}

/// One connection, with its permit and the time at which it is too quiet.
struct Connection<S> {
    stream: S,
    quiet: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    fn new(stream: S, permit: OwnedSemaphorePermit) -> Self {
        let quiet = Box::pin(sleep_until(Instant::now() + QUIET));
        Self { stream, quiet, _permit: permit }
    }

    fn too_quiet(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.quiet.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn wrote(&mut self) {
        self.quiet.as_mut().reset(Instant::now() + QUIET);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.too_quiet(cx).map(Err),
            ready => ready,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Pending => self.too_quiet(cx).map(Err),
            ready => {
                self.wrote();
                ready
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
