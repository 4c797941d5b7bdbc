//! The handshake and the requests as plain function calls: no socket.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Waker, Poll};

use bytes::BytesMut;
use export::{BlockExport, BlockingPool, MemoryDisk};
use nbd::session::{Chosen, Context, Handshake, Step, TlsMode, Transmission, TransmissionLimits};
use nbd::wire::{
    ChunkHeader, ChunkType, Command, CommandFlags, Dialect, EXTENDED_REPLY_MAGIC, ExportInfo,
    GoRequest, InfoType, MetaContextRequest, OptionHeader, OptionReplyHeader, OptionType, Reader,
    ReplyType, Request, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, SimpleReply, Status,
};
use nbd::{ExportDirectory, Metrics, Peer, PeerAddress, SessionError, StaticDirectory};

use crate::support::{Habit, filled};

/// A handshake with the client's side of it.
struct Talk {
    handshake: Handshake,
    input: BytesMut,
    directory: StaticDirectory,
    peer: Peer,
}

impl Talk {
    fn new(tls: TlsMode, client_flags: u32) -> Self {
        let directory = StaticDirectory::new();
        directory.add(
            "disk",
            "text",
            Arc::new(Habit::quick(MemoryDisk::new(1 << 20))),
        );
        directory.add("other", "", Arc::new(MemoryDisk::new(512)));
        let mut greeting = Vec::new();
        let handshake = Handshake::start(tls, &mut greeting);
        assert_eq!(greeting, b"NBDMAGICIHAVEOPT\x00\x03");
        let peer = Peer::new(PeerAddress::Unix { uid: None });
        let mut talk = Self {
            handshake,
            input: BytesMut::new(),
            directory,
            peer,
        };
        let (step, out) = talk.push(&client_flags.to_be_bytes()).unwrap();
        assert!(matches!(step, Step::Again) && out.is_empty());
        talk
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(Step, Vec<u8>), SessionError> {
        self.input.extend_from_slice(bytes);
        let mut out = Vec::new();
        let step =
            self.handshake
                .advance(&mut self.input, &self.directory, &self.peer, &mut out)?;
        Ok((step, out))
    }

    fn option(&mut self, option: OptionType, data: &[u8]) -> (Step, Vec<(ReplyType, Vec<u8>)>) {
        let (step, out) = self.push(&message(option, data)).unwrap();
        (step, replies(option, &out))
    }

    /// An option with one reply.
    fn ask(&mut self, option: OptionType, data: &[u8]) -> ReplyType {
        let (_, replies) = self.option(option, data);
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies[0].0
    }
}

fn message(option: OptionType, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    OptionHeader {
        option,
        length: data.len() as u32,
    }
    .encode(&mut message);
    message.extend_from_slice(data);
    message
}

fn replies(option: OptionType, bytes: &[u8]) -> Vec<(ReplyType, Vec<u8>)> {
    let mut reader = Reader::new(bytes);
    let mut replies = Vec::new();
    while !reader.is_empty() {
        let header = OptionReplyHeader::decode(&mut reader).unwrap();
        assert_eq!(header.option, option);
        replies.push((
            header.reply,
            reader.bytes(header.length as usize).unwrap().to_vec(),
        ));
    }
    replies
}

fn go(name: &str, wants: Vec<InfoType>) -> Vec<u8> {
    let mut data = Vec::new();
    GoRequest {
        name: name.to_owned(),
        wants,
    }
    .encode(&mut data);
    data
}

fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    let queries = queries.iter().map(|&query| query.to_owned()).collect();
    MetaContextRequest {
        name: name.to_owned(),
        queries,
    }
    .encode(&mut data);
    data
}

#[test]
fn go_tells_size_flags_name_text_and_block_sizes() {
    let mut talk = Talk::new(TlsMode::Off, 3);
    let (step, replies) = talk.option(
        OptionType::Go,
        &go("disk", vec![InfoType::Name, InfoType::Description]),
    );
    let Step::Transmit(chosen) = step else {
        panic!("{step:?}")
    };
    assert_eq!(
        (chosen.opened.name.as_str(), chosen.dialect),
        ("disk", Dialect::Simple)
    );
    let kinds: Vec<_> = replies
        .iter()
        .map(|(kind, data)| (*kind, data.get(1).copied()))
        .collect();
    let info = |number| (ReplyType::Info, Some(number));
    assert_eq!(
        kinds,
        [info(0), info(1), info(2), info(3), (ReplyType::Ack, None)]
    );
    let export = ExportInfo::decode(&mut Reader::new(&replies[0].1[2..])).unwrap();
    assert_eq!(
        (export.size_bytes, export.flags),
        (1 << 20, 0b1101_0110_1101)
    );
    assert_eq!(&replies[1].1[2..], b"disk");
    assert_eq!(&replies[2].1[2..], b"text");
}

#[test]
fn info_leaves_the_handshake_open() {
    let mut talk = Talk::new(TlsMode::Off, 3);
    let (step, replies) = talk.option(OptionType::Info, &go("disk", vec![]));
    assert!(
        matches!(step, Step::Again) && replies.len() == 3,
        "{replies:?}"
    );
    assert_eq!(
        talk.ask(OptionType::Info, &go("none", vec![])),
        ReplyType::ErrUnknown
    );
    assert_eq!(talk.ask(OptionType::Info, b"\0\0"), ReplyType::ErrInvalid);
    assert_eq!(
        talk.ask(OptionType::Unknown(77), b"??"),
        ReplyType::ErrUnsup
    );
    assert_eq!(talk.ask(OptionType::List, b"x"), ReplyType::ErrInvalid);
    let (step, _) = talk.option(OptionType::Abort, b"");
    assert!(matches!(step, Step::End));
}

#[test]
fn export_name_is_followed_by_zeroes_unless_they_are_left_out() {
    for (flags, length) in [(1, 134), (3, 10), (0, 134)] {
        let mut talk = Talk::new(TlsMode::Off, flags);
        let (step, out) = talk
            .push(&message(OptionType::ExportName, b"disk"))
            .unwrap();
        assert!(
            matches!(step, Step::Transmit(_)) && out.len() == length,
            "flags {flags}: {}",
            out.len()
        );
    }
    let mut talk = Talk::new(TlsMode::Off, 3);
    assert_eq!(
        talk.push(&message(OptionType::ExportName, b"none"))
            .unwrap_err(),
        SessionError::Refused
    );
}

#[test]
fn a_client_without_fixed_newstyle_may_only_name_an_export() {
    let mut talk = Talk::new(TlsMode::Off, 0);
    let (step, out) = talk.push(&message(OptionType::List, b"")).unwrap();
    assert!(matches!(step, Step::End) && out.is_empty());
}

#[test]
fn one_byte_at_a_time_is_enough() {
    let mut talk = Talk::new(TlsMode::Off, 3);
    let message = message(OptionType::Go, &go("disk", vec![]));
    let (last, first) = message.split_last().unwrap();
    for byte in first {
        let (step, out) = talk.push(&[*byte]).unwrap();
        assert!(matches!(step, Step::More) && out.is_empty());
    }
    assert!(matches!(talk.push(&[*last]).unwrap().0, Step::Transmit(_)));
}

#[test]
fn flags_and_options_that_nobody_defined_end_the_connection() {
    let mut out = Vec::new();
    let mut handshake = Handshake::start(TlsMode::Off, &mut out);
    let directory = StaticDirectory::new();
    let peer = Peer::new(PeerAddress::Unix { uid: None });
    let mut flags = BytesMut::from(&[0, 0, 0, 7][..]);
    let refused = handshake
        .advance(&mut flags, &directory, &peer, &mut out)
        .unwrap_err();
    assert_eq!(refused, SessionError::ClientFlags(7));

    let mut talk = Talk::new(TlsMode::Off, 3);
    assert!(matches!(
        talk.push(b"IHAVEOPX"),
        Err(SessionError::Malformed { what: "option", .. })
    ));

    let mut talk = Talk::new(TlsMode::Off, 3);
    let mut header = Vec::new();
    OptionHeader {
        option: OptionType::Go,
        length: 1 << 30,
    }
    .encode(&mut header);
    assert_eq!(
        talk.push(&header).unwrap_err(),
        SessionError::OptionTooLarge(1 << 30)
    );
}

#[test]
fn nothing_is_told_before_tls_where_it_is_required() {
    let mut talk = Talk::new(TlsMode::Required, 3);
    for option in [
        OptionType::List,
        OptionType::StructuredReply,
        OptionType::Unknown(99),
    ] {
        assert_eq!(talk.ask(option, b""), ReplyType::ErrTlsReqd);
    }
    assert_eq!(
        talk.ask(OptionType::Go, &go("disk", vec![])),
        ReplyType::ErrTlsReqd
    );
    assert_eq!(talk.ask(OptionType::StartTls, b"x"), ReplyType::ErrInvalid);
    let (step, replies) = talk.option(OptionType::StartTls, b"");
    assert!(matches!(step, Step::StartTls) && replies[0].0 == ReplyType::Ack);
    talk.handshake.tls_started();
    assert_eq!(talk.ask(OptionType::StartTls, b""), ReplyType::ErrInvalid);
    assert!(matches!(
        talk.option(OptionType::Go, &go("disk", vec![])).0,
        Step::Transmit(_)
    ));

    let mut talk = Talk::new(TlsMode::Required, 3);
    assert_eq!(
        talk.push(&message(OptionType::ExportName, b"disk"))
            .unwrap_err(),
        SessionError::Refused
    );
    let mut talk = Talk::new(TlsMode::Off, 3);
    assert_eq!(talk.ask(OptionType::StartTls, b""), ReplyType::ErrUnsup);
}

#[test]
fn what_was_said_before_tls_does_not_count_after_it() {
    let mut talk = Talk::new(TlsMode::Allowed, 3);
    assert_eq!(talk.ask(OptionType::StructuredReply, b""), ReplyType::Ack);
    talk.option(
        OptionType::SetMetaContext,
        &contexts("disk", &["base:allocation"]),
    );
    assert_eq!(talk.ask(OptionType::StartTls, b""), ReplyType::Ack);
    talk.handshake.tls_started();
    let (step, _) = talk.option(OptionType::Go, &go("disk", vec![]));
    let Step::Transmit(chosen) = step else {
        panic!("{step:?}")
    };
    assert!(chosen.dialect == Dialect::Simple && chosen.contexts.is_empty());

    let mut talk = Talk::new(TlsMode::Allowed, 3);
    let mut injected = message(OptionType::StartTls, b"");
    injected.extend(message(OptionType::List, b""));
    assert_eq!(
        talk.push(&injected).unwrap_err(),
        SessionError::PlaintextBeforeTls
    );
}

#[test]
fn contexts_are_listed_by_group_and_chosen_by_name() {
    let mut talk = Talk::new(TlsMode::Off, 3);
    assert_eq!(
        talk.ask(OptionType::ListMetaContext, &contexts("disk", &[])),
        ReplyType::ErrInvalid
    );
    assert_eq!(talk.ask(OptionType::StructuredReply, b""), ReplyType::Ack);
    let mut list = |queries: &[&str]| -> Vec<String> {
        let (_, replies) = talk.option(OptionType::ListMetaContext, &contexts("disk", queries));
        let names = replies
            .iter()
            .filter(|reply| reply.0 == ReplyType::MetaContext);
        names
            .map(|reply| String::from_utf8(reply.1[4..].to_vec()).unwrap())
            .collect()
    };
    assert_eq!(
        list(&[]),
        [
            "base:allocation",
            "qemu:allocation-depth",
            "qemu:dirty-bitmap:since"
        ]
    );
    assert_eq!(
        list(&["qemu:dirty-bitmap:", "x:"]),
        ["qemu:dirty-bitmap:since"]
    );
    assert_eq!(list(&["base:"]), ["base:allocation"]);
    let (_, replies) = talk.option(
        OptionType::SetMetaContext,
        &contexts("disk", &["base:", "qemu:dirty-bitmap:since"]),
    );
    assert_eq!(replies.len(), 2, "groups are for lists only: {replies:?}");
    assert_eq!(replies[0].1, b"\0\0\0\x02qemu:dirty-bitmap:since");
    let (step, _) = talk.option(OptionType::Go, &go("disk", vec![]));
    let Step::Transmit(chosen) = step else {
        panic!("{step:?}")
    };
    assert_eq!(chosen.contexts, [(2, Context::DirtyBitmap("since".into()))]);
}

#[test]
fn contexts_of_one_export_do_not_count_for_another() {
    let mut talk = Talk::new(TlsMode::Off, 3);
    assert_eq!(talk.ask(OptionType::ExtendedHeaders, b""), ReplyType::Ack);
    assert_eq!(
        talk.ask(OptionType::StructuredReply, b""),
        ReplyType::ErrInvalid
    );
    talk.option(
        OptionType::SetMetaContext,
        &contexts("disk", &["base:allocation"]),
    );
    let (step, _) = talk.option(OptionType::Go, &go("other", vec![]));
    let Step::Transmit(chosen) = step else {
        panic!("{step:?}")
    };
    assert!(chosen.contexts.is_empty() && chosen.dialect == Dialect::Extended);
}

/// Requests in one go, and the bytes of all replies.
fn transmit(
    export: Arc<dyn BlockExport>,
    dialect: Dialect,
    requests: &[u8],
) -> Result<Vec<u8>, SessionError> {
    let contexts = (0..).zip(Context::all(&*export)).collect();
    let directory = StaticDirectory::new();
    directory.add("", "", export);
    let opened = directory
        .open("", &Peer::new(PeerAddress::Unix { uid: None }))
        .unwrap();
    let limits = TransmissionLimits {
        in_flight_bytes: 1 << 20,
        in_flight_requests: 8,
    };
    let pool = Arc::new(BlockingPool::start(1, 8).unwrap());
    let chosen = Chosen {
        opened,
        dialect,
        contexts,
    };
    let mut session = Transmission::start(
        chosen,
        BytesMut::new(),
        limits,
        pool,
        Metrics::unregistered(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut rest = requests;
    let mut sent = Vec::new();
    runtime.block_on(std::future::poll_fn(|waker: &mut Waker<'_>| {
        loop {
            session.poll_finished(waker);
            if let Err(error) = session.advance() {
                return Poll::Ready(Err(error));
            }
            let output = session.output();
            while !output.is_empty() {
                let mut slices = [std::io::IoSlice::new(&[])];
                output.gather(&mut slices);
                let bytes = slices[0].to_vec();
                output.consume(bytes.len());
                sent.extend(bytes);
            }
            if session.is_over() {
                return Poll::Ready(Ok(()));
            }
            if !session.wants_input() {
                return Poll::Pending;
            }
            match session.poll_fill(Pin::new(&mut rest), waker) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                _ => session.stop(),
            }
        }
    }))?;
    Ok(sent)
}

fn request(dialect: Dialect, command: Command, flags: u16, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Request {
        flags: CommandFlags(flags),
        command,
        cookie: 0xc00c1e,
        offset,
        length,
    }
    .encode(dialect, &mut bytes);
    bytes
}

/// Sends one request with its payload, and checks that it fails with `status`.
fn check_refused(
    dialect: Dialect,
    command: Command,
    flags: u16,
    offset: u64,
    length: u64,
    status: Status,
) {
    let mut bytes = request(dialect, command, flags, offset, length);
    let payload = match dialect {
        Dialect::Extended if flags & CommandFlags::PAYLOAD_LEN == 0 => 0,
        _ if command == Command::Write => length as usize,
        Dialect::Extended => length as usize,
        _ => 0,
    };
    bytes.resize(bytes.len() + payload, 0);
    // A request behind it shows that the connection goes on at the right byte.
    bytes.extend(request(dialect, Command::Flush, 0, 0, 0));
    let sent = transmit(Arc::new(MemoryDisk::new(1 << 20)), dialect, &bytes).unwrap();
    let mut reader = Reader::new(&sent);
    let what = format!("{dialect:?} {command:?} {flags:#x} {offset} {length}");
    match dialect {
        Dialect::Simple => {
            assert_eq!(reader.u32(), Ok(SIMPLE_REPLY_MAGIC), "{what}");
            assert_eq!(
                SimpleReply::decode(&mut reader).unwrap().error,
                u32::from(status),
                "{what}"
            );
        }
        _ => {
            reader.u32().unwrap();
            let chunk = ChunkHeader::decode(dialect, &mut reader).unwrap();
            assert_eq!(
                (chunk.chunk, chunk.done, chunk.length),
                (ChunkType::Error, true, 6),
                "{what}"
            );
            assert_eq!(Status::from(reader.u32().unwrap()), status, "{what}");
            reader.u16().unwrap();
        }
    }
    assert!(!reader.is_empty(), "{what}: the flush is answered");
}

#[test]
fn what_the_protocol_forbids_is_refused_in_every_dialect() {
    use CommandFlags as Flag;
    const MIB: u64 = 1 << 20;
    for dialect in [Dialect::Simple, Dialect::Structured, Dialect::Extended] {
        let payload = if dialect == Dialect::Extended {
            Flag::PAYLOAD_LEN
        } else {
            0
        };
        let check = |command, flags, offset, length, status| {
            check_refused(dialect, command, flags, offset, length, status);
        };
        check(Command::Read, 0, MIB, 512, Status::Invalid);
        check(Command::Read, 0, u64::MAX - 511, 512, Status::Invalid);
        check(Command::Read, 0, 0, 0, Status::Invalid);
        check(Command::Read, 0, 256, 512, Status::Invalid);
        check(Command::Read, 0, 0, (32 << 20) + 512, Status::Invalid);
        check(Command::Read, Flag::NO_HOLE, 0, 512, Status::Invalid);
        check(Command::Write, payload, MIB, 512, Status::NoSpace);
        check(Command::Write, payload, 0, 100, Status::Invalid);
        check(
            Command::Write,
            payload,
            0,
            (32 << 20) + 512,
            Status::Invalid,
        );
        check(Command::Write, payload | Flag::DF, 0, 4096, Status::Invalid);
        check(Command::WriteZeroes, 0, 0, MIB + 512, Status::NoSpace);
        check(Command::Trim, 0, 0, MIB + 512, Status::Invalid);
        check(Command::BlockStatus, 0, MIB, 512, Status::Invalid);
        check(Command::Cache, 1 << 9, 0, 512, Status::Invalid);
        check(Command::Unknown(4711), 0, 0, 512, Status::Invalid);
    }
    check_refused(
        Dialect::Simple,
        Command::Read,
        Flag::DF,
        0,
        512,
        Status::Invalid,
    );
    check_refused(
        Dialect::Structured,
        Command::Write,
        Flag::PAYLOAD_LEN,
        0,
        512,
        Status::Invalid,
    );
    check_refused(
        Dialect::Extended,
        Command::Write,
        0,
        0,
        512,
        Status::Invalid,
    );
    check_refused(
        Dialect::Extended,
        Command::BlockStatus,
        Flag::PAYLOAD_LEN,
        0,
        512,
        Status::Invalid,
    );
}

#[test]
fn holes_are_chunks_of_their_own_unless_the_client_forbids() {
    let mut content = vec![0; 256 << 10];
    content[64 << 10..128 << 10].fill(7);
    let disk: Arc<dyn BlockExport> = Arc::new(filled(&content));
    for (dialect, magic) in [
        (Dialect::Structured, STRUCTURED_REPLY_MAGIC),
        (Dialect::Extended, EXTENDED_REPLY_MAGIC),
    ] {
        let read = |flags| request(dialect, Command::Read, flags, 0, 256 << 10);
        let sent = transmit(Arc::clone(&disk), dialect, &read(0)).unwrap();
        let mut reader = Reader::new(&sent);
        let mut chunks = Vec::new();
        while !reader.is_empty() {
            assert_eq!(reader.u32(), Ok(magic));
            let chunk = ChunkHeader::decode(dialect, &mut reader).unwrap();
            assert_eq!(chunk.cookie, 0xc00c1e);
            let body = reader.bytes(chunk.length as usize).unwrap();
            let offset = Reader::new(body).u64().unwrap();
            chunks.push((chunk.chunk, offset, chunk.length, chunk.done));
        }
        let wanted = [
            (ChunkType::OffsetHole, 0, 12, false),
            (ChunkType::OffsetData, 64 << 10, (64 << 10) + 8, false),
            (ChunkType::OffsetHole, 128 << 10, 12, true),
        ];
        assert_eq!(chunks, wanted);
        let whole = transmit(Arc::clone(&disk), dialect, &read(CommandFlags::DF)).unwrap();
        assert_eq!(
            whole.len(),
            ChunkHeader::encoded_length(dialect) + 8 + (256 << 10)
        );
        assert!(whole[whole.len() - (256 << 10)..] == content);
    }
    let simple = transmit(
        disk,
        Dialect::Simple,
        &request(Dialect::Simple, Command::Read, 0, 0, 256 << 10),
    )
    .unwrap();
    assert!(simple[16..] == content);
}

#[test]
fn extended_status_has_64_bits_and_a_count() {
    let disk = Arc::new(MemoryDisk::new(1 << 40));
    let status = request(Dialect::Extended, Command::BlockStatus, 0, 0, 1 << 40);
    let sent = transmit(disk, Dialect::Extended, &status).unwrap();
    let mut reader = Reader::new(&sent);
    for (number, flags, done) in [(0, 3, false), (1, 0, true)] {
        assert_eq!(reader.u32(), Ok(EXTENDED_REPLY_MAGIC));
        let chunk = ChunkHeader::decode(Dialect::Extended, &mut reader).unwrap();
        assert_eq!(
            (chunk.chunk, chunk.length, chunk.done),
            (ChunkType::BlockStatusExt, 24, done)
        );
        assert_eq!((reader.u32(), reader.u32()), (Ok(number), Ok(1)));
        assert_eq!((reader.u64(), reader.u64()), (Ok(1 << 40), Ok(flags)));
    }
    assert_eq!(reader.finish(), Ok(()));
}

#[test]
fn a_wrong_magic_or_a_payload_without_end_closes_the_connection() {
    let disk: Arc<dyn BlockExport> = Arc::new(MemoryDisk::new(1 << 20));
    let mut bytes = request(Dialect::Structured, Command::Flush, 0, 0, 0);
    bytes[0] ^= 1;
    let refused = transmit(Arc::clone(&disk), Dialect::Structured, &bytes).unwrap_err();
    assert!(matches!(
        refused,
        SessionError::Malformed {
            what: "request",
            ..
        }
    ));
    let bytes = request(
        Dialect::Extended,
        Command::Write,
        CommandFlags::PAYLOAD_LEN,
        0,
        1 << 33,
    );
    let refused = transmit(disk, Dialect::Extended, &bytes).unwrap_err();
    assert_eq!(refused, SessionError::PayloadTooLarge(1 << 33));
}

#[test]
fn requests_behind_a_goodbye_are_not_done() {
    let disk = Arc::new(MemoryDisk::new(1 << 20));
    let mut bytes = request(Dialect::Simple, Command::Flush, 0, 0, 0);
    bytes.extend(request(Dialect::Simple, Command::Disc, 0, 0, 0));
    bytes.extend(request(Dialect::Simple, Command::Read, 0, 0, 512));
    let sent = transmit(disk, Dialect::Simple, &bytes).unwrap();
    assert_eq!(sent.len(), SimpleReply::LENGTH);
}
