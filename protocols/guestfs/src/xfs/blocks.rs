//! What the blocks of different trees have in common.

use super::Xfs;
use super::device::SECTOR;
use crate::GuestError;
use crate::bytes::View;

impl Xfs {
    /// Checks that a block of version 5 says of itself where it lies and to which filesystem it belongs.
    pub(super) fn prove_home(
        &self,
        view: View<'_>,
        number_at: usize,
        uuid_at: usize,
        at_bytes: u64,
    ) -> Result<(), GuestError> {
        if view.big64(number_at)? != at_bytes / SECTOR as u64
            || view.slice(uuid_at, 16)? != self.superblock.meta_uuid
        {
            return Err(view.corrupt("it belongs to another place or filesystem"));
        }
        Ok(())
    }
}

/// The header of a block of a tree whose pointers have 64 bits.
pub(super) fn long_header_bytes(is_v5: bool) -> usize {
    if is_v5 { 72 } else { 24 }
}

/// The header of a block of a tree whose pointers have 32 bits.
pub(super) fn short_header_bytes(is_v5: bool) -> usize {
    if is_v5 { 56 } else { 16 }
}

/// The first of `count` things in order for which `is_before` does not hold.
pub(super) fn first_behind(
    count: usize,
    mut is_before: impl FnMut(usize) -> Result<bool, GuestError>,
) -> Result<usize, GuestError> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if is_before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
