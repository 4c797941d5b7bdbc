//! ext2, ext3 and ext4.

mod allocation;
pub(crate) mod content;
pub(crate) mod crash;
mod damage;
mod encrypted;
mod journal;
pub(crate) mod programs;
