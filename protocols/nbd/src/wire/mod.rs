//! Bytes on the wire (docs/protocols/nbd.md; NBD protocol, "Values").
//!
//! Everything is big-endian. Decoders take what a peer sent and bound it before anything is allocated.

mod option;
mod reader;
mod reply;
mod request;

pub use option::{
    BlockSizes, ExportInfo, GoRequest, HANDSHAKE_FLAG_BITS, InfoType, MetaContextRequest,
    OptionHeader, OptionReply, OptionReplyHeader, OptionType, REPLY_ERROR_BIT, ReplyType,
};
pub use reader::{Malformed, Reader};
pub use reply::{ChunkHeader, ChunkType, SimpleReply, Status};
pub use request::{Command, CommandFlags, Dialect, Request};

/// `NBDMAGIC`, the first eight bytes of every server.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, the newstyle greeting and the start of every option.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Start of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of a compact request, `NBD_REQUEST_MAGIC`.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of an extended request, `NBD_EXTENDED_REQUEST_MAGIC`.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of a simple reply, `NBD_SIMPLE_REPLY_MAGIC`.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a structured reply chunk, `NBD_STRUCTURED_REPLY_MAGIC`.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Start of an extended reply chunk, `NBD_EXTENDED_REPLY_MAGIC`.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flag: the server speaks fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the 124 zeroes after `NBD_OPT_EXPORT_NAME` can be left out.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Longest string of the protocol, in bytes ("String values").
pub const STRING_MAX: usize = 4096;
/// Largest payload of a request or a read, which is also the maximum block size that is advertised.
pub const PAYLOAD_MAX: u32 = 32 * 1024 * 1024;

/// Transmission flags, `NBD_FLAG_*`.
pub mod transmission_flags {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// The export takes no writes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `NBD_CMD_FLUSH` is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// `NBD_CMD_FLAG_FUA` is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `NBD_CMD_TRIM` is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `NBD_CMD_WRITE_ZEROES` is understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// `NBD_CMD_FLAG_DF` is understood.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers all of them.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `NBD_CMD_CACHE` is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// `NBD_CMD_FLAG_FAST_ZERO` is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}
