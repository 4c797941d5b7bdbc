//! One unit's ring without a device file: what the kernel asks is taken out, executed, and answered in any order.

mod data;
mod ring;
mod unit;

pub(crate) use unit::{Job, Step};
pub use unit::{Unit, UnitError};
