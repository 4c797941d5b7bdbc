//! The four kinds of checksums that a filesystem may have.

use crc_fast::{CrcAlgorithm, Digest as CrcDigest};
use sha2::Digest as _;
use std::hash::Hasher as _;
use twox_hash::XxHash64;

type Blake2b256 = blake2::Blake2b<blake2::digest::consts::U32>;

/// How a filesystem makes its checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    XxHash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    pub(super) fn by_number(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::Crc32c,
            1 => Self::XxHash64,
            2 => Self::Sha256,
            3 => Self::Blake2b,
            _ => return None,
        })
    }

    /// How long one is.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::XxHash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }

    /// Whether `expected` is the checksum of `pieces` one after the other.
    pub(super) fn fits<'a>(
        self,
        pieces: impl Iterator<Item = &'a [u8]>,
        expected: Option<&[u8]>,
    ) -> bool {
        let Some(expected) = expected.and_then(|expected| expected.get(..self.bytes())) else {
            return false;
        };
        match self {
            Self::Crc32c => {
                let mut digest = CrcDigest::new(CrcAlgorithm::Crc32Iscsi);
                pieces.for_each(|piece| digest.update(piece));
                digest.finalize().to_le_bytes().get(..4) == Some(expected)
            }
            Self::XxHash64 => {
                let mut hasher = XxHash64::with_seed(0);
                pieces.for_each(|piece| hasher.write(piece));
                hasher.finish().to_le_bytes() == expected
            }
            Self::Sha256 => {
                let mut hasher = sha2::Sha256::new();
                pieces.for_each(|piece| hasher.update(piece));
                hasher.finalize().as_slice() == expected
            }
            Self::Blake2b => {
                let mut hasher = Blake2b256::new();
                pieces.for_each(|piece| hasher.update(piece));
                hasher.finalize().as_slice() == expected
            }
        }
    }
}

/// The hash by which names of entries and extended attributes are found.
pub(super) fn name_hash(name: &[u8]) -> u64 {
    crc32c_from(!1, name)
}

/// The hash by which a further name of an inode is found.
pub(super) fn further_name_hash(parent: u64, name: &[u8]) -> u64 {
    let low = u32::try_from(parent & u64::from(u32::MAX)).expect("it was cut to 32 bits");
    crc32c_from(low, name)
}

/// Continues a CRC-32C from a state that is not inverted at the end.
fn crc32c_from(state: u32, bytes: &[u8]) -> u64 {
    let mut digest = CrcDigest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(state));
    digest.update(bytes);
    !digest.finalize() & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_their_standards() {
        let pieces = || [b"1234".as_slice(), b"56789"].into_iter();
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len() / 2)
                .map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap())
                .collect()
        };
        for (kind, expected) in [
            (Checksum::Crc32c, "839206e3"),
            (Checksum::XxHash64, "83aee640db41b88c"),
            (
                Checksum::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
            (
                Checksum::Blake2b,
                "16e0bf1f85594a11e75030981c0b670370b3ad83a43f49ae58a2fd6f6513cde9",
            ),
        ] {
            let mut expected = hex(expected);
            assert!(kind.fits(pieces(), Some(&expected)), "{kind:?}");
            expected[0] ^= 1;
            assert!(!kind.fits(pieces(), Some(&expected)), "{kind:?}");
            assert!(!kind.fits(pieces(), Some(&expected[1..])), "{kind:?}");
        }
        // As `btrfs inspect-internal dump-tree` shows the keys of entries named so.
        assert_eq!(name_hash(b"default"), 2_378_154_706);
    }
}
