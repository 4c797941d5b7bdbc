//! The state machines of a connection, without its socket: [`Login`], then [`FullFeature`].
//!
//! A session has one connection (MaxConnections is 1), so the two are one here.

mod budget;
mod command;
mod control;
mod discovery;
mod full_feature;
mod keys;
mod login;
mod management;
mod parameters;
mod patience;
mod receiver;
mod sender;
mod task;
mod transfer;
mod window;

pub use budget::Budget;
pub use control::{Cause, Control, Neighbours, NoNeighbours, Rest, Scope};
pub use discovery::Names;
pub use full_feature::{FullFeature, SessionLimits, Surroundings};
pub use login::{Established, Login, LoginContext, LoginStep, SessionKind, SessionName};
pub use parameters::{Offer, Parameters};
pub use patience::Timing;
pub use receiver::{Received, Receiver, Segment, Step};
