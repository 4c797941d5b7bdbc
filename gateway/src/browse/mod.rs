//! Looking into the disks of restore points: what lies on them, as a tree of files.
//!
//! Commands look with disks that come over NBD; the daemon does for those who ask over HTTP or SMB. What a guest wrote is
//! read by a worker of the one or the other, which has no rights (`docs/protocols/guestworker.md`).

mod disk_tree;
mod guest;
mod ids;
mod opened;
mod path;
mod points_tree;
mod remote_disk;
mod view;
mod volumes;
mod walk;

pub(crate) use disk_tree::{BrowsedDisk, DiskTree};
pub(crate) use opened::OpenedPoints;
pub(crate) use path::{PathError, find};
pub(crate) use points_tree::{POINTS_FOLDER, Points, PointsTree};
pub(crate) use remote_disk::RemoteDisk;
pub(crate) use view::FileView;
pub(crate) use walk::{NoFolder, Walk};
