//! The client's side of the handshake.

use std::io::{Read, Write};

use super::address::Stream;
use super::{ClientError, RemoteExport, RemoteSummary};
use crate::wire::{
    BlockSizes, Dialect, ExportInfo, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, GoRequest, IHAVEOPT,
    InfoType, MetaContextRequest, NBD_MAGIC, OptionHeader, OptionReplyHeader, OptionType, Reader,
    ReplyType,
};

/// A handshake that is under way.
#[derive(Debug)]
pub(super) struct Negotiation {
    stream: Stream,
}

impl Negotiation {
    /// Reads the greeting and answers it.
    pub(super) fn start(mut stream: Stream) -> Result<Self, ClientError> {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        let mut reader = Reader::new(&greeting);
        if reader.u64()? != NBD_MAGIC || reader.u64()? != IHAVEOPT {
            return Err(ClientError::Protocol("not a newstyle NBD server"));
        }
        let flags = reader.u16()?;
        if flags & FLAG_FIXED_NEWSTYLE == 0 {
            return Err(ClientError::Protocol("not a fixed newstyle NBD server"));
        }
        let answer = u32::from(flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));
        stream.write_all(&answer.to_be_bytes())?;
        Ok(Self { stream })
    }

    pub(super) fn list(&mut self) -> Result<Vec<RemoteSummary>, ClientError> {
        self.send(OptionType::List, &[])?;
        let mut summaries = Vec::new();
        while let Some((reply, data)) = self.reply(OptionType::List)? {
            if reply != ReplyType::Server || summaries.len() >= REPLIES_MAX {
                return Err(ClientError::Protocol("unexpected reply to a list"));
            }
            let mut reader = Reader::new(&data);
            let name = reader.string()?.to_owned();
            summaries.push(RemoteSummary {
                name,
                description: lossy(reader.rest()),
            });
        }
        Ok(summaries)
    }

    /// Agrees on the richest dialect that the server has.
    pub(super) fn dialect(&mut self, extended_headers: bool) -> Result<Dialect, ClientError> {
        if extended_headers && self.ask(OptionType::ExtendedHeaders)? {
            return Ok(Dialect::Extended);
        }
        Ok(if self.ask(OptionType::StructuredReply)? {
            Dialect::Structured
        } else {
            Dialect::Simple
        })
    }

    pub(super) fn set_meta_context(
        &mut self,
        name: &str,
        queries: &[String],
    ) -> Result<Vec<(u32, String)>, ClientError> {
        let mut data = Vec::new();
        MetaContextRequest {
            name: name.to_owned(),
            queries: queries.to_vec(),
        }
        .encode(&mut data);
        self.send(OptionType::SetMetaContext, &data)?;
        let mut contexts = Vec::new();
        while let Some((reply, data)) = self.reply(OptionType::SetMetaContext)? {
            if reply != ReplyType::MetaContext || contexts.len() >= REPLIES_MAX {
                return Err(ClientError::Protocol("unexpected reply to meta contexts"));
            }
            let mut reader = Reader::new(&data);
            contexts.push((reader.u32()?, lossy(reader.rest())));
        }
        Ok(contexts)
    }

    pub(super) fn info(&mut self, name: &str) -> Result<RemoteExport, ClientError> {
        self.describe(OptionType::Info, name)
    }

    /// Ends the handshake with the export of that name.
    pub(super) fn go(mut self, name: &str) -> Result<(RemoteExport, Stream), ClientError> {
        let export = self.describe(OptionType::Go, name)?;
        Ok((export, self.stream))
    }

    /// Ends the handshake without an export.
    pub(super) fn abort(mut self) -> Result<(), ClientError> {
        self.send(OptionType::Abort, &[])
    }

    fn describe(&mut self, option: OptionType, name: &str) -> Result<RemoteExport, ClientError> {
        let wants = vec![InfoType::Name, InfoType::Description, InfoType::BlockSize];
        let mut data = Vec::new();
        GoRequest {
            name: name.to_owned(),
            wants,
        }
        .encode(&mut data);
        self.send(option, &data)?;
        let mut export = RemoteExport {
            size_bytes: 0,
            flags: 0,
            name: None,
            description: None,
            block_sizes: None,
        };
        while let Some((reply, data)) = self.reply(option)? {
            if reply != ReplyType::Info {
                return Err(ClientError::Protocol(
                    "unexpected reply to a request for an export",
                ));
            }
            let mut reader = Reader::new(&data);
            match InfoType::from(reader.u16()?) {
                InfoType::Export => {
                    let info = ExportInfo::decode(&mut reader)?;
                    export.size_bytes = info.size_bytes;
                    export.flags = info.flags;
                }
                InfoType::Name => export.name = Some(lossy(reader.rest())),
                InfoType::Description => export.description = Some(lossy(reader.rest())),
                InfoType::BlockSize => export.block_sizes = Some(BlockSizes::decode(&mut reader)?),
                InfoType::Unknown(_) => {}
            }
        }
        if export.flags == 0 {
            return Err(ClientError::Protocol("no size of the export"));
        }
        Ok(export)
    }

    /// Sends an option that is granted or not.
    fn ask(&mut self, option: OptionType) -> Result<bool, ClientError> {
        self.send(option, &[])?;
        match self.reply(option) {
            Ok(None) => Ok(true),
            Ok(Some(_)) => Err(ClientError::Protocol("unexpected reply")),
            Err(ClientError::Refused { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    fn send(&mut self, option: OptionType, data: &[u8]) -> Result<(), ClientError> {
        let length =
            u32::try_from(data.len()).map_err(|_| ClientError::Protocol("option too long"))?;
        let mut message = Vec::with_capacity(OptionHeader::LENGTH + data.len());
        OptionHeader { option, length }.encode(&mut message);
        message.extend_from_slice(data);
        Ok(self.stream.write_all(&message)?)
    }

    /// Reads one reply; `None` is the acknowledgement that ends them.
    fn reply(&mut self, option: OptionType) -> Result<Option<(ReplyType, Vec<u8>)>, ClientError> {
        let mut header = [0; OptionReplyHeader::LENGTH];
        self.stream.read_exact(&mut header)?;
        let header = OptionReplyHeader::decode(&mut Reader::new(&header))?;
        if header.option != option {
            return Err(ClientError::Protocol("reply to another option"));
        }
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > REPLY_MAX {
            return Err(ClientError::Protocol("reply is too long"));
        }
        let mut data = vec![0; length];
        self.stream.read_exact(&mut data)?;
        match header.reply {
            ReplyType::Ack => Ok(None),
            reply if reply.is_error() => Err(ClientError::Refused {
                reply,
                message: lossy(&data),
            }),
            reply => Ok(Some((reply, data))),
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Longest reply to an option: two strings of the protocol and room to spare.
const REPLY_MAX: usize = 64 * 1024;
/// Most replies to one option.
const REPLIES_MAX: usize = 1_000_000;
