//! The basic header segment that all PDUs share (RFC 7143, 11.2.1).

use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first 48 bytes of a PDU, before its kind is known.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Opcode, with [`IMMEDIATE`](Header::IMMEDIATE) and a reserved bit.
    pub opcode: u8,
    /// [`FINAL`](Header::FINAL) and bits of the kind.
    pub flags: u8,
    /// Fields of the kind.
    pub specific: [u8; 2],
    /// Length of the additional header segments, in words of four bytes.
    pub ahs_words: u8,
    /// Length of the data segment in bytes, without padding.
    pub data_length: U24,
    /// Logical unit number, or fields of the kind.
    pub lun: [u8; 8],
    /// Initiator task tag.
    pub task_tag: U32,
    /// Fields of the kind.
    pub fields: [u8; 28],
}

impl Header {
    /// Bit of the opcode: the request does not take a place in the order of commands.
    pub const IMMEDIATE: u8 = 0x40;
    /// Bit of the flags: the last PDU of a sequence.
    pub const FINAL: u8 = 0x80;

    /// The kind.
    pub fn kind(&self) -> u8 {
        self.opcode & 0x3f
    }

    /// Whether the request is for immediate delivery.
    pub fn is_immediate(&self) -> bool {
        self.opcode & Self::IMMEDIATE != 0
    }

    /// Whether this is the last of its sequence.
    pub fn is_final(&self) -> bool {
        self.flags & Self::FINAL != 0
    }

    /// Bytes of additional header segments.
    pub fn ahs_length(&self) -> usize {
        usize::from(self.ahs_words) * 4
    }

    /// Looks at the header as one of its kind.
    pub fn view<T: Pdu>(&self) -> T {
        T::read_from_bytes(self.as_bytes()).expect("every header has 48 bytes")
    }
}

/// The header of one kind of PDU.
pub trait Pdu: FromBytes + IntoBytes + Immutable {
    /// The header before its kind is known.
    fn header(&self) -> Header {
        Header::read_from_bytes(self.as_bytes()).expect("every header has 48 bytes")
    }
}

/// A 24-bit number.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct U24([u8; 3]);

impl U24 {
    /// The largest.
    pub const MAX: u32 = (1 << 24) - 1;

    /// A number that fits: lengths of data segments are negotiated below 2^24.
    ///
    /// # Panics
    /// If it does not.
    pub fn new(length: usize) -> Self {
        let number = u32::try_from(length)
            .ok()
            .filter(|number| *number <= Self::MAX)
            .expect("a data segment is shorter than 16 MiB");
        let [_, high, middle, low] = number.to_be_bytes();
        Self([high, middle, low])
    }

    /// The number.
    pub fn get(self) -> usize {
        let [high, middle, low] = self.0;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }
}

/// Bytes that fill a segment of `length` bytes up to a multiple of four.
pub fn padding(length: usize) -> usize {
    length.wrapping_neg() & 3
}

/// What kind of PDU a header begins (RFC 7143, 11.2.1.2).
pub mod opcode {
    /// Ping of the initiator.
    pub const NOP_OUT: u8 = 0x00;
    /// A SCSI command.
    pub const SCSI_COMMAND: u8 = 0x01;
    /// A task management function.
    pub const TASK_MANAGEMENT_REQUEST: u8 = 0x02;
    /// A step of the login.
    pub const LOGIN_REQUEST: u8 = 0x03;
    /// Keys in full feature phase.
    pub const TEXT_REQUEST: u8 = 0x04;
    /// Data of a write.
    pub const DATA_OUT: u8 = 0x05;
    /// The end of a connection or session.
    pub const LOGOUT_REQUEST: u8 = 0x06;
    /// A request to send again; part of recovery levels that are not offered.
    pub const SNACK: u8 = 0x10;
    /// Ping of the target, or its answer to one.
    pub const NOP_IN: u8 = 0x20;
    /// Status of a command.
    pub const SCSI_RESPONSE: u8 = 0x21;
    /// Outcome of a task management function.
    pub const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    /// Answer to a step of the login.
    pub const LOGIN_RESPONSE: u8 = 0x23;
    /// Answer to keys.
    pub const TEXT_RESPONSE: u8 = 0x24;
    /// Data of a read.
    pub const DATA_IN: u8 = 0x25;
    /// Answer to a logout.
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    /// Ready to transfer: asks for data of a write.
    pub const R2T: u8 = 0x31;
    /// An event at the target.
    pub const ASYNC_MESSAGE: u8 = 0x32;
    /// A PDU that was not taken.
    pub const REJECT: u8 = 0x3f;
}

/// Bytes of a basic header segment.
pub const HEADER_LENGTH: usize = 48;
const _: () = assert!(size_of::<Header>() == HEADER_LENGTH);

impl Pdu for Header {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_padded_to_words() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
        assert_eq!(U24::new(0x01_02_03).get(), 0x01_02_03);
        assert_eq!(U24::new(U24::MAX as usize).get(), U24::MAX as usize);
    }
}
