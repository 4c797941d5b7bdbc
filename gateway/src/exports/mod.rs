//! Adapters: an object of the repository becomes something that a protocol can serve.
//!
//! Nothing else in the workspace knows both sides. No adapter copies payload: pieces of chunks go to the socket as
//! they lie in the cache, and pieces of requests go to the journal as they came.

mod directory;
mod disk_file;
mod disk_format;
mod earlier_points;
mod overlay_disk;
mod pieces;
mod point_disk;
mod session_folder;
mod sessions_tree;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use directory::ROOT_ID;
pub use directory::{Exports, ServedSession, ServedTarget};
pub(crate) use disk_file::DiskFile;
pub use disk_format::DiskFormat;
pub use earlier_points::EarlierPoints;
pub use overlay_disk::OverlayDisk;
pub use point_disk::PointDisk;
pub(crate) use session_folder::timestamp;
pub use session_folder::{FolderAccess, FolderDisk, FolderLimits, SessionFolder};
pub use sessions_tree::SessionsTree;
pub(crate) use status::chain;
