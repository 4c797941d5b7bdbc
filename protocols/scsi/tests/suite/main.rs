//! The device as a transport sees it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test says that something failed by panicking"
)]

mod aborts;
mod block;
mod copy;
mod hostile;
mod primary;
mod provisioning;
mod reservations;
mod support;
mod units;
