//! One connection as a state machine over bytes: records in, answers out, and a window between them. No socket.
//!
//! Records are parsed in the buffer they arrive in, and a WRITE's payload stays there. Answers are kept as pieces for a
//! vectored write, payloads as the export gave them. When the window is full, [`Session::wants_input`] turns false and
//! the owner stops reading: that is all the backpressure there is, and all that is needed.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use export::{PayloadBuffer, PayloadBuffers, Segments};
use tokio::sync::mpsc::UnboundedSender;

use crate::service::{Completion, Deferred, Outcome, Service};
use crate::wire::rpc::split_mark;
use crate::wire::xdr::padding;

/// How much one connection may have under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Requests that wait for a disk.
    pub requests: usize,
    /// Bytes of such requests and of answers that the peer has not taken yet.
    pub bytes: usize,
}

/// Bytes that all connections of a server may have under way together. A connection that has nothing under way may
/// always begin one request, so none starves.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// The peer broke the protocol in a way after which its bytes mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the record protocol")]
pub(crate) struct Broken;

/// One connection.
#[derive(Debug)]
pub(crate) struct Session {
    service: Arc<Service>,
    peer: IpAddr,
    window: Window,
    budget: Arc<Budget>,
    answers: UnboundedSender<Completion>,
    payloads: PayloadBuffers,
    input: BytesMut,
    /// A large record that has begun.
    large: Option<PayloadBuffer>,
    /// Whether the last record was a large one.
    expects_large: bool,
    /// Fragments of a record whose last one has not come.
    fragments: BytesMut,
    fragment_count: usize,
    output: Output,
    deferred: VecDeque<Deferred>,
    in_flight: usize,
    in_flight_bytes: usize,
    /// What the budget knows of.
    charged: usize,
    /// Calls that wait for the answer to their first copy.
    waiting: usize,
    /// Records that came whole.
    records: u64,
}

impl Session {
    pub(crate) fn new(
        service: Arc<Service>,
        peer: IpAddr,
        window: Window,
        budget: Arc<Budget>,
        answers: UnboundedSender<Completion>,
        payloads: PayloadBuffers,
    ) -> Self {
        Self {
            service,
            peer,
            window,
            budget,
            answers,
            payloads,
            input: BytesMut::new(),
            large: None,
            expects_large: false,
            fragments: BytesMut::new(),
            fragment_count: 0,
            output: Output::default(),
            deferred: VecDeque::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            charged: 0,
            waiting: 0,
            records: 0,
        }
    }

    /// Where the next bytes of the peer belong.
    pub(crate) fn inlet(&mut self) -> Inlet<'_> {
        if let Some(large) = &mut self.large {
            return Inlet::Record(large);
        }
        // After a large record the next is likely to be large too: read its start alone, so that the rest need not be
        // moved.
        let limit = if self.expects_large && self.input.len() < START_BYTES {
            START_BYTES - self.input.len()
        } else {
            INPUT_BYTES
        };
        self.input.reserve(limit);
        Inlet::Stream((&mut self.input).limit(limit))
    }

    /// Answers the records that have arrived, as far as the window allows.
    pub(crate) fn advance(&mut self) -> Result<(), Broken> {
        while self.wants_input() && self.output.bytes() < FLUSH_BYTES {
            let Some(record) = self.next_record()? else {
                break;
            };
            self.records += 1;
            let tail = &mut self.output.tail;
            match self.service.call(self.peer, &record, &self.answers, tail) {
                Outcome::Answered(data) => self.output.push(data),
                Outcome::Deferred(work) => {
                    self.in_flight += 1;
                    self.in_flight_bytes += work.cost;
                    self.deferred.push_back(work);
                }
                Outcome::Silent => self.waiting += 1,
                Outcome::HangUp => return Err(Broken),
            }
        }
        self.charge();
        Ok(())
    }

    /// Takes work that may wait for a disk. Its answer comes back through [`complete`](Self::complete).
    pub(crate) fn take_deferred(&mut self) -> Option<Deferred> {
        self.deferred.pop_front()
    }

    /// Takes the answer to deferred work.
    pub(crate) fn complete(&mut self, completion: Completion) {
        if completion.own {
            self.in_flight -= 1;
            self.in_flight_bytes -= completion.cost;
        } else {
            self.waiting = self.waiting.saturating_sub(1);
        }
        self.output.push_head(completion.head);
        self.output.push(completion.data);
        self.charge();
    }

    /// Where answers to deferred work go.
    pub(crate) fn answers(&self) -> UnboundedSender<Completion> {
        self.answers.clone()
    }

    /// Answers that wait to be sent.
    pub(crate) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Tells that bytes of the output were sent.
    pub(crate) fn sent(&mut self, count: usize) {
        self.output.consume(count);
        self.charge();
    }

    /// Whether the window has room for another request.
    pub(crate) fn wants_input(&self) -> bool {
        let under_way = self.in_flight_bytes + self.output.bytes();
        self.in_flight < self.window.requests
            && (under_way == 0 || (under_way < self.window.bytes && self.budget.has_room()))
    }

    /// Whether the peer should be read from now.
    pub(crate) fn wants_bytes(&self) -> bool {
        let has_large = self
            .large
            .as_ref()
            .is_some_and(|large| large.missing() == 0);
        self.wants_input() && !has_large
    }

    /// Whether answers will come through the channel.
    pub(crate) fn expects_answers(&self) -> bool {
        self.in_flight > 0 || self.waiting > 0
    }

    /// Whether the peer owes us something: the rest of a record, or its first one.
    pub(crate) fn is_owed(&self) -> bool {
        let has_part = self.large.is_some() || !self.input.is_empty() || !self.fragments.is_empty();
        // What the window keeps waiting is not the peer's fault.
        (has_part || self.records == 0) && self.wants_input()
    }

    /// Records that came whole so far.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Whether a whole record waits in the input.
    pub(crate) fn has_record(&self) -> bool {
        if let Some(large) = &self.large {
            return large.missing() == 0;
        }
        let mark = self.input.first_chunk();
        mark.is_some_and(|mark| self.input.len() - 4 >= split_mark(*mark).0)
    }

    fn next_record(&mut self) -> Result<Option<Bytes>, Broken> {
        match self.large.take_if(|large| large.missing() == 0) {
            Some(whole) => return Ok(Some(whole.freeze())),
            None if self.large.is_some() => return Ok(None),
            None => {}
        }
        loop {
            let Some(mark) = self.input.first_chunk() else {
                return Ok(None);
            };
            let (length, last) = split_mark(*mark);
            let together = self.fragments.len().saturating_add(length);
            let endless = !last && (length == 0 || self.fragment_count >= FRAGMENTS_MAX);
            if together > self.service.record_max() || endless {
                self.service.metrics.malformed.add(1);
                return Err(Broken);
            }
            let is_whole = last && self.fragment_count == 0;
            if self.input.len() - 4 < length {
                if is_whole && length >= LARGE_BYTES {
                    self.begin_large(length);
                }
                return Ok(None);
            }
            self.expects_large = false;
            self.input.advance(4);
            let fragment = self.input.split_to(length);
            if is_whole {
                return Ok(Some(fragment.freeze()));
            }
            self.fragments.extend_from_slice(&fragment);
            self.fragment_count += 1;
            if last {
                self.fragment_count = 0;
                return Ok(Some(std::mem::take(&mut self.fragments).freeze()));
            }
        }
    }

    /// Goes on with a record in a buffer of its own. What it carries is the last thing in it, so that ends with a page.
    fn begin_large(&mut self, length: usize) {
        let mut large = self.payloads.take_ending_with_page(length);
        self.input.advance(4);
        large.put(&self.input);
        self.input.clear();
        self.large = Some(large);
        self.expects_large = true;
    }

    fn charge(&mut self) {
        let under_way = self.in_flight_bytes + self.output.bytes();
        self.budget.change(self.charged, under_way);
        self.charged = under_way;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.budget.change(self.charged, 0);
    }
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    /// Bytes under way now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.used() < self.limit
    }

    fn change(&self, from: usize, to: usize) {
        if to > from {
            self.used.fetch_add(to - from, Ordering::Relaxed);
        } else if to < from {
            self.used.fetch_sub(from - to, Ordering::Relaxed);
        }
    }
}

/// Where bytes of a peer belong.
#[derive(Debug)]
pub(crate) enum Inlet<'a> {
    /// At most so many, of whatever comes.
    Stream(Limit<&'a mut BytesMut>),
    /// The rest of one record.
    Record(&'a mut PayloadBuffer),
}

impl Inlet<'_> {
    /// Takes from the front of `bytes` as many as are wanted, and says how many.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Record(record) => record.put(bytes),
            Self::Stream(input) => {
                let count = input.remaining_mut().min(bytes.len());
                input.put_slice(bytes.get(..count).unwrap_or_default());
                count
            }
        }
    }
}

/// Answers as pieces for a vectored write.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pieces: VecDeque<Bytes>,
    piece_bytes: usize,
    /// The end of the output: answers are written here until a payload must follow them.
    tail: BytesMut,
}

impl Output {
    pub(crate) fn bytes(&self) -> usize {
        self.piece_bytes + self.tail.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Fills `slices` from the front of the output; how many were filled.
    pub(crate) fn fill<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.seal();
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    fn push(&mut self, data: Segments) {
        if data.is_empty() {
            return;
        }
        let padding = padding(data.len());
        self.seal();
        self.piece_bytes += data.len() + padding.len();
        self.pieces.extend(data.into_pieces());
        if !padding.is_empty() {
            self.pieces.push_back(Bytes::from_static(padding));
        }
    }

    fn push_head(&mut self, head: Bytes) {
        if head.len() <= COPY_BYTES {
            self.tail.extend_from_slice(&head);
        } else {
            self.seal();
            self.piece_bytes += head.len();
            self.pieces.push_back(head);
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.piece_bytes += self.tail.len();
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    fn consume(&mut self, mut count: usize) {
        self.piece_bytes -= count;
        while count > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                return;
            };
            if piece.len() > count {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }
}

/// Enough for a batch of small requests.
const INPUT_BYTES: usize = 64 * 1024;
/// Records from here on get a buffer of their own.
const LARGE_BYTES: usize = 48 * 1024;
/// What is read of the record after a large one: enough for its mark, and for most small records.
const START_BYTES: usize = 192;
/// Enough answers for one vectored write.
const FLUSH_BYTES: usize = 512 * 1024;
/// Up to here an answer is copied behind the one before it instead of being a piece of its own.
const COPY_BYTES: usize = 2048;
const FRAGMENTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::small_service;
    use crate::wire::rpc::{AUTH_NONE, Call, LAST_FRAGMENT};
    use crate::wire::xdr::Writer;

    fn session() -> (Session, [crate::handle::Handle; 2]) {
        let (service, handles) = small_service();
        let window = Window {
            requests: 4,
            bytes: 1 << 20,
        };
        let (answers, _) = tokio::sync::mpsc::unbounded_channel();
        let peer = IpAddr::from([127, 0, 0, 1]);
        (
            Session::new(
                service,
                peer,
                window,
                Arc::new(Budget::new(1 << 20)),
                answers,
                PayloadBuffers::new(0),
            ),
            handles,
        )
    }

    fn record(procedure: u32, arguments: impl FnOnce(&mut Writer<'_, Vec<u8>>)) -> Vec<u8> {
        let mut record = vec![0; 4];
        let out = &mut Writer::new(&mut record);
        let (rpc_version, program, version, flavor) = (2, 100_003, 3, AUTH_NONE);
        let (xid, credential) = (1, &[][..]);
        Call {
            xid,
            rpc_version,
            program,
            version,
            procedure,
            flavor,
            credential,
        }
        .encode(out);
        arguments(out);
        let mark = u32::try_from(record.len() - 4).unwrap() | LAST_FRAGMENT;
        record[..4].copy_from_slice(&mark.to_be_bytes());
        record
    }

    fn write(file: &[u8], length: usize) -> Vec<u8> {
        record(7, |out| {
            out.opaque(file);
            out.u64(0);
            out.u32(u32::try_from(length).unwrap());
            out.u32(0);
            out.opaque(&vec![7; length]);
        })
    }

    fn feed(session: &mut Session, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = session.inlet().put(bytes);
            bytes = &bytes[taken..];
            session.advance().unwrap();
        }
    }

    #[test]
    fn large_records_are_read_to_their_end_in_buffers_that_come_back() {
        let (mut session, [_, file]) = session();
        let (large, small) = (write(&file, 1 << 20), write(&file, 512));
        for (record, written) in [
            (&large, 1 << 20),
            (&large, 2 << 20),
            (&small, (2 << 20) + 512),
            (&large, (3 << 20) + 512),
        ] {
            feed(&mut session, record);
            assert!(!session.has_record() && !session.is_owed());
            assert_eq!(session.service.metrics.written_bytes.value(), written);
        }
        // All at once, as far as each inlet goes.
        feed(&mut session, &[&large[..], &small, &small, &large].concat());
        let written = session.service.metrics.written_bytes.value();
        assert_eq!(written, (5 << 20) + 3 * 512);
    }

    #[test]
    fn a_large_record_that_does_not_end_is_owed() {
        let (mut session, [_, file]) = session();
        let large = write(&file, 1 << 20);
        feed(&mut session, &large[..large.len() - 1]);
        assert!(session.is_owed() && !session.has_record());
        assert_eq!(session.service.metrics.written_bytes.value(), 0);
        feed(&mut session, &large[large.len() - 1..]);
        assert_eq!(session.service.metrics.written_bytes.value(), 1 << 20);
    }

    #[test]
    fn answers_that_are_not_taken_close_the_window() {
        let (mut session, [_, file]) = session();
        feed(&mut session, &write(&file, 60_000));
        let read = record(6, |out| {
            out.opaque(&file);
            out.u64(0);
            out.u32(1 << 20);
        });
        let mut asked = 0;
        while session.wants_input() {
            assert_eq!(session.inlet().put(&read), read.len());
            // As if the socket took nothing: the part of the output that would go in one write is no reason to stop.
            let before = session.output().bytes();
            session.advance().unwrap();
            asked += 1;
            if session.output().bytes() == before {
                break;
            }
        }
        assert!(
            asked < 20,
            "{asked} answers of 60 kB are far above the window"
        );
        assert!(session.output().bytes() >= FLUSH_BYTES);
        let all = session.output().bytes();
        session.sent(all - 1);
        assert_eq!(session.output().bytes(), 1);
        assert!(
            session.wants_input(),
            "the window opens as answers are taken"
        );
    }
}
