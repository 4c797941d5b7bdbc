//! A tree of files as a folder of this machine: FUSE, for Linux.
//!
//! [`Mount`] shows any [`export::FileExport`] under a mount point. The kernel's requests come through the crate `fuser`,
//! which owns the bytes; here is what they mean. What is answered, how the kernel may cache it and where the limits are:
//! `docs/protocols/fuse.md`.

#![forbid(unsafe_code)]

mod answers;
mod error;
mod filesystem;
mod kernel;
mod listing;
mod mount;
mod mount_point;
mod mount_table;
mod numbers;
mod options;
mod workers;

pub use error::FuseError;
pub use mount::Mount;
pub use options::{Caching, MountOptions};
