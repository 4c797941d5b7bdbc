//! An iSCSI target over [`scsi::Target`], to RFC 7143.
//!
//! Serves discovery and normal sessions with CHAP in both directions, digests, every way that data can come, task
//! management that aborts, and recovery level 0; docs/protocols/iscsi.md says what exactly. Names are those of the
//! standard.
//!
//! [`Server`] finds targets through a [`TargetDirectory`], so that they come and go while it runs. One task moves the
//! bytes of one connection; [`session`] holds its two state machines, which know no socket. Commands that memory can
//! answer are answered at once; the rest go to the one [`export::BlockingPool`] and come back in any order.

#![forbid(unsafe_code)]

mod chap;
mod directory;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod metrics;
mod server;
pub mod session;
pub mod wire;

pub use chap::{ChapAccount, ChapAlgorithm, ChapPolicy, Secret, SecretLength};
pub use directory::{
    AccessRule, Authentication, Initiator, InitiatorPattern, OpenError, OpenedTarget,
    StaticDirectory, TargetDirectory,
};
pub use error::{ConnectionError, LoginFailure, SessionError, StartError};
pub use metrics::Metrics;
pub use server::{Limits, Portal, Server, ServerConfig};
