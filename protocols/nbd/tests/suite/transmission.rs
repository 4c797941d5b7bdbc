//! Requests and replies as plain function calls: no socket.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Waker, Poll};

use bytes::BytesMut;
use export::{BlockExport, BlockingPool, MemoryDisk};
use nbd::session::{Chosen, Context, Memory, Transmission, TransmissionLimits};
use nbd::wire::{
    ChunkHeader, ChunkType, Command, CommandFlags, Dialect, EXTENDED_REPLY_MAGIC, Reader, Request,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, SimpleReply, Status,
};
use nbd::{ExportDirectory, Metrics, Peer, PeerAddress, SessionError, StaticDirectory};

use crate::support::filled;

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
        Arc::new(Memory::new(32 << 20)),
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
            session.settle();
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
