//! The listening socket: how many connections there may be, and how long one may dawdle.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep, sleep_until},
};

/// Connections open at once; the next one waits in the kernel's queue. At about 64 KiB of buffers
/// each this bounds them at 16 MiB.
const CONNECTIONS: usize = 256;
/// A connection to which nothing could be written for this long is closed. An answer comes within
/// the request timeout and an event stream writes every 15 s, so only an idle client, one that
/// sends its request byte by byte, or one that does not read, is hit.
const QUIET: Duration = Duration::from_secs(75);
/// Pause after `accept` failed (out of descriptors, mostly) before it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The address a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) SocketAddr);

/// A TCP listener that bounds its connections and closes quiet ones.
pub(crate) struct BoundedListener {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl BoundedListener {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, permits: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (Connection::new(stream, permit), address),
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a console connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, BoundedListener>> for ClientAddress {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// One connection, with its permit and the time at which it is too quiet.
pub(crate) struct Connection {
    stream: TcpStream,
    quiet: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit) -> Self {
        // Fails only when the peer has gone already, which the first read will tell.
        let _ = stream.set_nodelay(true);
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

impl AsyncRead for Connection {
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

impl AsyncWrite for Connection {
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
