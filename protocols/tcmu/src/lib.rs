//! The kernel's SCSI target with our disks behind it: the user side of TCMU (target_core_user).
//!
//! The kernel does the transport, whichever of its fabrics that is (Fibre Channel, iSER, SRP, vhost, loopback, its own
//! iSCSI), and hands over raw commands through memory that both sides share: a ring, with the data beside it. Here is the
//! other side: [`Kernel`] makes, finds and removes backstores, [`Server`] serves them with the device of `scsi`.
//!
//! What is supported and done differently: `docs/protocols/tcmu.md`. Why the ring and not libtcmu:
//! `docs/design/0013-kernel-target.md`.

#![forbid(unsafe_code)]

mod error;
pub mod fuzz;
mod metrics;
mod server;
mod session;
mod wire;

pub use error::{KernelError, RingError, ServeError};
pub use metrics::Metrics;
pub use server::{Backstore, Doorbell, Kernel, ServedUnit, Server, ServerConfig, UnitSpec};
pub use session::{Unit, UnitError};
pub use wire::SharedMemory;
