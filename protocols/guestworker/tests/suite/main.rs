//! The worker as its caller has it, with real processes.
#![expect(
    clippy::print_stdout,
    reason = "what is left out and how long it took is for people"
)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says that something failed by panicking"
)]

mod appliance;
mod assembly;
mod confinement;
mod deaths;
mod equality;
mod fuzz;
mod support;
