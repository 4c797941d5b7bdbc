//! Checksums as ext4 uses them: CRC states that are neither begun nor ended as the standards say.

use crc_fast::{CrcAlgorithm, Digest};

/// Continues a CRC-32C from `state` over `bytes`; the state is not inverted at the end.
pub(super) fn crc32c(state: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(state));
    digest.update(bytes);
    !low32(digest.finalize())
}

/// Continues the CRC-32 of old journals, most significant bit first.
pub(super) fn crc32_big(state: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Mpeg2, u64::from(state));
    digest.update(bytes);
    low32(digest.finalize())
}

/// Continues the CRC-16 of old group descriptors.
pub(super) fn crc16(state: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(state, |state, byte| {
        (0..8).fold(state ^ u16::from(*byte), |state, _| {
            (state >> 1) ^ if state & 1 == 1 { 0xA001 } else { 0 }
        })
    })
}

fn low32(value: u64) -> u32 {
    u32::try_from(value & 0xFFFF_FFFF).expect("it was cut to 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_go_on_where_they_were() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
        assert_eq!(!crc32c(crc32c(!0, b"1234"), b"56789"), 0xE306_9283);
        assert_eq!(crc32_big(!0, b"123456789"), 0x0376_E6E7);
        assert_eq!(crc32_big(crc32_big(!0, b"12"), b"3456789"), 0x0376_E6E7);
        assert_eq!(crc16(0xFFFF, b"123456789"), 0x4B37);
        assert_eq!(crc16(crc16(0xFFFF, b"123"), b"456789"), 0x4B37);
    }
}
