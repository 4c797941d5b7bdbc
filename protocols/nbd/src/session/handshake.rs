//! The handshake (NBD protocol, "Fixed newstyle negotiation").

use bytes::{Buf, BytesMut};

use super::Context;
use crate::directory::{ExportDirectory, OpenError, OpenedExport, Peer};
use crate::error::SessionError;
use crate::wire::{
    BlockSizes, Dialect, ExportInfo, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, GoRequest,
    HANDSHAKE_FLAG_BITS, IHAVEOPT, InfoType, Malformed, MetaContextRequest, NBD_MAGIC,
    OptionHeader, OptionReply, OptionType, PAYLOAD_MAX, Reader, ReplyType, STRING_MAX,
    transmission_flags,
};

/// What TLS means to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// There is none.
    Off,
    /// The client decides.
    Allowed,
    /// Nothing is told before it.
    Required,
    /// It protects the connection already.
    Active,
}

/// One connection's handshake.
#[derive(Debug)]
pub struct Handshake {
    tls: TlsMode,
    phase: Phase,
    no_zeroes: bool,
    fixed: bool,
    dialect: Dialect,
    selected: Option<Selected>,
    options: u32,
}

/// What to do after [`Handshake::advance`].
#[derive(Debug)]
pub enum Step {
    /// Send the output and come again with what input there is: more may be in it.
    Again,
    /// Send the output and read more input.
    More,
    /// Send the output, start TLS, and go on under it.
    StartTls,
    /// Send the output and serve the export.
    Transmit(Chosen),
    /// Send the output and close.
    End,
}

/// What a handshake agreed on.
#[derive(Debug)]
pub struct Chosen {
    /// The export.
    pub opened: OpenedExport,
    /// The form of requests and replies.
    pub dialect: Dialect,
    /// The meta contexts, each with its number.
    pub contexts: Vec<(u32, Context)>,
}

impl Handshake {
    /// Starts, and appends the greeting to `out`.
    pub fn start(tls: TlsMode, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
        out.extend_from_slice(&IHAVEOPT.to_be_bytes());
        out.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        Self {
            tls,
            phase: Phase::ClientFlags,
            no_zeroes: false,
            fixed: false,
            dialect: Dialect::Simple,
            selected: None,
            options: 0,
        }
    }

    /// Goes on under TLS: what was agreed on before it is forgotten ("NBD_OPT_STARTTLS").
    pub fn tls_started(&mut self) {
        self.tls = TlsMode::Active;
        self.dialect = Dialect::Simple;
        self.selected = None;
    }

    /// Takes at most one message from `input` and appends the answer to `out`.
    ///
    /// # Errors
    /// If the peer broke the protocol in a way that leaves nothing to do but to close.
    pub fn advance(
        &mut self,
        input: &mut BytesMut,
        directory: &dyn ExportDirectory,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<Step, SessionError> {
        match self.phase {
            Phase::ClientFlags => self.client_flags(input),
            Phase::Options => {
                let Some(header) = peek_option(input)? else {
                    return Ok(Step::More);
                };
                if header.length > OPTION_DATA_MAX {
                    reply(header.option, ReplyType::ErrTooBig, b"", out);
                    return Err(SessionError::OptionTooLarge(header.length));
                }
                let length = usize::try_from(header.length).expect("a bounded length fits");
                if input.len() < OptionHeader::LENGTH + length {
                    return Ok(Step::More);
                }
                self.options += 1;
                if self.options > OPTIONS_MAX {
                    return Err(SessionError::TooManyOptions);
                }
                input.advance(OptionHeader::LENGTH);
                let data = input.split_to(length);
                let mut turn = Turn {
                    option: header.option,
                    data: &data,
                    directory,
                    peer,
                    out,
                };
                let step = self.option(&mut turn)?;
                if matches!(step, Step::StartTls) && !input.is_empty() {
                    return Err(SessionError::PlaintextBeforeTls);
                }
                Ok(step)
            }
        }
    }

    fn client_flags(&mut self, input: &mut BytesMut) -> Result<Step, SessionError> {
        let Some(&bytes) = input.first_chunk() else {
            return Ok(Step::More);
        };
        let flags = u32::from_be_bytes(bytes);
        if flags & !HANDSHAKE_FLAG_BITS != 0 {
            return Err(SessionError::ClientFlags(flags));
        }
        input.advance(bytes.len());
        self.fixed = flags & u32::from(FLAG_FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
        self.phase = Phase::Options;
        Ok(Step::Again)
    }

    fn option(&mut self, turn: &mut Turn<'_>) -> Result<Step, SessionError> {
        match turn.option {
            OptionType::ExportName => return self.export_name(turn),
            OptionType::Abort => {
                turn.reply(ReplyType::Ack, b"");
                return Ok(Step::End);
            }
            _ if !self.fixed => return Ok(Step::End),
            OptionType::StartTls => return Ok(self.start_tls(turn)),
            _ if self.tls == TlsMode::Required => {
                turn.reply(ReplyType::ErrTlsReqd, b"TLS is required here")
            }
            OptionType::List => turn.list(),
            OptionType::Info | OptionType::Go => return Ok(self.go(turn)),
            OptionType::StructuredReply => self.structured_reply(turn),
            OptionType::ExtendedHeaders => self.extended_headers(turn),
            OptionType::ListMetaContext => self.list_meta_context(turn),
            OptionType::SetMetaContext => self.set_meta_context(turn),
            OptionType::Unknown(_) => turn.reply(ReplyType::ErrUnsup, b""),
        }
        Ok(Step::Again)
    }

    fn start_tls(&self, turn: &mut Turn<'_>) -> Step {
        match self.tls {
            TlsMode::Off => turn.reply(ReplyType::ErrUnsup, b""),
            TlsMode::Active => turn.reply(ReplyType::ErrInvalid, b"TLS is active"),
            TlsMode::Allowed | TlsMode::Required if !turn.data.is_empty() => {
                turn.reply(ReplyType::ErrInvalid, b"")
            }
            TlsMode::Allowed | TlsMode::Required => {
                turn.reply(ReplyType::Ack, b"");
                return Step::StartTls;
            }
        }
        Step::Again
    }

    fn export_name(&mut self, turn: &mut Turn<'_>) -> Result<Step, SessionError> {
        let name = OptionHeader::export_name(turn.data)
            .map_err(|source| malformed("export name", source))?;
        if self.tls == TlsMode::Required {
            return Err(SessionError::Refused);
        }
        let opened = turn
            .directory
            .open(name, turn.peer)
            .map_err(|_| SessionError::Refused)?;
        self.export_info(&opened).encode(turn.out);
        if !self.no_zeroes {
            turn.out.extend_from_slice(&[0; 124]);
        }
        Ok(Step::Transmit(self.choose(opened, name)))
    }

    fn go(&mut self, turn: &mut Turn<'_>) -> Step {
        let Ok(request) = GoRequest::decode(turn.data) else {
            turn.reply(ReplyType::ErrInvalid, b"malformed request");
            return Step::Again;
        };
        let Some(opened) = turn.open(&request.name) else {
            return Step::Again;
        };
        turn.info(InfoType::Export, |out| {
            self.export_info(&opened).encode(out)
        });
        if request.wants.contains(&InfoType::Name) {
            turn.info(InfoType::Name, |out| {
                out.extend_from_slice(bounded(&opened.name))
            });
        }
        if request.wants.contains(&InfoType::Description) && !opened.description.is_empty() {
            turn.info(InfoType::Description, |out| {
                out.extend_from_slice(bounded(&opened.description))
            });
        }
        let properties = opened.export.properties();
        let sizes = BlockSizes {
            minimum: properties.block_size_bytes,
            preferred: properties
                .preferred_size_bytes
                .max(properties.block_size_bytes),
            maximum: PAYLOAD_MAX,
        };
        turn.info(InfoType::BlockSize, |out| sizes.encode(out));
        turn.reply(ReplyType::Ack, b"");
        match turn.option {
            OptionType::Go => Step::Transmit(self.choose(opened, &request.name)),
            _ => Step::Again,
        }
    }

    fn structured_reply(&mut self, turn: &mut Turn<'_>) {
        match self.dialect {
            _ if !turn.data.is_empty() => turn.reply(ReplyType::ErrInvalid, b""),
            Dialect::Extended => turn.reply(ReplyType::ErrInvalid, b"extended headers are in use"),
            Dialect::Simple | Dialect::Structured => {
                self.dialect = Dialect::Structured;
                turn.reply(ReplyType::Ack, b"");
            }
        }
    }

    fn extended_headers(&mut self, turn: &mut Turn<'_>) {
        if !turn.data.is_empty() {
            return turn.reply(ReplyType::ErrInvalid, b"");
        }
        self.dialect = Dialect::Extended;
        turn.reply(ReplyType::Ack, b"");
    }

    fn list_meta_context(&self, turn: &mut Turn<'_>) {
        let Some((request, opened)) = self.meta_context_request(turn) else {
            return;
        };
        for context in Context::all(&*opened.export) {
            if request.queries.is_empty()
                || request
                    .queries
                    .iter()
                    .any(|query| context.is_listed_by(query))
            {
                turn.meta_context(0, &context);
            }
        }
        turn.reply(ReplyType::Ack, b"");
    }

    fn set_meta_context(&mut self, turn: &mut Turn<'_>) {
        self.selected = None;
        let Some((request, opened)) = self.meta_context_request(turn) else {
            return;
        };
        let mut contexts = Vec::new();
        for (number, context) in (0..).zip(Context::all(&*opened.export)) {
            if request.queries.contains(&context.name()) {
                turn.meta_context(number, &context);
                contexts.push((number, context));
            }
        }
        turn.reply(ReplyType::Ack, b"");
        self.selected = Some(Selected {
            name: request.name,
            contexts,
        });
    }

    /// Reads a request for contexts and opens its export, or answers why not.
    fn meta_context_request(
        &self,
        turn: &mut Turn<'_>,
    ) -> Option<(MetaContextRequest, OpenedExport)> {
        if self.dialect == Dialect::Simple {
            turn.reply(ReplyType::ErrInvalid, b"structured replies come first");
            return None;
        }
        let Ok(request) = MetaContextRequest::decode(turn.data) else {
            turn.reply(ReplyType::ErrInvalid, b"malformed request");
            return None;
        };
        let opened = turn.open(&request.name)?;
        Some((request, opened))
    }

    fn export_info(&self, opened: &OpenedExport) -> ExportInfo {
        use transmission_flags as flag;
        let properties = opened.export.properties();
        let mut flags = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::CAN_MULTI_CONN
            | flag::SEND_CACHE;
        flags |= match properties.read_only {
            true => flag::READ_ONLY,
            false => flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO,
        };
        if self.dialect != Dialect::Simple {
            flags |= flag::SEND_DF;
        }
        ExportInfo {
            size_bytes: properties.size_bytes,
            flags,
        }
    }

    /// Ends the handshake. Contexts that were selected for another name do not count.
    fn choose(&mut self, opened: OpenedExport, name: &str) -> Chosen {
        let selected = self
            .selected
            .take()
            .filter(|selected| selected.name == name);
        let contexts = selected
            .map(|selected| selected.contexts)
            .unwrap_or_default();
        Chosen {
            opened,
            dialect: self.dialect,
            contexts,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    ClientFlags,
    Options,
}

/// The answer to `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug)]
struct Selected {
    name: String,
    contexts: Vec<(u32, Context)>,
}

/// One option, and where its answer goes.
struct Turn<'a> {
    option: OptionType,
    data: &'a [u8],
    directory: &'a dyn ExportDirectory,
    peer: &'a Peer,
    out: &'a mut Vec<u8>,
}

impl Turn<'_> {
    fn reply(&mut self, kind: ReplyType, data: &[u8]) {
        reply(self.option, kind, data, self.out);
    }

    fn info(&mut self, info: InfoType, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut data = u16::from(info).to_be_bytes().to_vec();
        encode(&mut data);
        self.reply(ReplyType::Info, &data);
    }

    fn meta_context(&mut self, number: u32, context: &Context) {
        let mut data = number.to_be_bytes().to_vec();
        data.extend_from_slice(context.name().as_bytes());
        self.reply(ReplyType::MetaContext, &data);
    }

    fn list(&mut self) {
        if !self.data.is_empty() {
            return self.reply(ReplyType::ErrInvalid, b"");
        }
        for summary in self.directory.list(self.peer) {
            let name = bounded(&summary.name);
            let length = u32::try_from(name.len()).expect("a bounded name is short");
            let mut data = length.to_be_bytes().to_vec();
            data.extend_from_slice(name);
            data.extend_from_slice(bounded(&summary.description));
            self.reply(ReplyType::Server, &data);
        }
        self.reply(ReplyType::Ack, b"");
    }

    /// Opens an export, or answers why not.
    fn open(&mut self, name: &str) -> Option<OpenedExport> {
        match self.directory.open(name, self.peer) {
            Ok(opened) => return Some(opened),
            Err(OpenError::Unknown) => self.reply(ReplyType::ErrUnknown, b"no such export"),
            Err(OpenError::Forbidden) => self.reply(ReplyType::ErrPolicy, b"not allowed from here"),
            Err(OpenError::ShuttingDown) => self.reply(ReplyType::ErrShutdown, b"shutting down"),
        }
        None
    }
}

fn reply(option: OptionType, reply: ReplyType, data: &[u8], out: &mut Vec<u8>) {
    OptionReply {
        option,
        reply,
        data,
    }
    .encode(out);
}

/// The header of the next option, if all of it is there.
fn peek_option(input: &BytesMut) -> Result<Option<OptionHeader>, SessionError> {
    // A wrong magic number shows before the header is complete.
    let magic = IHAVEOPT.to_be_bytes();
    if input
        .iter()
        .zip(magic)
        .any(|(&seen, wanted)| seen != wanted)
    {
        return Err(malformed("option", Malformed::Magic));
    }
    match OptionHeader::decode(&mut Reader::new(input)) {
        Ok(header) => Ok(Some(header)),
        Err(Malformed::Short) => Ok(None),
        Err(source) => Err(malformed("option", source)),
    }
}

fn malformed(what: &'static str, source: Malformed) -> SessionError {
    SessionError::Malformed { what, source }
}

/// Cuts a text of ours to what the protocol allows, at a character.
fn bounded(text: &str) -> &[u8] {
    let mut end = text.len().min(STRING_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.as_bytes().get(..end).unwrap_or_default()
}

/// Largest data of an option: room for a name and a dozen long context names.
const OPTION_DATA_MAX: u32 = 64 * 1024;
/// Most options of one handshake; a client that lists thousands of exports asks a few about each.
const OPTIONS_MAX: u32 = 65_536;
