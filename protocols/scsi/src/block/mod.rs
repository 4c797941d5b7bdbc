//! The commands of block devices (SBC-3).

mod atomic;
mod capacity;
mod provisioning;
mod range;
mod sanitize;
mod transfer;
mod verify;

pub(crate) use atomic::{
    COMPARE_BLOCKS_MAX, atomic_blocks_max, compare_and_write, or_write, write_atomic,
};
pub(crate) use capacity::{read_capacity, read_defect_data};
pub(crate) use provisioning::{
    UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, WRITE_SAME_BLOCKS_MAX, get_lba_status, unmap,
    write_same,
};
pub(crate) use range::{BlockRange, data_out_bytes};
pub(crate) use sanitize::{block_erase, exit_failure_mode};
pub(crate) use transfer::{prefetch, read, synchronize_cache, write};
pub(crate) use verify::{verify, write_and_verify};

/// Most that one command may read or write: MAXIMUM TRANSFER LENGTH of the page Block Limits, in bytes.
pub(crate) const TRANSFER_BYTES_MAX: u32 = 16 << 20;
