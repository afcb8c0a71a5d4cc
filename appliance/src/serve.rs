//! The daemon: what is opened in which order, and closed in the reverse.
//!
//! Start: configuration, lock of the state directory, database, repositories, cache, disks (their
//! journal is replayed), NFS records, jobs (exports and disks are back), *then* the NFS port, then
//! the drivers of the jobs, then the console. Stop: console, drivers, NFS port, cache. Disks need
//! no closing: what was acknowledged is on disk.

mod backups;
mod hot;
mod layers;
mod limits;
mod low_priority;
mod notify;
mod state_dir;
mod targets;
mod tls;
mod watchdog;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use rekindle_console::{ConsoleDeps, ConsoleSettings, Tls};
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) use state_dir::{lock as lock_state_dir, make as make_state_dir};
pub(crate) use targets::endpoint;

use crate::{
    cli::ServeArgs,
    config::{self, AdminTokenFile, Config},
    exit::{Failure, Kind},
    logging,
};
use layers::Layers;

/// How long calls and event streams under way may take to end at a stop.
const CONSOLE_STOP: Duration = Duration::from_secs(3);
/// How long what is left of the threads' work may take at a stop. Nothing that was acknowledged is in it.
const THREADS_STOP: Duration = Duration::from_secs(2);
/// How long the NFS server may take to end its calls at a stop.
const NFS_STOP: Duration = Duration::from_secs(10);

pub(crate) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let config = config::load(&args.config)?;
    logging::daemon(args.log_format);
    limits::raise_open_files();
    let _lock = state_dir::lock(&config.state_dir)?;
    let token = config::admin_token(&config).map_err(|e| Failure::new(Kind::Refused, e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let low_priority = low_priority::runtime().context("start the threads for the background")?;
    let ended = runtime.block_on(run(&config, token, low_priority.handle()));
    // A thread may wait for a directory of another machine, which no stop must.
    runtime.shutdown_timeout(THREADS_STOP);
    low_priority.shutdown_timeout(THREADS_STOP);
    ended
}

async fn run(config: &Config, token: AdminTokenFile, low_priority: &Handle) -> Result<(), Failure> {
    let mut signals = Signals::new().context("listen for signals")?;
    let layers = Layers::open(config, low_priority.clone()).await?;
    let mut nfs = NfsPort::open(&layers).await?;
    layers.jobs.run();
    layers.batches.run();
    layers.notifier.run(layers.sources()).await.context("begin to tell what happens")?;
    let backups = layers
        .backups
        .clone()
        .map(|backups| tokio::spawn(backups::keep(backups, config.state_backup.every_hours)));
    let hot = hot::start(config, &layers.repositories)?;
    let tls = tls::open(config)?;
    let watch = tokio::spawn(tls::watch(tls.clone(), signals.hangup()?));
    let mut console = ConsolePort::open(config, &layers, &token, tls).await?;
    ready(&nfs, &console, &token);
    let watchdog = watchdog::start(nfs.address);
    let ended = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            Ok(())
        }
        ended = &mut nfs.port.task => Err(ended_early("NFS server", ended)),
        ended = &mut console.port.task => Err(ended_early("console", ended)),
    };
    signals.exit_on_another();
    drop(watchdog);
    drop(hot);
    backups.inspect(JoinHandle::abort);
    // Said for systemd only; without it nobody listens.
    let _ = sd_notify::notify(false, &[NotifyState::Stopping]);
    watch.abort();
    layers.notifier.stop().await;
    console.port.stop("console", CONSOLE_STOP).await;
    layers.batches.stop().await;
    layers.jobs.stop().await;
    nfs.port.stop("NFS server", NFS_STOP).await;
    layers.close().await;
    tracing::info!("stopped");
    ended
}

fn ready(nfs: &NfsPort, console: &ConsolePort, token: &AdminTokenFile) {
    let url = format!("{}://{}/", console.scheme, console.address);
    let token_file = token.path.display();
    tracing::info!(console = %url, token_file = %token_file, nfs = %nfs.address, "ready");
    let status = format!("console {url}, NFS {}", nfs.address);
    let states = [NotifyState::Ready, NotifyState::Status(&status)];
    if let Err(error) = sd_notify::notify(false, &states) {
        tracing::warn!(%error, "cannot tell systemd that the start is done");
    }
}

fn ended_early(what: &str, ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> Failure {
    let cause = match ended {
        Ok(Ok(())) => anyhow!("it ended by itself"),
        Ok(Err(error)) => error,
        Err(error) => error.into(),
    };
    tracing::error!(error = format!("{cause:#}"), "the {what} failed, stopping");
    Failure::from(cause.context(format!("run the {what}")))
}

/// A task that answers on a port until it is told to stop.
struct Port {
    task: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Port {
    fn spawn<F>(serve: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        Self { task: tokio::spawn(serve(shutdown.clone())), shutdown }
    }

    async fn stop(&mut self, what: &str, patience: Duration) {
        self.shutdown.cancel();
        if self.task.is_finished() {
            return;
        }
        if timeout(patience, &mut self.task).await.is_err() {
            tracing::info!("the {what} has calls under way, they are cut off");
            self.task.abort();
        }
    }
}

struct NfsPort {
    port: Port,
    address: SocketAddr,
}

impl NfsPort {
    /// Listens; returns once clients can connect.
    async fn open(layers: &Layers) -> Result<Self, Failure> {
        let server = layers.nfs.clone();
        let mut bound = server.bound();
        let mut port = Port::spawn(|shutdown| async move { Ok(server.serve(shutdown).await?) });
        let address = tokio::select! {
            listening = bound.wait_for(Option::is_some) => {
                let listening = listening.context("wait for the NFS server")?;
                listening.as_ref().map(|bound| bound.nfs)
            }
            ended = &mut port.task => return Err(ended_early("NFS server", ended)),
        };
        let address = address.context("learn the NFS server's address")?;
        Ok(Self { port, address })
    }
}

struct ConsolePort {
    port: Port,
    address: SocketAddr,
    scheme: &'static str,
}

impl ConsolePort {
    async fn open(
        config: &Config,
        layers: &Layers,
        token: &AdminTokenFile,
        tls: Option<Arc<Tls>>,
    ) -> Result<Self, Failure> {
        let listen = config.console.listen;
        let listener = TcpListener::bind(listen).await.map_err(|e| {
            Failure::said(Kind::Refused, format!("cannot listen on console.listen {listen}: {e}"))
        })?;
        let address = listener.local_addr().context("learn the console's address")?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let deps = ConsoleDeps {
            jobs: layers.jobs.clone(),
            batches: layers.batches.clone(),
            repositories: layers.repositories.clone(),
            cache: layers.cache.clone(),
            disks: layers.disks.clone(),
            nfs: layers.nfs.clone(),
            targets: targets::views(&config.target),
            notifier: layers.notifier.clone(),
            token: token.token.clone(),
            users: layers.users.clone(),
            audit: layers.audit.clone(),
            answers: layers.answers.clone(),
            backups: layers.backups.clone(),
            configured: config::settings(config),
            settings: ConsoleSettings {
                restore_requires_totp: config.console.restore_requires_totp,
                restore_requires_reason: config.console.restore_requires_reason,
            },
            tls,
        };
        let port = Port::spawn(|shutdown| async move {
            rekindle_console::serve(listener, deps, shutdown).await;
            Ok(())
        });
        Ok(Self { port, address, scheme })
    }
}

/// The signals that stop the appliance.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// SIGHUP: read again what can be read again.
    fn hangup(&self) -> anyhow::Result<Signal> {
        signal(SignalKind::hangup()).context("listen for SIGHUP")
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }

    /// Somebody who asks twice does not want to wait. Nothing acknowledged is lost by that.
    fn exit_on_another(mut self) {
        tokio::spawn(async move {
            let signal = self.next().await;
            tracing::info!(signal, "asked again, not waiting any longer");
            std::process::exit(Kind::Interrupted as i32);
        });
    }
}
