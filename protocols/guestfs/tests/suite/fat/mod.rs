//! FAT12, FAT16 and FAT32.

mod allocation;
mod content;
pub(crate) mod damage;
mod programs;
mod raw;
