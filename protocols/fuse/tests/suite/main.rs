//! Trees mounted by the kernel of this machine and used through it, as programs do.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test says that something failed by panicking"
)]

mod changing;
mod hurt;
mod lifecycle;
mod model;
mod parallel;
mod reading;
mod support;
