//! Threads that make way: what guests wait for is done first, however much is moved, checked or pruned beside it.

use tokio::runtime::{Builder, Runtime};

/// The lowest priority that still gets on when all else wants every CPU.
const NICE: i32 = 19;

/// A runtime of its own, with its own blocking threads.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .thread_name("low-priority")
        .on_thread_start(make_way)
        .enable_all()
        .build()
}

/// Of the calling thread alone.
fn make_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "cannot lower the priority of a thread");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

    use super::*;

    fn nice() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[test]
    fn all_its_threads_make_way_and_no_other_does() {
        let (runtime, before) = (runtime().unwrap(), nice());
        let handle = runtime.handle();
        assert_eq!(runtime.block_on(handle.spawn(async { nice() })).unwrap(), NICE);
        let within = handle.spawn(async { tokio::task::spawn_blocking(nice).await.unwrap() });
        assert_eq!(runtime.block_on(within).unwrap(), NICE);
        assert_eq!(nice(), before);
    }
}
