//! CRC32C over headers and data (RFC 7143, 13.1).

use crc_fast::{CrcAlgorithm, Digest};

/// Which parts of a PDU carry a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digests {
    /// Behind the header segments.
    pub header: bool,
    /// Behind a data segment that is not empty.
    pub data: bool,
}

impl Digests {
    /// Bytes behind the header.
    pub fn header_length(self) -> usize {
        if self.header { DIGEST_LENGTH } else { 0 }
    }

    /// Bytes behind a data segment of `length` bytes.
    pub fn data_length(self, length: usize) -> usize {
        if self.data && length > 0 {
            DIGEST_LENGTH
        } else {
            0
        }
    }
}

/// A digest on its way over one piece after the other.
#[derive(Debug, Clone)]
pub struct Digesting(Digest);

/// That of nothing.
impl Default for Digesting {
    fn default() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

impl Digesting {
    /// Goes on over `bytes`.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all, as it stands on the wire.
    pub fn finish(self) -> [u8; DIGEST_LENGTH] {
        let sum = u32::try_from(self.0.finalize()).expect("a CRC of 32 bits has no more");
        // The standard sends the reflected remainder lowest byte first (RFC 3720, appendix B.4).
        sum.to_le_bytes()
    }
}

/// The digest of `pieces`, one after the other, as it stands on the wire.
pub fn digest<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> [u8; DIGEST_LENGTH] {
    let mut digest = Digesting::default();
    for piece in pieces {
        digest.add(piece);
    }
    digest.finish()
}

/// Bytes of a digest.
pub const DIGEST_LENGTH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143, appendix A.5: CRC examples.
    #[test]
    fn examples_of_the_standard() {
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        let check = |data: &[u8], wanted: [u8; 4]| assert_eq!(digest([data]), wanted);
        check(&[0; 32], [0xaa, 0x36, 0x91, 0x8a]);
        check(&[0xff; 32], [0x43, 0xab, 0xa8, 0x62]);
        check(&ascending, [0x4e, 0x79, 0xdd, 0x46]);
        check(&descending, [0x5c, 0xdb, 0x3f, 0x11]);
        assert_eq!(
            digest([&ascending[..7], &ascending[7..]]),
            [0x4e, 0x79, 0xdd, 0x46]
        );
    }
}
