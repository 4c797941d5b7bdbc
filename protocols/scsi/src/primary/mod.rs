//! The commands that all devices have (SPC-4).

mod diagnostic;
mod inquiry;
mod medium;
mod mode;
mod opcodes;
mod ports;
mod units;
mod vital;

use bytes::Bytes;
use export::Segments;

use crate::wire;

pub(crate) use diagnostic::{receive_diagnostic, send_diagnostic};
pub(crate) use inquiry::inquiry;
pub(crate) use medium::{prevent_allow, start_stop};
pub(crate) use mode::{mode_select, mode_sense};
pub(crate) use opcodes::{report_opcodes, report_task_management};
pub(crate) use ports::report_port_groups;
pub(crate) use units::{report_luns, request_sense, without_unit};
pub(crate) use vital::naa;

/// An answer, cut to the allocation length.
pub(crate) fn cut_to(mut answer: Vec<u8>, allocation_bytes: u32) -> Segments {
    answer.truncate(wire::to_usize(allocation_bytes.into()));
    Segments::from(Bytes::from(answer))
}
