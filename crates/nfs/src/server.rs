//! The server: its sockets and its life.

mod clients;
mod connection;
mod lanes;
mod listen;
mod memory;
mod output;
mod penalties;
mod rpcbind;
mod shared;
mod spin;
mod waiting;

use crate::config::{NfsConfig, Portmap};
use crate::drc::{Drc, WriteLog};
use crate::export::cookie::CookieKey;
use crate::export::{OpenFiles, Shared};
use crate::handle::HandleKey;
use crate::service::{Counters, Outcome, Peer, Service};
use crate::store::Store;
use crate::{Exports, NfsError};
use clients::Clients;
use connection::{Connection, End};
use lanes::Lanes;
use memory::CallMemory;
use parking_lot::RwLock;
use penalties::Penalties;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const SPACE_EVERY: Duration = Duration::from_secs(2);
/// After a failed accept (no more file descriptors): others may free some meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The longest call by UDP: a portmapper's is of 56 bytes.
const LONGEST_DATAGRAM: usize = 1024;

/// Where the server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// NFS and MOUNT.
    pub nfs: SocketAddr,
    /// The portmapper, if it is ours.
    pub portmap: Option<SocketAddr>,
}

/// Counters of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStats {
    /// Connections that are open.
    pub connections: u64,
    /// Calls that came.
    pub calls: u64,
    /// Calls that wait for data or a disk.
    pub waiting_calls: u64,
    /// Calls that came again and got their first reply.
    pub replayed: u64,
    /// Calls of addresses that may not make them.
    pub refused: u64,
    /// Records that could not be read as calls.
    pub garbage: u64,
    /// READs that wait for a repository.
    pub held_reads: u64,
}

/// The NFS server. Its clones are the same.
#[derive(Clone)]
pub struct NfsServer {
    shared: Arc<shared::Shared>,
    clients: Clients,
    bound: Arc<watch::Sender<Option<Bound>>>,
    next_connection: Arc<AtomicU64>,
}

impl NfsServer {
    /// Opens the server's own records in `dir`, making them at first use. Listens to nothing yet. Blocks.
    pub fn open(dir: &Path, config: NfsConfig) -> Result<Self, NfsError> {
        let store = Store::open(dir)?;
        let word = |purpose: &str| -> u64 {
            store.key(purpose)[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
        };
        let mut random = [0; 12];
        getrandom::fill(&mut random)
            .map_err(|e| NfsError::io("draw a verifier")(std::io::Error::other(e.to_string())))?;
        let (verifier, instance) = random.split_at(8);
        let limits = &config.limits;
        let store_id = word("store id");
        let call_key = store.key("call");
        let exports = Exports::new(Arc::new(Shared {
            store_id,
            instance: instance.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)),
            handles: HandleKey::new(store.key("handle")),
            cookies: CookieKey::new(store.key("cookie")),
            open_files: OpenFiles::default(),
            files_per_export: limits.files_per_export,
            space: RwLock::default(),
            store,
        }));
        let service = Service {
            exports,
            drc: Drc::new(limits.replay_bytes),
            write_log: WriteLog::new(),
            write_verifier: verifier.try_into().unwrap_or_default(),
            call_key,
            name_changes: Arc::new(Semaphore::new(limits.name_changes.max(1))),
            read_memory: Arc::new(Semaphore::new((limits.read_bytes / 1024).max(8192))),
            port: AtomicU16::new(config.port),
            counters: Counters::default(),
            config: config.clone(),
        };
        let shared = shared::Shared {
            service: Arc::new(service),
            call_memory: CallMemory::new((limits.write_bytes / 1024).max(8192)),
            waiting: Arc::default(),
            spinner: Arc::default(),
            penalties: Penalties::default(),
            open: AtomicUsize::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
            clients: Clients::default(),
            bound: Arc::new(watch::Sender::new(None)),
            next_connection: Arc::new(AtomicU64::new(1)),
        })
    }

    #[cfg(feature = "testing")]
    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.shared.service
    }

    /// The server's exports.
    pub fn exports(&self) -> Exports {
        self.shared.service.exports.clone()
    }

    /// Where the server listens, once it does.
    pub fn bound(&self) -> watch::Receiver<Option<Bound>> {
        self.bound.subscribe()
    }

    /// The server's counters.
    pub fn stats(&self) -> ServerStats {
        let service = &self.shared.service;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let held = service.exports.all().iter().map(|e| get(&e.stats.held_reads)).sum();
        ServerStats {
            connections: self.clients.count() as u64,
            calls: get(&service.counters.calls),
            waiting_calls: self.shared.waiting.get() as u64,
            replayed: get(&service.counters.replayed),
            refused: get(&service.counters.refused),
            garbage: get(&service.counters.garbage),
            held_reads: held,
        }
    }

    /// Listens and serves until `shutdown`, then lets calls that were taken end, for some seconds at most.
    pub async fn serve(&self, shutdown: CancellationToken) -> Result<(), NfsError> {
        let config = &self.shared.service.config;
        let nfs = listen::tcp(SocketAddr::new(config.listen, config.port))?;
        let local = |listener: &TcpListener| {
            listener.local_addr().map_err(NfsError::io("ask for the port listened on"))
        };
        let address = local(&nfs)?;
        self.shared.service.port.store(address.port(), Ordering::Relaxed);
        let lanes = Arc::new(Lanes::start()?);
        let mut tasks = JoinSet::new();
        let mut portmap = None;
        match config.portmap {
            Portmap::Own => {
                let tcp = listen::tcp(SocketAddr::new(config.listen, config.portmap_port))?;
                let bound = local(&tcp)?;
                let udp = listen::udp(bound)?;
                portmap = Some(bound);
                tasks.spawn(self.clone().accept(tcp, lanes.clone(), shutdown.clone()));
                tasks.spawn(self.clone().datagrams(udp, shutdown.clone()));
            }
            Portmap::Rpcbind => rpcbind::register(config.portmap_port, address.port())
                .await
                .map_err(NfsError::io("register with rpcbind"))?,
            Portmap::None => {}
        }
        tasks.spawn(self.clone().accept(nfs, lanes.clone(), shutdown.clone()));
        tasks.spawn(self.clone().look_at_space(shutdown.clone()));
        self.bound.send_replace(Some(Bound { nfs: address, portmap }));
        tracing::info!(%address, "NFS server listens");
        while let Some(ended) = tasks.join_next().await {
            if let Err(e) = ended {
                tracing::error!("a task of the NFS server came to grief: {e}");
                shutdown.cancel();
            }
        }
        self.bound.send_replace(None);
        if let Some(lanes) = Arc::into_inner(lanes) {
            lanes.end().await;
        }
        if config.portmap == Portmap::Rpcbind
            && let Err(e) = rpcbind::unregister(config.portmap_port, address.port()).await
        {
            tracing::warn!("rpcbind still lists this server: {e}");
        }
        Ok(())
    }

    async fn accept(self, listener: TcpListener, lanes: Arc<Lanes>, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((socket, from)) => {
                        self.admit(socket, from, &lanes, &shutdown, &mut connections);
                    }
                    Err(e) => {
                        tracing::warn!("failed to accept a connection: {e}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next() => {
                    if let Err(e) = ended {
                        tracing::error!("a connection came to grief: {e}");
                    }
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    fn admit(
        &self,
        socket: tokio::net::TcpStream,
        from: SocketAddr,
        lanes: &Lanes,
        shutdown: &CancellationToken,
        connections: &mut JoinSet<()>,
    ) {
        let service = &self.shared.service;
        let limits = &service.config.limits;
        let ip = from.ip().to_canonical();
        let most = (limits.connections, limits.connections_per_client);
        let Some(counted) = self.clients.admit(ip, !service.exports.know(ip), most) else {
            tracing::debug!(client = %from, "too many connections");
            return;
        };
        let unsent = self.shared.unsent_bytes();
        let set_up =
            listen::care_for(&socket, limits.send_seconds, unsent).and_then(|()| socket.into_std());
        let (socket, place) = match (set_up, lanes.place()) {
            (Ok(socket), Some(place)) => (socket, place),
            (Err(e), _) => {
                tracing::debug!(client = %from, "failed to set a connection up: {e}");
                return;
            }
            (_, None) => return,
        };
        let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let calls = Arc::new(AtomicU64::new(0));
        service.drc.opened(connection, calls.clone());
        let peer = Peer { ip, connection, calls };
        let open = shared::Open::new(self.shared.clone());
        let (shared, shutdown) = (self.shared.clone(), shutdown.clone());
        let process = Handle::current();
        let lane = place.handle().clone();
        let serve = async move {
            let (_counted, _open) = (counted, open);
            let _open_in_drc = OpenInDrc(shared.service.clone(), connection);
            if let Some(until) = shared.penalties.pause_until(ip, Instant::now()) {
                let pause = tokio::time::sleep_until(until.into());
                if shutdown.run_until_cancelled(pause).await.is_none() {
                    return;
                }
            }
            match tokio::net::TcpStream::from_std(socket) {
                Ok(socket) => {
                    // Lives until its end is noted: who sees the hang-up may come again at once.
                    let mut connection =
                        Connection::new(shared.clone(), process, place, socket, peer);
                    let end = run(&mut connection, shutdown).await;
                    tracing::debug!(client = %from, "connection ended: {end}");
                    if end.is_offence() {
                        shared.penalties.punish(ip, Instant::now());
                    }
                }
                Err(e) => tracing::debug!(client = %from, "failed to set a connection up: {e}"),
            }
        };
        connections.spawn_on(serve, &lane);
    }

    /// The portmapper by UDP.
    async fn datagrams(self, socket: UdpSocket, shutdown: CancellationToken) {
        let mut buffer = [0; LONGEST_DATAGRAM];
        let service = &self.shared.service;
        loop {
            let received = tokio::select! {
                () = shutdown.cancelled() => return,
                received = socket.recv_from(&mut buffer) => received,
            };
            let Ok((len, from)) = received else { continue };
            let ip = from.ip().to_canonical();
            let peer = Peer { ip, connection: 0, calls: Arc::default() };
            let record = bytes::Bytes::copy_from_slice(&buffer[..len]);
            let mut reply = Vec::new();
            if matches!(service.call(&peer, &record, &mut reply), Outcome::Reply) {
                // UDP promises nothing: who gets no reply asks again.
                let _ = socket.try_send_to(&reply, from);
            }
        }
    }

    async fn look_at_space(self, shutdown: CancellationToken) {
        let mut every = tokio::time::interval(SPACE_EVERY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = every.tick() => {}
            }
            let exports = self.exports();
            // Only a panic in it is lost, and told by its hook.
            let _ = tokio::task::spawn_blocking(move || exports.refresh_space()).await;
        }
    }
}

/// Tells the replay cache that a connection has ended.
struct OpenInDrc(Arc<Service>, u64);

impl Drop for OpenInDrc {
    fn drop(&mut self) {
        self.0.drc.closed(self.1);
    }
}

async fn run(connection: &mut Connection, shutdown: CancellationToken) -> End {
    let mut stop = pin!(shutdown.cancelled());
    let mut stopping = false;
    std::future::poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            connection.drain();
        }
        connection.poll_serve(cx)
    })
    .await
}
