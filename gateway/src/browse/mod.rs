//! Looking into the disks of restore points: what lies on them, as a tree of files.
//!
//! Commands look in their own process, with disks that come over NBD; the daemon does for those who ask over HTTP.

mod disk_tree;
mod opened;
mod path;
mod remote_disk;
mod view;
mod volumes;
mod walk;

pub(crate) use disk_tree::{BrowsedDisk, DiskTree};
pub(crate) use opened::OpenedPoints;
pub(crate) use path::{PathError, find};
pub(crate) use remote_disk::RemoteDisk;
pub(crate) use view::FileView;
pub(crate) use walk::{NoFolder, Walk};
