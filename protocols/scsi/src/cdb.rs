//! A command descriptor block.

use crate::wire;

/// The bytes of a command, as the initiator sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cdb {
    bytes: [u8; Cdb::BYTES_MAX],
}

impl Cdb {
    /// The longest that is kept. No command of this device is longer, and one that is has an opcode it does not know.
    pub const BYTES_MAX: usize = 32;

    /// Takes the bytes of a command; what goes beyond [`Cdb::BYTES_MAX`] is dropped, what is missing is zero.
    pub fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: wire::array_at(bytes, 0),
        }
    }

    /// The operation code.
    pub fn opcode(&self) -> u8 {
        self.u8(0)
    }

    /// The service action, of commands that have one.
    pub fn service_action(&self) -> u8 {
        self.u8(1) & 0x1f
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn u8(&self, at: usize) -> u8 {
        wire::u8_at(&self.bytes, at)
    }

    /// Whether all bits of `mask` are set in the byte at `at`.
    pub(crate) fn has(&self, at: usize, mask: u8) -> bool {
        self.u8(at) & mask == mask
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        wire::u16_at(&self.bytes, at)
    }

    pub(crate) fn u24(&self, at: usize) -> u32 {
        wire::u24_at(&self.bytes, at)
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        wire::u32_at(&self.bytes, at)
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        wire::u64_at(&self.bytes, at)
    }
}
