//! Long work in the foreground: a thread that does it, a display of how far it is, and signals
//! that end it cleanly.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::interval,
};

use crate::{
    client::{bytes, seconds},
    exit::Failure,
};

/// How often a bar is drawn.
const DRAW: Duration = Duration::from_millis(100);
/// How often a line is printed where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// Bytes done, and bytes in all.
pub(super) struct HowFar {
    pub(super) done: u64,
    pub(super) total: u64,
}

/// Runs `work` to its end. SIGINT and SIGTERM set its flag, and it ends as `Cancelled`.
pub(super) fn run<T: Send + 'static, E: Into<Failure> + Send + 'static>(
    what: &str,
    shown: bool,
    how_far: impl Fn() -> HowFar,
    work: impl FnOnce(&Arc<AtomicBool>) -> Result<T, E> + Send + 'static,
) -> Result<T, Failure> {
    super::block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancel);
        let mut task = spawn_blocking(move || work(&flag));
        let mut display = Display::new(what, shown);
        let mut tick = interval(DRAW);
        loop {
            tokio::select! {
                done = &mut task => {
                    display.end(&how_far());
                    let done = done.map_err(|e| anyhow!("{what}: {e}"))?;
                    return done.map_err(E::into);
                }
                _ = interrupt.recv() => cancel.store(true, Ordering::Relaxed),
                _ = terminate.recv() => cancel.store(true, Ordering::Relaxed),
                _ = tick.tick() => display.show(&how_far()),
            }
        }
    })?
}

/// A bar with rate and time to go on a terminal, a line now and then elsewhere.
struct Display {
    what: String,
    shown: bool,
    bar: Option<ProgressBar>,
    started: Instant,
    line_at: Instant,
}

impl Display {
    fn new(what: &str, shown: bool) -> Self {
        let bar = (shown && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template(
                "{msg} [{bar:30}] {percent} % {binary_bytes} of {binary_total_bytes}, \
                 {binary_bytes_per_sec}, {eta} to go",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(what.to_owned());
            bar
        });
        let now = Instant::now();
        Self { what: what.to_owned(), shown, bar, started: now, line_at: now + LINE }
    }

    fn show(&mut self, at: &HowFar) {
        if let Some(bar) = &self.bar {
            bar.set_length(at.total);
            bar.set_position(at.done);
        } else if self.shown && Instant::now() >= self.line_at {
            self.line_at += LINE;
            eprintln!("{}", self.line(at));
        }
    }

    fn line(&self, at: &HowFar) -> String {
        let elapsed = self.started.elapsed().as_secs_f64().max(0.001);
        let rate = at.done as f64 / elapsed;
        let percent = (at.done.saturating_mul(100)).checked_div(at.total).unwrap_or(0);
        let left = at.total.saturating_sub(at.done) as f64 / rate.max(1.0);
        // Before anything is done nobody knows.
        let left = match at.done {
            0 => String::new(),
            _ => format!(", {} to go", seconds(left as u64)),
        };
        format!(
            "{} {percent} %: {} of {}, {}/s{left}",
            self.what,
            bytes(at.done),
            bytes(at.total),
            bytes(rate as u64),
        )
    }

    fn end(&mut self, at: &HowFar) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None if self.shown => eprintln!("{}", self.line(at)),
            None => {}
        }
    }
}
