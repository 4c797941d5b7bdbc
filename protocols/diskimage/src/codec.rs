//! Numbers and identifiers as the formats write them.

use crc_fast::{CrcAlgorithm, checksum};

/// A block of zeroes that fields are written into.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Vec<u8>,
}

impl Block {
    pub(crate) fn zeroed(length: usize) -> Self {
        Self {
            bytes: vec![0; length],
        }
    }

    /// Writes `field` at `offset`; what lies behind the end is left out.
    pub(crate) fn put(&mut self, offset: usize, field: &[u8]) {
        let room = self.bytes.get_mut(offset..).unwrap_or_default();
        let length = room.len().min(field.len());
        if let (Some(room), Some(field)) = (room.get_mut(..length), field.get(..length)) {
            room.copy_from_slice(field);
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> bytes::Bytes {
        self.bytes.into()
    }
}

/// CRC-32C, as VHDX has it.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(0)
}

/// An identifier that is always the same for a disk and a purpose: a version 8 UUID (RFC 9562, section 5.8).
pub(crate) fn derived_uuid(identity: &[u8; 16], purpose: u8) -> [u8; 16] {
    let mut uuid = *identity;
    let [first, .., last] = &mut uuid;
    *first ^= purpose;
    *last = last.rotate_left(3) ^ purpose;
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    uuid
}

/// A UUID as Microsoft's formats store it: the first three fields little-endian.
pub(crate) fn mixed_endian(uuid: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = uuid;
    let mut stored = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
    if let Some(tail) = stored.get_mut(8..) {
        tail.copy_from_slice(&rest);
    }
    stored
}
