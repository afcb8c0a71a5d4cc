//! The real daemon as a process, from first start to last clean-up.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod audit;
mod bundle;
mod console;
mod disk_data;
mod images;
mod kill;
mod logging;
mod metrics;
mod nfs;
mod process;
mod recovery;
mod sealed;
mod tls;
mod users;
mod vsphere_ingest;
