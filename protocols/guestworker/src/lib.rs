//! Guests' filesystems, read by a process of its own that may do nothing else.
//!
//! What a guest wrote may break whoever reads it. So it is read by a process that has no rights, gets blocks of the
//! guest's disks and nothing more, is watched, and is started again when it dies. [`Worker`] is this process as the
//! caller sees it; [`worker::run`] is what it does. They speak as `docs/protocols/guestworker.md` says, and neither
//! believes the other.

#![forbid(unsafe_code)]

mod agent;
mod appliance;
mod client;
mod fuzz;
mod lane;
mod reader;
mod wire;
pub mod worker;

pub use agent::run as run_agent;
pub use appliance::{
    Appliance, ApplianceError, ApplianceOptions, Found, MachineLimits, become_machine,
};
pub use client::{Worker, WorkerOptions};
pub use fuzz::fuzz_worker;
pub use guestfs::{Leavable, Membership, Unneeded};
pub use reader::{
    Assembly, GuestReader, GuestVolume, Made, Reader, Refusal, UnneededBytes, Used,
    VolumeDescription, VolumePlace,
};
pub use wire::{Layer, Layers};
