//! The target against an initiator of our own, real clients, and hostile peers.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test says that something failed by panicking"
)]

mod conformance;
mod data;
mod hostile;
mod initiator;
#[path = "../../../../tests/support/libiscsi.rs"]
#[expect(
    unreachable_pub,
    reason = "it is a part of the end-to-end tests' library, too"
)]
mod libiscsi;
mod login;
mod management;
mod sessions;
mod support;
