//! The client against servers: the stand-in of this repository, the rig's simulator where it is at hand,
//! and peers that mean harm.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "servers/alone.rs"]
mod alone;
#[path = "servers/aside.rs"]
mod aside;
#[path = "servers/attach.rs"]
mod attach;
#[path = "servers/budget.rs"]
mod budget;
#[path = "servers/hostile.rs"]
mod hostile;
#[path = "servers/process.rs"]
mod process;
#[path = "servers/simulator.rs"]
mod simulator;
#[path = "servers/standin.rs"]
mod standin;
#[path = "servers/trust.rs"]
mod trust;
