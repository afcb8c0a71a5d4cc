//! The server by the wire: what is said, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "one program of several files")]

mod checklist;
mod disks;
mod garbage;
mod hostile;
mod names;
mod others;
mod peer;
mod replay;
mod restart;
