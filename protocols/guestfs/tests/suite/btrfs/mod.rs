//! btrfs, against the kernel's own reading.

mod allocation;
mod content;
mod crash;
mod damage;
mod devices;
mod programs;
