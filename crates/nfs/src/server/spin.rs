//! Looking for the next call for a moment before the thread sleeps.
//!
//! A client that has one call in flight sends the next one tens of microseconds after its reply; a thread that has gone
//! to sleep meanwhile takes as long again to wake. So a lane looks for a little while, as long as that finds something:
//! only while clients are that quick, one thread of the process at a time, and no thread that other connections need.
//! At each try it gives way to whatever else wants its core: that may be the very client, or what serves another one.

use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long it is looked.
const LOOK: Duration = Duration::from_micros(120);
/// A call that comes this long after the thread had nothing to do was waited for by a client with one call in flight.
const QUICK: Duration = Duration::from_micros(400);
/// So many such calls in a row begin the looking.
const QUICK_CALLS: u32 = 8;

/// Held by the one who looks.
#[derive(Debug, Default)]
pub(super) struct Spinner(AtomicBool);

struct Spinning<'a>(&'a Spinner);

impl Spinner {
    fn take(&self) -> Option<Spinning<'_>> {
        let free = self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        free.is_ok().then_some(Spinning(self))
    }
}

impl Drop for Spinning<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// Whether it is worth looking, for one connection.
#[derive(Debug)]
pub(super) struct Spin {
    spinner: Arc<Spinner>,
    idle_since: Option<Instant>,
    quick_calls: u32,
}

impl Spin {
    pub(super) fn new(spinner: Arc<Spinner>) -> Self {
        Self { spinner, idle_since: None, quick_calls: 0 }
    }

    /// There is nothing to do.
    pub(super) fn idle(&mut self) {
        self.idle_since = Some(Instant::now());
    }

    /// Bytes came.
    pub(super) fn busy(&mut self) {
        let Some(since) = self.idle_since.take() else { return };
        self.quick_calls = if since.elapsed() < QUICK { self.quick_calls + 1 } else { 0 };
    }

    /// Whether the last calls were quick, and the last look was not in vain.
    pub(super) fn is_worth_it(&self) -> bool {
        self.quick_calls >= QUICK_CALLS
    }

    /// Receives into `buffer` what comes within a moment: how much, if anything.
    pub(super) fn look(
        &mut self,
        socket: impl AsFd,
        buffer: &mut [u8],
    ) -> Option<io::Result<usize>> {
        let _spinning = self.spinner.take()?;
        let begun = Instant::now();
        loop {
            match rustix::net::recv(&socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((len, _)) => return Some(Ok(len)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => return Some(Err(e.into())),
            }
            if begun.elapsed() > LOOK {
                self.quick_calls = 0;
                return None;
            }
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{QUICK_CALLS, Spin, Spinner};
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    fn quick(spinner: &Arc<Spinner>) -> Spin {
        let mut spin = Spin::new(spinner.clone());
        spin.quick_calls = QUICK_CALLS;
        spin
    }

    #[test]
    fn what_comes_is_found_and_a_look_in_vain_ends_the_looking() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut buffer = [0; 8];
        let spinner = Arc::default();
        let mut spin = quick(&spinner);
        theirs.write_all(b"call").unwrap();
        assert_eq!(spin.look(&ours, &mut buffer).unwrap().unwrap(), 4);
        assert_eq!(&buffer[..4], b"call");
        assert!(spin.is_worth_it());
        assert!(spin.look(&ours, &mut buffer).is_none());
        assert!(!spin.is_worth_it(), "it waits for quick calls again");
        for _ in 0..QUICK_CALLS {
            spin.idle();
            spin.busy();
        }
        assert!(spin.is_worth_it());
    }

    #[test]
    fn one_at_a_time_looks() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"call").unwrap();
        let spinner = Arc::<Spinner>::default();
        let taken = spinner.take();
        assert!(quick(&spinner).look(&ours, &mut [0; 8]).is_none());
        drop(taken);
        assert!(quick(&spinner).look(&ours, &mut [0; 8]).is_some());
    }

    #[test]
    fn a_closed_peer_is_no_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(quick(&Arc::default()).look(&ours, &mut [0; 8]).unwrap().unwrap(), 0);
    }
}
