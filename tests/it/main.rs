//! End to end: real clients and a real guest against the parts that are put together.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod collect_kill;
mod guest;
mod iscsi_guest;
mod iscsi_suite;
mod kill_rounds;
mod mariadb;
mod mounted_disk;
mod nfs_guest;
mod reader;
mod recovery_guest;
mod smb_guest;
mod tcmu_guest;
mod tidy;
