//! Tests of the crate's public face, against what e2fsprogs and the kernel make and read.
#![expect(
    clippy::print_stdout,
    reason = "what is left out and how long it took is for people"
)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says that something failed by panicking"
)]

mod btrfs;
mod exfat;
mod ext;
mod fat;
mod image;
mod iso9660;
mod manifest;
mod mutation;
mod ntfs;
mod partitions;
mod volumes;
mod xfs;
