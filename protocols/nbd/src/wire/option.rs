//! Options and their replies (NBD protocol, "Fixed newstyle negotiation", "Option types", "Option reply types").

use super::reader::text;
use super::{FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, IHAVEOPT, Malformed, OPTION_REPLY_MAGIC, Reader};

/// The client flags that are defined; any other is refused.
pub const HANDSHAKE_FLAG_BITS: u32 = (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) as u32;

/// What a client asks for, `NBD_OPT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionType {
    /// Choose an export; no reply tells an error.
    ExportName,
    /// End the handshake.
    Abort,
    /// Name all exports.
    List,
    /// Go on under TLS.
    StartTls,
    /// Describe an export.
    Info,
    /// Choose an export and start.
    Go,
    /// Allow structured replies.
    StructuredReply,
    /// Name meta contexts.
    ListMetaContext,
    /// Choose meta contexts.
    SetMetaContext,
    /// Use extended headers.
    ExtendedHeaders,
    /// Anything else.
    Unknown(u32),
}

impl From<u32> for OptionType {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            11 => Self::ExtendedHeaders,
            other => Self::Unknown(other),
        }
    }
}

impl From<OptionType> for u32 {
    fn from(option: OptionType) -> Self {
        match option {
            OptionType::ExportName => 1,
            OptionType::Abort => 2,
            OptionType::List => 3,
            OptionType::StartTls => 5,
            OptionType::Info => 6,
            OptionType::Go => 7,
            OptionType::StructuredReply => 8,
            OptionType::ListMetaContext => 9,
            OptionType::SetMetaContext => 10,
            OptionType::ExtendedHeaders => 11,
            OptionType::Unknown(other) => other,
        }
    }
}

/// The fixed start of every option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// What is asked.
    pub option: OptionType,
    /// Bytes that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const LENGTH: usize = 16;

    /// Reads a header.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        if reader.u64()? != IHAVEOPT {
            return Err(Malformed::Magic);
        }
        Ok(Self {
            option: OptionType::from(reader.u32()?),
            length: reader.u32()?,
        })
    }

    /// Appends the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&IHAVEOPT.to_be_bytes());
        out.extend_from_slice(&u32::from(self.option).to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
    }
}

/// The bit that marks `NBD_REP_ERR_*`.
pub const REPLY_ERROR_BIT: u32 = 1 << 31;

/// Kinds of replies to an option, `NBD_REP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyType {
    /// Done.
    Ack,
    /// One export of a list.
    Server,
    /// One fact about an export.
    Info,
    /// One meta context.
    MetaContext,
    /// The option is not known.
    ErrUnsup,
    /// The server does not want to.
    ErrPolicy,
    /// The option makes no sense here, or its bytes are malformed.
    ErrInvalid,
    /// TLS comes first.
    ErrTlsReqd,
    /// No such export.
    ErrUnknown,
    /// The server is going away.
    ErrShutdown,
    /// The option is too large.
    ErrTooBig,
    /// Anything else.
    Other(u32),
}

impl From<ReplyType> for u32 {
    fn from(reply: ReplyType) -> Self {
        match reply {
            ReplyType::Ack => 1,
            ReplyType::Server => 2,
            ReplyType::Info => 3,
            ReplyType::MetaContext => 4,
            ReplyType::ErrUnsup => REPLY_ERROR_BIT + 1,
            ReplyType::ErrPolicy => REPLY_ERROR_BIT + 2,
            ReplyType::ErrInvalid => REPLY_ERROR_BIT + 3,
            ReplyType::ErrTlsReqd => REPLY_ERROR_BIT + 5,
            ReplyType::ErrUnknown => REPLY_ERROR_BIT + 6,
            ReplyType::ErrShutdown => REPLY_ERROR_BIT + 7,
            ReplyType::ErrTooBig => REPLY_ERROR_BIT + 9,
            ReplyType::Other(number) => number,
        }
    }
}

impl From<u32> for ReplyType {
    fn from(number: u32) -> Self {
        const KNOWN: [ReplyType; 11] = [
            ReplyType::Ack,
            ReplyType::Server,
            ReplyType::Info,
            ReplyType::MetaContext,
            ReplyType::ErrUnsup,
            ReplyType::ErrPolicy,
            ReplyType::ErrInvalid,
            ReplyType::ErrTlsReqd,
            ReplyType::ErrUnknown,
            ReplyType::ErrShutdown,
            ReplyType::ErrTooBig,
        ];
        KNOWN
            .into_iter()
            .find(|&known| u32::from(known) == number)
            .unwrap_or(Self::Other(number))
    }
}

impl ReplyType {
    /// Whether this is one of `NBD_REP_ERR_*`.
    pub fn is_error(self) -> bool {
        u32::from(self) & REPLY_ERROR_BIT != 0
    }
}

/// The fixed start of every reply to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that is answered.
    pub option: OptionType,
    /// What the answer is.
    pub reply: ReplyType,
    /// Bytes that follow.
    pub length: u32,
}

impl OptionReplyHeader {
    /// Bytes on the wire.
    pub const LENGTH: usize = 20;

    /// Reads a header.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        if reader.u64()? != OPTION_REPLY_MAGIC {
            return Err(Malformed::Magic);
        }
        Ok(Self {
            option: OptionType::from(reader.u32()?),
            reply: ReplyType::from(reader.u32()?),
            length: reader.u32()?,
        })
    }
}

/// A reply to an option, with its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionReply<'a> {
    /// The option that is answered.
    pub option: OptionType,
    /// What the answer is.
    pub reply: ReplyType,
    /// What follows the header.
    pub data: &'a [u8],
}

impl OptionReply<'_> {
    /// Appends the reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.data.len()).expect("a reply to an option is short");
        out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&u32::from(self.option).to_be_bytes());
        out.extend_from_slice(&u32::from(self.reply).to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(self.data);
    }
}

/// Facts about an export, `NBD_INFO_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoType {
    /// Size and transmission flags.
    Export,
    /// Its proper name.
    Name,
    /// A text for people.
    Description,
    /// Block size constraints.
    BlockSize,
    /// Anything else.
    Unknown(u16),
}

impl From<u16> for InfoType {
    fn from(number: u16) -> Self {
        match number {
            0 => Self::Export,
            1 => Self::Name,
            2 => Self::Description,
            3 => Self::BlockSize,
            other => Self::Unknown(other),
        }
    }
}

impl From<InfoType> for u16 {
    fn from(info: InfoType) -> Self {
        match info {
            InfoType::Export => 0,
            InfoType::Name => 1,
            InfoType::Description => 2,
            InfoType::BlockSize => 3,
            InfoType::Unknown(other) => other,
        }
    }
}

/// What follows the header of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoRequest {
    /// The export.
    pub name: String,
    /// What the client wants to know beside the size.
    pub wants: Vec<InfoType>,
}

impl GoRequest {
    /// Reads the data of the option.
    pub fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(data);
        let name = reader.string()?.to_owned();
        let count = reader.u16()?;
        let mut wants = Vec::new();
        for _ in 0..count {
            wants.push(InfoType::from(reader.u16()?));
        }
        reader.finish()?;
        Ok(Self { name, wants })
    }

    /// Appends the data of the option.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_string(&self.name, out);
        let count = u16::try_from(self.wants.len()).expect("a client asks for a few facts");
        out.extend_from_slice(&count.to_be_bytes());
        for &info in &self.wants {
            out.extend_from_slice(&u16::from(info).to_be_bytes());
        }
    }
}

/// What follows the header of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaContextRequest {
    /// The export.
    pub name: String,
    /// Names of contexts, or of groups of them.
    pub queries: Vec<String>,
}

impl MetaContextRequest {
    /// Reads the data of the option.
    pub fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(data);
        let name = reader.string()?.to_owned();
        let count = reader.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(reader.string()?.to_owned());
        }
        reader.finish()?;
        Ok(Self { name, queries })
    }

    /// Appends the data of the option.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_string(&self.name, out);
        let count = u32::try_from(self.queries.len()).expect("a client asks for a few contexts");
        out.extend_from_slice(&count.to_be_bytes());
        for query in &self.queries {
            encode_string(query, out);
        }
    }
}

/// `NBD_INFO_EXPORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportInfo {
    /// Capacity.
    pub size_bytes: u64,
    /// `NBD_FLAG_*`.
    pub flags: u16,
}

impl ExportInfo {
    /// Reads what follows the information type.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            size_bytes: reader.u64()?,
            flags: reader.u16()?,
        })
    }

    /// Appends size and flags.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.size_bytes.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
    }
}

/// `NBD_INFO_BLOCK_SIZE` ("Block size constraints").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Smallest unit of any request.
    pub minimum: u32,
    /// Unit that costs least.
    pub preferred: u32,
    /// Largest payload.
    pub maximum: u32,
}

impl BlockSizes {
    /// Reads what follows the information type.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            minimum: reader.u32()?,
            preferred: reader.u32()?,
            maximum: reader.u32()?,
        })
    }

    /// Appends the three sizes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for size in [self.minimum, self.preferred, self.maximum] {
            out.extend_from_slice(&size.to_be_bytes());
        }
    }
}

/// Appends a string behind its length.
fn encode_string(string: &str, out: &mut Vec<u8>) {
    let length = u32::try_from(string.len()).expect("a string of the protocol is short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(string.as_bytes());
}

impl OptionHeader {
    /// Reads the name that is all the data of `NBD_OPT_EXPORT_NAME`.
    pub fn export_name(data: &[u8]) -> Result<&str, Malformed> {
        text(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire_and_a_wrong_magic_does_not() {
        let header = OptionHeader {
            option: OptionType::Go,
            length: 77,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!(bytes.len(), OptionHeader::LENGTH);
        assert_eq!(OptionHeader::decode(&mut Reader::new(&bytes)), Ok(header));
        bytes[3] ^= 1;
        assert_eq!(
            OptionHeader::decode(&mut Reader::new(&bytes)),
            Err(Malformed::Magic)
        );
    }

    #[test]
    fn a_reply_survives_the_wire_and_a_wrong_magic_does_not() {
        let mut bytes = Vec::new();
        OptionReply {
            option: OptionType::List,
            reply: ReplyType::ErrPolicy,
            data: b"no",
        }
        .encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        let header = OptionReplyHeader::decode(&mut reader).unwrap();
        assert_eq!(
            (header.option, header.reply, header.length),
            (OptionType::List, ReplyType::ErrPolicy, 2)
        );
        assert!(header.reply.is_error() && reader.rest() == b"no");
        bytes[7] ^= 1;
        assert_eq!(
            OptionReplyHeader::decode(&mut Reader::new(&bytes)),
            Err(Malformed::Magic)
        );
    }

    #[test]
    fn a_go_request_survives_the_wire_and_a_wrong_count_does_not() {
        let request = GoRequest {
            name: "vm/disk 0".into(),
            wants: vec![InfoType::BlockSize, InfoType::Unknown(9)],
        };
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        assert_eq!(GoRequest::decode(&bytes), Ok(request));
        let count = bytes.len() - 5;
        bytes[count] = 3;
        assert_eq!(GoRequest::decode(&bytes), Err(Malformed::Short));
        bytes[count] = 1;
        assert_eq!(GoRequest::decode(&bytes), Err(Malformed::Trailing));
    }

    #[test]
    fn a_context_request_survives_the_wire_and_wrong_lengths_do_not() {
        let request = MetaContextRequest {
            name: String::new(),
            queries: vec!["base:".into(), "qemu:x".into()],
        };
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        assert_eq!(MetaContextRequest::decode(&bytes), Ok(request));
        bytes[4] = 0xff;
        assert_eq!(MetaContextRequest::decode(&bytes), Err(Malformed::Short));
        bytes[0] = 0xff;
        assert_eq!(
            MetaContextRequest::decode(&bytes),
            Err(Malformed::LongString)
        );
    }

    #[test]
    fn facts_survive_the_wire() {
        let (export, sizes) = (
            ExportInfo {
                size_bytes: 1 << 40,
                flags: 0x8001,
            },
            BlockSizes {
                minimum: 512,
                preferred: 4096,
                maximum: 1 << 25,
            },
        );
        let mut bytes = Vec::new();
        export.encode(&mut bytes);
        sizes.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(ExportInfo::decode(&mut reader), Ok(export));
        assert_eq!(BlockSizes::decode(&mut reader), Ok(sizes));
        assert_eq!(reader.finish(), Ok(()));
        assert_eq!(
            BlockSizes::decode(&mut Reader::new(&bytes[12..])),
            Err(Malformed::Short)
        );
    }

    #[test]
    fn names_that_are_not_text_are_refused() {
        assert_eq!(OptionHeader::export_name(b"\xff"), Err(Malformed::NotText));
        assert_eq!(
            OptionHeader::export_name(&[b'a'; 4097]),
            Err(Malformed::LongString)
        );
    }
}
