//! CRC-32C (Castagnoli), the check of heads and blocks in all our formats.

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

/// The check of `bytes`.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32_iscsi(bytes)
}

/// The check of what `check` covers, followed by `bytes`.
pub(crate) fn crc32c_append(check: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!check));
    digest.update(bytes);
    u32::try_from(digest.finalize()).expect("a CRC of 32 bits has no more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_standard_says_and_what_another_implementation_computes() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        let bytes: Vec<u8> = (0..70_000_u32).map(|at| (at * 131 % 251) as u8).collect();
        for length in (0..300).chain([511, 512, 513, 4095, 4096, 4097, 65_536, 70_000]) {
            let part = &bytes[..length];
            assert_eq!(crc32c(part), ::crc32c::crc32c(part), "{length}");
            let (start, end) = part.split_at(length / 3);
            assert_eq!(crc32c_append(crc32c(start), end), crc32c(part), "{length}");
        }
    }
}
