//! Requests of the transmission phase (NBD protocol, "Request message", "Request types", "Command flags").

use super::{EXTENDED_REQUEST_MAGIC, Malformed, REQUEST_MAGIC, Reader};

/// Which forms of requests and replies a connection has agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Extended requests and replies.
    Extended,
}

impl Dialect {
    /// Bytes of a request header.
    pub fn request_length(self) -> usize {
        match self {
            Self::Simple | Self::Structured => 28,
            Self::Extended => 32,
        }
    }
}

/// What is asked, `NBD_CMD_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Read bytes.
    Read,
    /// Write bytes.
    Write,
    /// Disconnect.
    Disc,
    /// Make answered writes durable.
    Flush,
    /// Forget a range.
    Trim,
    /// Bring a range into memory.
    Cache,
    /// Write zeroes.
    WriteZeroes,
    /// Describe a range.
    BlockStatus,
    /// Anything else.
    Unknown(u16),
}

impl From<u16> for Command {
    fn from(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disc,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Unknown(other),
        }
    }
}

impl From<Command> for u16 {
    fn from(command: Command) -> Self {
        match command {
            Command::Read => 0,
            Command::Write => 1,
            Command::Disc => 2,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::Cache => 5,
            Command::WriteZeroes => 6,
            Command::BlockStatus => 7,
            Command::Unknown(other) => other,
        }
    }
}

/// `NBD_CMD_FLAG_*` of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandFlags(pub u16);

impl CommandFlags {
    /// Durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// Keep the space of zeroes.
    pub const NO_HOLE: u16 = 1 << 1;
    /// Answer a read in one chunk.
    pub const DF: u16 = 1 << 2;
    /// Describe one extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail at once if zeroes would be as slow as a write.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is that of the payload (extended headers).
    pub const PAYLOAD_LEN: u16 = 1 << 5;

    /// Whether `flag` is set.
    pub fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }
}

/// The fixed part of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its flags.
    pub flags: CommandFlags,
    /// What is asked.
    pub command: Command,
    /// What the reply repeats.
    pub cookie: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the range, or of the payload.
    pub length: u64,
}

impl Request {
    /// Reads a request in the form of `dialect`.
    pub fn decode(dialect: Dialect, reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let magic = match dialect {
            Dialect::Simple | Dialect::Structured => REQUEST_MAGIC,
            Dialect::Extended => EXTENDED_REQUEST_MAGIC,
        };
        if reader.u32()? != magic {
            return Err(Malformed::Magic);
        }
        Ok(Self {
            flags: CommandFlags(reader.u16()?),
            command: Command::from(reader.u16()?),
            cookie: reader.u64()?,
            offset: reader.u64()?,
            length: match dialect {
                Dialect::Simple | Dialect::Structured => u64::from(reader.u32()?),
                Dialect::Extended => reader.u64()?,
            },
        })
    }

    /// Appends the request in the form of `dialect`.
    ///
    /// # Panics
    /// If the length needs 64 bits and the dialect has 32.
    pub fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) {
        let magic = match dialect {
            Dialect::Simple | Dialect::Structured => REQUEST_MAGIC,
            Dialect::Extended => EXTENDED_REQUEST_MAGIC,
        };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.flags.0.to_be_bytes());
        out.extend_from_slice(&u16::from(self.command).to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        match dialect {
            Dialect::Simple | Dialect::Structured => {
                let length =
                    u32::try_from(self.length).expect("compact requests have 32-bit lengths");
                out.extend_from_slice(&length.to_be_bytes());
            }
            Dialect::Extended => out.extend_from_slice(&self.length.to_be_bytes()),
        }
    }

    /// Bytes that follow the request.
    pub fn payload_length(&self, dialect: Dialect) -> u64 {
        let carries = match dialect {
            Dialect::Simple | Dialect::Structured => self.command == Command::Write,
            Dialect::Extended => self.flags.has(CommandFlags::PAYLOAD_LEN),
        };
        if carries { self.length } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dialect: Dialect) {
        let request = Request {
            flags: CommandFlags(CommandFlags::FUA),
            command: Command::Write,
            cookie: 0x0123_4567_89ab_cdef,
            offset: 1 << 40,
            length: 65536,
        };
        let mut bytes = Vec::new();
        request.encode(dialect, &mut bytes);
        assert_eq!(bytes.len(), dialect.request_length());
        assert_eq!(
            Request::decode(dialect, &mut Reader::new(&bytes)),
            Ok(request)
        );
        for position in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[position] ^= 1;
            assert_ne!(
                Request::decode(dialect, &mut Reader::new(&wrong)),
                Ok(request),
                "byte {position}"
            );
        }
        bytes.pop();
        assert_eq!(
            Request::decode(dialect, &mut Reader::new(&bytes)),
            Err(Malformed::Short)
        );
    }

    #[test]
    fn compact_requests_survive_the_wire_and_a_wrong_byte_shows() {
        check(Dialect::Structured);
    }

    #[test]
    fn extended_requests_survive_the_wire_and_a_wrong_byte_shows() {
        check(Dialect::Extended);
    }

    #[test]
    fn only_marked_requests_carry_a_payload() {
        let mut request = Request {
            flags: CommandFlags::default(),
            command: Command::Write,
            cookie: 0,
            offset: 0,
            length: 512,
        };
        assert_eq!(request.payload_length(Dialect::Simple), 512);
        assert_eq!(request.payload_length(Dialect::Extended), 0);
        request.flags = CommandFlags(CommandFlags::PAYLOAD_LEN);
        request.command = Command::BlockStatus;
        assert_eq!(request.payload_length(Dialect::Extended), 512);
        assert_eq!(request.payload_length(Dialect::Structured), 0);
    }
}
