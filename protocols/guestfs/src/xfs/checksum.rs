//! The checksum of XFS: CRC-32C, its own place counted as zero, stored with the lowest byte first.

use crc_fast::{CrcAlgorithm, Digest};

use crate::GuestError;
use crate::bytes::View;

/// Whether the checksum at `at` is that of all of `view`.
pub(super) fn is_right(view: View<'_>, at: usize) -> Result<bool, GuestError> {
    let stored = view.u32(at)?;
    let rest = view.slice(at + 4, view.len() - at - 4)?;
    Ok(of(&[view.slice(0, at)?, &[0; 4], rest]) == stored)
}

/// The checksum over all of `parts`.
pub(super) fn of(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    u32::try_from(digest.finalize()).expect("a checksum of 32 bits fits them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Place;

    #[test]
    fn its_own_place_counts_as_zero() {
        assert_eq!(of(&[b"12345", b"6789"]), 0xE306_9283);
        let mut bytes = b"some block....of metadata".to_vec();
        bytes[10..14].fill(0);
        let sum = of(&[&bytes]);
        bytes[10..14].copy_from_slice(&sum.to_le_bytes());
        assert!(is_right(View::new(&bytes, Place::Head), 10).unwrap());
        bytes[3] ^= 1;
        assert!(!is_right(View::new(&bytes, Place::Head), 10).unwrap());
    }
}
