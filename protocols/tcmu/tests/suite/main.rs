//! The user side of the kernel's target, against a kernel that is played in memory.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test says that something failed by panicking"
)]

mod configfs;
mod hostile;
mod kernel;
mod serving;
