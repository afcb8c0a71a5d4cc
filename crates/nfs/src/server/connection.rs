//! One TCP connection: one task that reads calls, answers those it can at once, and sends the replies of the others as
//! they come.
//!
//! # Bounds
//!
//! Calls are looked at while few enough replies are queued and few enough calls wait; else the connection is not read,
//! and TCP holds the client back. Calls of over 2 KiB take from a budget of all connections before they are received.

use super::lanes::Place;
use super::memory::{ClientMemory, Taken};
use super::output::Output;
use super::shared::Shared;
use super::spin::Spin;
use super::waiting::Pending;
use crate::record::{BadRecord, Next, Records};
use crate::service::{Outcome, Peer};
use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::AcquireError;
use tokio::time::{Instant, Sleep, sleep};

/// The longest call: a WRITE of 4 MiB and its head. ESXi was seen to send more than what was advertised.
const LONGEST_RECORD: usize = (4 << 20) + 4096;
/// The longest call of a client of no export, who may ask for ports and mounts.
const LONGEST_OF_STRANGER: usize = 4096;
/// Calls shorter than this take nothing from the budget.
const SMALL: usize = 2048;
/// A call longer than this takes from the budget when it begins to come.
const BIG: usize = 64 << 10;
const FIRST_BUFFER: usize = 16 << 10;
const LARGEST_BUFFER: usize = 512 << 10;
/// Rounds before other tasks have their turn.
const ROUNDS: usize = 32;
/// And no round is begun after that time where other connections wait for the thread.
const TURN: Duration = Duration::from_micros(50);
const TICK: Duration = Duration::from_secs(5);
/// How long calls that wait may take when the server stops or the client has closed its side.
const DRAIN: Duration = Duration::from_secs(3);

type Acquiring = Pin<Box<dyn Future<Output = Result<Taken, AcquireError>> + Send>>;

pub(super) struct Connection {
    shared: Arc<Shared>,
    /// The process's runtime.
    process: Handle,
    place: Place,
    socket: TcpStream,
    spin: Spin,
    peer: Peer,
    memory: ClientMemory,
    records: Records,
    input: BytesMut,
    buffer: usize,
    output: Output,
    waiting: FuturesUnordered<Pending>,
    /// Memory taken for the call that comes.
    admitted: Option<Taken>,
    acquiring: Option<Acquiring>,
    /// A whole call that waits for memory.
    stashed: Option<Bytes>,
    /// Bytes that the call which is coming takes.
    wants: usize,
    tick: Pin<Box<Sleep>>,
    call_began: Option<Instant>,
    last_call: Instant,
    last_sent: Instant,
    draining: Option<Pin<Box<Sleep>>>,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the client closed it")]
    Closed,
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("{0}")]
    Record(#[from] BadRecord),
    #[error("not a call")]
    NotACall,
    #[error("a call did not come whole in time")]
    SlowCall,
    #[error("the client takes no replies")]
    SlowReader,
    #[error("idle")]
    Idle,
}

impl End {
    /// Whether the client sent what no client sends.
    pub(super) fn is_offence(&self) -> bool {
        matches!(self, Self::Record(_) | Self::NotACall)
    }
}

impl Connection {
    pub(super) fn new(
        shared: Arc<Shared>,
        process: Handle,
        place: Place,
        socket: TcpStream,
        peer: Peer,
    ) -> Self {
        let now = Instant::now();
        let spin = Spin::new(shared.spinner.clone());
        let memory = shared.call_memory.of_client(peer.ip);
        Self {
            shared,
            process,
            place,
            socket,
            spin,
            peer,
            memory,
            records: Records::default(),
            input: BytesMut::new(),
            buffer: FIRST_BUFFER,
            output: Output::default(),
            waiting: FuturesUnordered::new(),
            admitted: None,
            acquiring: None,
            stashed: None,
            wants: 0,
            tick: Box::pin(sleep(TICK)),
            call_began: None,
            last_call: now,
            last_sent: now,
            draining: None,
        }
    }

    /// Takes no more calls; ends when those taken are answered, or a while has passed.
    pub(super) fn drain(&mut self) {
        if self.draining.is_none() {
            self.draining = Some(Box::pin(sleep(DRAIN)));
        }
    }

    /// Goes on until the connection ends. What calls start besides belongs to the process's runtime: it may outlive
    /// the connection, and must not hold up others.
    pub(super) fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let process = self.process.clone();
        let _entered = process.enter();
        match self.step(cx) {
            Ok(true) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(false) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// Does what can be done now; true if there is more.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        self.check_times(cx)?;
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            let answered = self.collect(cx);
            let decoded = self.draining.is_none() && self.answer_calls(cx)?;
            let sent = self.send(cx)?;
            let read = self.draining.is_none() && self.read(cx)?;
            if let Some(drain) = &mut self.draining {
                let idle = self.waiting.is_empty() && self.output.len() == 0;
                if idle || drain.as_mut().poll(cx).is_ready() {
                    return Err(End::Closed);
                }
            }
            if !(answered || decoded || sent || read || self.look()?) {
                return Ok(false);
            }
            if !self.place.is_alone() && begun.elapsed() > TURN {
                break;
            }
        }
        Ok(true)
    }

    fn limit(&self) -> usize {
        self.shared.reply_bytes()
    }

    /// Queues replies that came.
    fn collect(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while self.output.len() < self.limit()
            && let Poll::Ready(Some(late)) = self.waiting.poll_next_unpin(cx)
        {
            let (begun, out) = self.output.begin();
            out.extend_from_slice(&late.head);
            self.output.end(begun, late.data);
            any = true;
        }
        any
    }

    /// Looks at calls that have come.
    fn answer_calls(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut any = false;
        let longest = self.longest();
        while self.output.len() < self.limit() && self.may_wait() {
            if !self.poll_memory(cx) {
                break;
            }
            let record = match self.stashed.take() {
                Some(record) => record,
                None => match self.records.next(&mut self.input, longest)? {
                    Next::Record(record) => record,
                    Next::Wants(len) => {
                        self.wants = len;
                        if len > BIG && !self.admit(len) {
                            // Round again, to be woken when there is memory.
                            continue;
                        }
                        break;
                    }
                },
            };
            any = true;
            if !self.admit(record.len()) {
                self.stashed = Some(record);
                continue;
            }
            self.answer(&record)?;
        }
        if any {
            self.last_call = Instant::now();
            self.call_began = None;
            self.place.called(self.last_call.into_std());
        }
        Ok(any)
    }

    fn may_wait(&self) -> bool {
        let limits = &self.shared.service.config.limits;
        let within = self.waiting.len() < limits.waiting_calls_per_connection;
        within && (self.waiting.is_empty() || self.shared.waiting.get() < limits.waiting_calls)
    }

    fn longest(&self) -> usize {
        match self.shared.service.exports.know(self.peer.ip) {
            true => LONGEST_RECORD,
            false => LONGEST_OF_STRANGER,
        }
    }

    /// Takes memory for a call of this length; false if that must be waited for.
    fn admit(&mut self, len: usize) -> bool {
        if len < SMALL || self.admitted.is_some() {
            return true;
        }
        let kib = len.div_ceil(1024) as u32;
        self.admitted = self.memory.try_take(kib);
        if self.admitted.is_none() {
            self.acquiring = Some(Box::pin(self.memory.clone().take(kib)));
        }
        self.admitted.is_some()
    }

    /// Whether no memory is waited for.
    fn poll_memory(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(acquiring) = &mut self.acquiring else { return true };
        match acquiring.as_mut().poll(cx) {
            Poll::Ready(taken) => {
                self.admitted = taken.ok();
                self.acquiring = None;
                true
            }
            Poll::Pending => false,
        }
    }

    fn answer(&mut self, record: &Bytes) -> Result<(), End> {
        let memory = self.admitted.take();
        let (begun, out) = self.output.begin();
        match self.shared.service.call(&self.peer, record, out) {
            Outcome::Reply => self.output.end(begun, Default::default()),
            Outcome::ReplyWith(data) => self.output.end(begun, data),
            Outcome::Later(call) => {
                self.output.abort(begun);
                self.waiting.push(Pending::new(call, memory, self.shared.waiting.clone()));
            }
            Outcome::HangUp => return Err(End::NotACall),
        }
        Ok(())
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let before = self.output.len();
        if before == 0 {
            return Ok(false);
        }
        if let Poll::Ready(sent) = self.output.poll_send(&mut self.socket, cx) {
            sent?;
        }
        let any = self.output.len() < before;
        if any {
            self.last_sent = Instant::now();
        }
        Ok(any)
    }

    /// Reads once, unless calls are held back.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let held = self.acquiring.is_some() || self.stashed.is_some();
        if held || self.output.len() >= self.limit() || !self.may_wait() {
            return Ok(false);
        }
        self.make_room();
        let room = self.input.capacity() - self.input.len();
        let read = pin!(self.socket.read_buf(&mut self.input)).poll(cx);
        let Poll::Ready(read) = read else { return Ok(false) };
        let len = read?;
        self.spin.busy();
        if len == 0 {
            self.drain();
            return Ok(true);
        }
        if len == room {
            self.buffer = (self.buffer * 2).min(LARGEST_BUFFER);
        }
        self.call_began.get_or_insert_with(Instant::now);
        Ok(true)
    }

    /// With nothing to do: looks for the next call for a moment, where no other connection needs the thread.
    fn look(&mut self) -> Result<bool, End> {
        let idle = self.waiting.is_empty() && self.output.len() == 0 && self.input.is_empty();
        if !idle || self.draining.is_some() {
            return Ok(false);
        }
        let looks = self.spin.is_worth_it() && self.place.calls_alone(std::time::Instant::now());
        let Some(found) = looks.then(|| self.receive_soon()).flatten() else {
            self.spin.idle();
            return Ok(false);
        };
        match found? {
            0 => self.drain(),
            _ => self.call_began = Some(Instant::now()),
        }
        Ok(true)
    }

    /// Receives a small call that comes within a moment.
    fn receive_soon(&mut self) -> Option<io::Result<usize>> {
        self.input.resize(SMALL, 0);
        let found = self.spin.look(&self.socket, &mut self.input);
        let len = found.as_ref().and_then(|found| found.as_ref().ok()).copied();
        self.input.truncate(len.unwrap_or(0));
        found
    }

    /// Room for the rest of the call that comes: for all of it if memory was taken for it.
    fn make_room(&mut self) {
        let missing = self.wants.saturating_sub(self.input.len());
        let now = if self.admitted.is_some() { missing } else { missing.min(self.buffer) };
        let room = now.max(self.buffer / 4);
        if self.input.capacity() - self.input.len() < room {
            self.input.reserve(room.max(self.buffer));
        }
    }

    fn check_times(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if self.tick.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        self.tick.as_mut().reset(Instant::now() + TICK);
        let _ = self.tick.as_mut().poll(cx);
        let limits = &self.shared.service.config.limits;
        let seconds = Duration::from_secs;
        if self.output.len() > 0 && self.last_sent.elapsed() > seconds(limits.send_seconds) {
            return Err(End::SlowReader);
        }
        self.output.detach();
        let held = self.acquiring.is_some() || self.stashed.is_some() || !self.may_wait();
        if !self.records.is_within(&self.input) {
            self.call_began = None;
        } else if held || self.output.len() > 0 {
            // We keep it waiting. Its time begins anew, for it may send nothing more once it could.
            self.call_began = Some(Instant::now());
        } else if self.call_began.is_some_and(|t| t.elapsed() > seconds(limits.record_seconds)) {
            return Err(End::SlowCall);
        }
        let idle = self.last_call.elapsed() > seconds(limits.stranger_idle_seconds);
        if idle && self.waiting.is_empty() && !self.shared.service.exports.know(self.peer.ip) {
            return Err(End::Idle);
        }
        if self.input.is_empty() && self.last_call.elapsed() > TICK {
            // An idle connection keeps no buffer.
            self.input = BytesMut::new();
            self.buffer = FIRST_BUFFER;
        }
        Ok(())
    }
}
