//! The handshake as plain function calls: no socket.

use std::sync::Arc;

use bytes::BytesMut;
use export::MemoryDisk;
use nbd::session::{Context, Handshake, Step, TlsMode};
use nbd::wire::{
    Dialect, ExportInfo, GoRequest, InfoType, MetaContextRequest, OptionHeader, OptionReplyHeader,
    OptionType, Reader, ReplyType,
};
use nbd::{Peer, PeerAddress, SessionError, StaticDirectory};

use crate::support::Habit;

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
