//! The device side of SCSI: logical units over [`export::BlockExport`], to SPC-4, SBC-3 and SAM-5.
//!
//! There is no transport here. A transport makes a [`Nexus`] for each initiator port that reaches a target port, asks it
//! for the [`Plan`] of a command that brings data, collects the data, and has the [`Command`] executed: first by
//! [`Nexus::try_execute`], which answers if memory alone can, else by [`Nexus::execute`] on a thread that may wait.
//! Many commands may be executed at once, on any threads. Aborting tasks is the transport's work; the state that a reset
//! changes is kept here.
//!
//! What is supported, refused and done differently: `docs/protocols/scsi.md`.

#![forbid(unsafe_code)]

mod attention;
mod block;
mod cdb;
mod copy;
mod error;
pub mod fuzz;
mod lun;
mod modes;
mod nexus;
mod primary;
mod reservations;
mod response;
mod sense;
mod table;
mod target;
mod unit;
mod wire;

pub use cdb::Cdb;
pub use error::ScsiError;
pub use lun::{LUN_MAX, LunMask, encode_lun};
pub use nexus::{Nexus, NexusName, TaskSet};
pub use reservations::ReservationStore;
pub use response::{Command, Direction, Plan, Response, Status};
pub use sense::{Sense, SenseFormat, SenseKey};
pub use target::{Target, TargetIdentity, TargetPort};
pub use unit::UnitOptions;
