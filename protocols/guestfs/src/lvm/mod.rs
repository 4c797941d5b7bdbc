//! LVM2: labels and metadata of physical volumes, and the logical volumes of a volume group.
//!
//! The text that describes a group is read by a parser of our own. What the kernel's device mapper would be told of a
//! volume is put together from [`crate::layers`] and from the two forms of snapshots here.

mod group;
mod label;
mod raid;
mod snapshot;
mod text;
mod thin;
mod volumes;

pub(crate) use group::Group;
pub(crate) use label::PhysicalVolume;
pub(crate) use volumes::Assembly;
