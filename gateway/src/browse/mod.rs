//! Looking into the disks of restore points: what lies on them, as a tree of files.
//!
//! Works in the process of whoever looks, not in the daemon: disks come over NBD, so that nothing that a guest wrote can
//! harm more than this one process.

mod disk_tree;
mod remote_disk;
mod volumes;

pub(crate) use disk_tree::{BrowsedDisk, DiskTree};
pub(crate) use remote_disk::RemoteDisk;
