//! The commands that all devices have (SPC-4).

mod inquiry;
mod mode;
mod units;
mod vital;

use bytes::Bytes;
use export::Segments;

use crate::wire;

pub(crate) use inquiry::inquiry;
pub(crate) use mode::{mode_select, mode_sense};
pub(crate) use units::{report_luns, request_sense, without_unit};

/// An answer, cut to the allocation length.
pub(crate) fn cut_to(mut answer: Vec<u8>, allocation_bytes: u32) -> Segments {
    answer.truncate(wire::to_usize(allocation_bytes.into()));
    Segments::from(Bytes::from(answer))
}
