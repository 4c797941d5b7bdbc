//! Arrays of Linux' software RAID: their superblocks, and which members make one.

mod array;
mod superblock;

pub(crate) use array::{Array, Found, redundant};
pub(crate) use superblock::Superblock;
