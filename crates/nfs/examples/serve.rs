//! Serves directories and disks over NFS, for tests with real clients and for measurements.
//!
//! ```text
//! serve STATE [--listen ADDRESS] [--port N] [--portmap N] [--client NET]
//!       [--export NAME=DIR]... [--disk EXPORT/PATH=BYTES]...
//! ```
//!
//! A disk starts as zeros. It prints `ready` when it listens and ends on SIGTERM or SIGINT.

use anyhow::{Context, bail};
use rekindle_disk::{Base, DiskId, Disks, DisksConfig};
use rekindle_nfs::{ClientNet, ExportSpec, NfsConfig, NfsServer, Portmap};
use rekindle_state::Database;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

struct Args {
    state: PathBuf,
    config: NfsConfig,
    clients: Vec<ClientNet>,
    exports: Vec<(String, PathBuf)>,
    disks: Vec<(String, PathBuf, u64)>,
}

fn parse() -> anyhow::Result<Args> {
    let mut words = std::env::args().skip(1);
    let state = words.next().context("usage: serve STATE [options]")?.into();
    let config = NfsConfig { portmap: Portmap::None, ..NfsConfig::default() };
    let mut args =
        Args { state, config, clients: Vec::new(), exports: Vec::new(), disks: Vec::new() };
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match &*word {
            "--listen" => args.config.listen = value.parse()?,
            "--port" => args.config.port = value.parse()?,
            "--portmap" => {
                args.config.portmap = Portmap::Own;
                args.config.portmap_port = value.parse()?;
            }
            "--client" => args.clients.push(value.parse()?),
            "--export" => {
                let (name, dir) = value.split_once('=').context("--export NAME=DIR")?;
                args.exports.push((name.to_owned(), dir.into()));
            }
            "--disk" => {
                let (place, size) = value.split_once('=').context("--disk EXPORT/PATH=BYTES")?;
                let (export, path) = place.split_once('/').context("--disk EXPORT/PATH=BYTES")?;
                args.disks.push((export.to_owned(), path.into(), size.parse()?));
            }
            _ => bail!("what is {word}?"),
        }
    }
    Ok(args)
}

fn main() -> anyhow::Result<()> {
    let args = parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let server = tokio::task::spawn_blocking(move || open(args)).await??;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        stop.cancel();
    });
    let mut bound = server.bound();
    tokio::spawn(async move {
        if bound.wait_for(Option::is_some).await.is_ok() {
            println!("ready");
        }
    });
    server.serve(shutdown).await?;
    Ok(())
}

fn open(args: Args) -> anyhow::Result<NfsServer> {
    std::fs::create_dir_all(&args.state)?;
    let server = NfsServer::open(&args.state.join("nfs"), args.config)?;
    let exports = server.exports();
    for (name, dir) in args.exports {
        exports.add(ExportSpec { name, dir, clients: args.clients.clone() })?;
    }
    if args.disks.is_empty() {
        return Ok(server);
    }
    let db = Database::open(&args.state.join("db"))?;
    let disks = Disks::open(&args.state.join("overlay"), &db, DisksConfig::default())?;
    for (n, (export, path, size)) in args.disks.into_iter().enumerate() {
        let id: DiskId = format!("disk-{n}").parse()?;
        disks.create(&id, size)?;
        let disk = disks.attach(&id, Base::Empty { size })?;
        let export = exports.get(&export).with_context(|| format!("no export {export}"))?;
        if let Some(dir) = path.parent().filter(|dir| *dir != Path::new("")) {
            export.make_dir(dir)?;
        }
        export.attach_disk(&path, &id, disk)?;
    }
    // They serve until the process ends.
    std::mem::forget(disks);
    Ok(server)
}
