//! The daemon in this process, driven as clients drive it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says that something failed by panicking"
)]

mod access;
mod alerts;
mod backups;
mod cli;
mod config;
mod files;
mod files_api;
mod hostile;
mod iscsi;
mod kernel_target;
mod keys;
mod left_out;
mod locks;
mod nbd_tls;
mod recovery;
mod rescue;
mod small_machine;
mod smb;
mod space;
mod startup;
mod streams;
mod support;
mod verify;
mod volumes;
