//! Filesystems of guests, read from their disks without mounting.
//!
//! [`open`] finds what lies on a disk; [`Volume::files`] shows a filesystem as a tree of files that any file protocol
//! can serve, [`Volume::allocated`] says which of its bytes are in use. What is read, what is refused and how, stands
//! in `docs/protocols/guestfs.md`.
//!
//! Every byte comes from a guest and may be made to harm: nothing here panics, allocates or goes on without a bound
//! because of what a disk says. A backup is as a crash would leave it, so journals are replayed, in memory.

#![forbid(unsafe_code)]

mod allocation;
mod assembly;
mod bitmap;
mod btrfs;
mod bytes;
mod calendar;
mod dos;
mod entry_tree;
mod entry_walk;
mod error;
mod exfat;
mod ext;
mod extents;
mod fat;
mod fuzz;
mod gaps;
mod iso9660;
mod layers;
mod leavable;
mod lvm;
mod md;
mod names;
mod ntfs;
mod pages;
mod partitions;
mod recognition;
mod shown;
mod source;
mod unicode;
mod unneeded;
mod volume;
mod xfs;

pub use allocation::Allocation;
pub use assembly::{Assembled, DiskSet, Membership, UsedDisk, Whole, open_disks, open_sources};
pub use error::{GuestError, Place};
pub use fuzz::{fuzz_disk, fuzz_disks};
pub use gaps::gaps;
pub use leavable::Leavable;
pub use recognition::Content;
pub use source::{Disk, Section, Source};
pub use unneeded::{Unneeded, UnneededOnDisk, unneeded};
pub use volume::{Partition, Volume, open, open_source};
