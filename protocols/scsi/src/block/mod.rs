//! The commands of block devices (SBC-3).

mod capacity;
mod range;
mod transfer;

pub(crate) use capacity::read_capacity;
pub(crate) use range::data_out_bytes;
pub(crate) use transfer::{read, synchronize_cache, write};

/// Most that one command may read or write: MAXIMUM TRANSFER LENGTH of the page Block Limits, in bytes.
pub(crate) const TRANSFER_BYTES_MAX: u32 = 16 << 20;
