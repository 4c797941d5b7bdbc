//! Entry points for fuzzing: what any bytes of a peer may do to the two state machines. They must not panic, not hang
//! and not hold more than the limits allow.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use export::{BlockingPool, MemoryDisk};
use tokio_util::sync::CancellationToken;

use crate::directory::{OpenedExport, Peer, PeerAddress, StaticDirectory};
use crate::session::{Chosen, Handshake, Memory, Step, TlsMode, Transmission, TransmissionLimits};
use crate::wire::Dialect;
use crate::{Metrics, session};

/// Gives `data` to a handshake, in pieces whose size the first byte says.
pub fn fuzz_handshake(data: &[u8]) {
    let Some((&control, data)) = data.split_first() else {
        return;
    };
    let directory = StaticDirectory::new();
    directory.add("disk", "text", Arc::new(MemoryDisk::new(1 << 20)));
    let peer = Peer::new(PeerAddress::Unix { uid: None });
    let mode = [
        TlsMode::Off,
        TlsMode::Allowed,
        TlsMode::Required,
        TlsMode::Active,
    ]
    .into_iter()
    .nth(usize::from(control & 3))
    .unwrap_or(TlsMode::Off);
    let mut out = Vec::new();
    let mut handshake = Handshake::start(mode, &mut out);
    let mut input = BytesMut::new();
    for piece in data.chunks(usize::from(control >> 2) + 1) {
        input.extend_from_slice(piece);
        loop {
            out.clear();
            match handshake.advance(&mut input, &directory, &peer, &mut out) {
                Ok(Step::Again) => {
                    assert!(out.len() < 1 << 20, "one option makes a bounded answer")
                }
                Ok(Step::More) => break,
                Ok(Step::StartTls) => handshake.tls_started(),
                Ok(Step::Transmit(_) | Step::End) | Err(_) => return,
            }
        }
    }
}

/// Gives `data` to a transmission; the first byte says the dialect.
pub fn fuzz_transmission(data: &[u8]) {
    let Some((&control, data)) = data.split_first() else {
        return;
    };
    let dialect = match control % 3 {
        0 => Dialect::Simple,
        1 => Dialect::Structured,
        _ => Dialect::Extended,
    };
    let export = Arc::new(MemoryDisk::new(8 << 20));
    let contexts = (0..).zip(session::Context::all(&*export)).collect();
    let opened = OpenedExport {
        export,
        name: String::new(),
        description: String::new(),
        withdrawn: CancellationToken::new(),
    };
    let pool = Arc::new(BlockingPool::start(1, 1).expect("the system has a thread left"));
    let limits = TransmissionLimits {
        in_flight_bytes: LIMIT,
        in_flight_requests: 4,
    };
    let chosen = Chosen {
        opened,
        dialect,
        contexts,
    };
    let mut session = Transmission::start(
        chosen,
        BytesMut::new(),
        limits,
        Arc::new(Memory::new(33 << 20)),
        pool,
        Metrics::unregistered(),
    );
    let mut rest = data;
    let mut waker = Context::from_waker(Waker::noop());
    loop {
        session.poll_finished(&mut waker);
        session.retry();
        if session.advance().is_err() {
            return;
        }
        let waiting = session.output().len();
        assert!(
            waiting <= 33 << 20,
            "one read and its headers at most: {waiting}"
        );
        session.output().consume(waiting);
        session.settle();
        if session.is_over() {
            return;
        }
        if session.wants_input() {
            match session.poll_fill(Pin::new(&mut rest), &mut waker) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                _ => return,
            }
        } else {
            std::thread::yield_now();
        }
    }
}

const LIMIT: u64 = 1 << 20;
