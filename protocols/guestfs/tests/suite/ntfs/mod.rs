//! NTFS, compared with what ntfs-3g writes and reads.

mod allocation;
mod content;
mod damage;
mod forms;
mod log;
mod packed;
mod programs;
