//! Replies of the transmission phase (NBD protocol, "Simple reply message", "Structured reply chunk message",
//! "Extended reply chunk message", "Error values").

use super::{
    Dialect, EXTENDED_REPLY_MAGIC, Malformed, Reader, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};

/// Why a request failed, `NBD_E*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `NBD_EPERM`: the export is read-only or the peer may not.
    Permission,
    /// `NBD_EIO`: the storage failed.
    Io,
    /// `NBD_ENOMEM`.
    Memory,
    /// `NBD_EINVAL`: the request makes no sense.
    Invalid,
    /// `NBD_ENOSPC`: no room, or a write beyond the end.
    NoSpace,
    /// `NBD_EOVERFLOW`: too long for one piece.
    Overflow,
    /// `NBD_ENOTSUP`: not done here.
    NotSupported,
    /// `NBD_ESHUTDOWN`: the server or the export is going away.
    Shutdown,
    /// Anything else.
    Other(u32),
}

impl From<Status> for u32 {
    fn from(status: Status) -> Self {
        match status {
            Status::Permission => 1,
            Status::Io => 5,
            Status::Memory => 12,
            Status::Invalid => 22,
            Status::NoSpace => 28,
            Status::Overflow => 75,
            Status::NotSupported => 95,
            Status::Shutdown => 108,
            Status::Other(number) => number,
        }
    }
}

impl From<u32> for Status {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Permission,
            5 => Self::Io,
            12 => Self::Memory,
            22 => Self::Invalid,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSupported,
            108 => Self::Shutdown,
            other => Self::Other(other),
        }
    }
}

/// A reply without chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0, or why the request failed.
    pub error: u32,
    /// The cookie of the request.
    pub cookie: u64,
}

impl SimpleReply {
    /// Bytes on the wire.
    pub const LENGTH: usize = 16;

    /// Reads what follows the magic number.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            error: reader.u32()?,
            cookie: reader.u64()?,
        })
    }

    /// Appends the reply with its magic number.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&self.error.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
    }
}

/// What a chunk holds, `NBD_REPLY_TYPE_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkType {
    /// Nothing.
    None,
    /// Bytes of a read, behind their offset.
    OffsetData,
    /// A stretch of zeroes: offset and length.
    OffsetHole,
    /// Extents of one context, 32 bits each.
    BlockStatus,
    /// Extents of one context, 64 bits each.
    BlockStatusExt,
    /// The request failed.
    Error,
    /// The request failed at an offset.
    ErrorOffset,
    /// Anything else.
    Unknown(u16),
}

impl From<ChunkType> for u16 {
    fn from(chunk: ChunkType) -> Self {
        match chunk {
            ChunkType::None => 0,
            ChunkType::OffsetData => 1,
            ChunkType::OffsetHole => 2,
            ChunkType::BlockStatus => 5,
            ChunkType::BlockStatusExt => 6,
            ChunkType::Error => (1 << 15) + 1,
            ChunkType::ErrorOffset => (1 << 15) + 2,
            ChunkType::Unknown(other) => other,
        }
    }
}

impl From<u16> for ChunkType {
    fn from(number: u16) -> Self {
        match number {
            0 => Self::None,
            1 => Self::OffsetData,
            2 => Self::OffsetHole,
            5 => Self::BlockStatus,
            6 => Self::BlockStatusExt,
            0x8001 => Self::Error,
            0x8002 => Self::ErrorOffset,
            other => Self::Unknown(other),
        }
    }
}

/// The fixed part of a structured or extended chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Whether this is the last chunk of the reply, `NBD_REPLY_FLAG_DONE`.
    pub done: bool,
    /// What follows.
    pub chunk: ChunkType,
    /// The cookie of the request.
    pub cookie: u64,
    /// The offset of the request; only extended chunks carry it.
    pub offset: u64,
    /// Bytes that follow.
    pub length: u32,
}

impl ChunkHeader {
    /// Bytes on the wire, with the magic number.
    pub fn encoded_length(dialect: Dialect) -> usize {
        match dialect {
            Dialect::Simple | Dialect::Structured => 20,
            Dialect::Extended => 32,
        }
    }

    /// Reads what follows the magic number.
    pub fn decode(dialect: Dialect, reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let flags = reader.u16()?;
        let chunk = ChunkType::from(reader.u16()?);
        let cookie = reader.u64()?;
        let (offset, length) = match dialect {
            Dialect::Simple | Dialect::Structured => (0, reader.u32()?),
            Dialect::Extended => (
                reader.u64()?,
                u32::try_from(reader.u64()?).map_err(|_| Malformed::Undefined)?,
            ),
        };
        Ok(Self {
            done: flags & FLAG_DONE != 0,
            chunk,
            cookie,
            offset,
            length,
        })
    }

    /// Appends the header with its magic number.
    pub fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) {
        let flags = if self.done { FLAG_DONE } else { 0 };
        let magic = match dialect {
            Dialect::Simple | Dialect::Structured => STRUCTURED_REPLY_MAGIC,
            Dialect::Extended => EXTENDED_REPLY_MAGIC,
        };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&u16::from(self.chunk).to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        match dialect {
            Dialect::Simple | Dialect::Structured => {
                out.extend_from_slice(&self.length.to_be_bytes())
            }
            Dialect::Extended => {
                out.extend_from_slice(&self.offset.to_be_bytes());
                out.extend_from_slice(&u64::from(self.length).to_be_bytes());
            }
        }
    }
}

const FLAG_DONE: u16 = 1 << 0;

#[cfg(test)]
mod tests {
    use super::*;

    fn check_chunk(dialect: Dialect, magic: u32) {
        let offset = if dialect == Dialect::Extended {
            1 << 33
        } else {
            0
        };
        let header = ChunkHeader {
            done: true,
            chunk: ChunkType::OffsetHole,
            cookie: 99,
            offset,
            length: 12,
        };
        let mut bytes = Vec::new();
        header.encode(dialect, &mut bytes);
        assert_eq!(bytes.len(), ChunkHeader::encoded_length(dialect));
        assert_eq!(bytes[..4], magic.to_be_bytes());
        assert_eq!(
            ChunkHeader::decode(dialect, &mut Reader::new(&bytes[4..])),
            Ok(header)
        );
        for position in [5, 7, 15, bytes.len() - 1] {
            let mut wrong = bytes[4..].to_vec();
            wrong[position - 4] ^= 1;
            assert_ne!(
                ChunkHeader::decode(dialect, &mut Reader::new(&wrong)),
                Ok(header),
                "byte {position}"
            );
        }
    }

    #[test]
    fn chunks_survive_the_wire_and_a_wrong_byte_shows() {
        check_chunk(Dialect::Structured, STRUCTURED_REPLY_MAGIC);
        check_chunk(Dialect::Extended, EXTENDED_REPLY_MAGIC);
    }

    #[test]
    fn simple_replies_survive_the_wire_and_a_wrong_byte_shows() {
        let reply = SimpleReply {
            error: Status::NoSpace.into(),
            cookie: 7,
        };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        assert_eq!(bytes.len(), SimpleReply::LENGTH);
        assert_eq!(
            SimpleReply::decode(&mut Reader::new(&bytes[4..])),
            Ok(reply)
        );
        bytes[7] ^= 1;
        assert_ne!(
            SimpleReply::decode(&mut Reader::new(&bytes[4..])),
            Ok(reply)
        );
    }

    #[test]
    fn error_numbers_are_those_of_the_protocol() {
        for number in [1, 5, 12, 22, 28, 75, 95, 108, 4711] {
            assert_eq!(u32::from(Status::from(number)), number);
        }
    }
}
