//! The harness of the end-to-end tests: a real guest in QEMU, a real daemon, real clients.
//!
//! Everything here fails a test by panicking with a text that says what was expected and what was seen, and
//! everything that is started is killed when its value is dropped. What waits, waits for an event with a generous
//! limit; the limits only bound how long a broken run takes.

#![forbid(unsafe_code)]

mod daemon;
mod disk;
mod guest;
mod libiscsi;
mod need;
mod net;
mod process;
mod transcript;

pub use daemon::{Daemon, client};
pub use disk::{Noise, assert_same_bytes, sparse_disk};
pub use guest::{Drive, Guest, GuestFiles, Machine, Output, disk_with_daemon};
pub use libiscsi::Told;
pub use need::{need, need_reader_python, need_root, scratch, workspace};
pub use net::{free_port, loopback_for_well_known_ports};
pub use process::{Process, run};
pub use transcript::Transcript;
