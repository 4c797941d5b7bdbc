//! The transmission phase (NBD protocol, "Transmission").
//!
//! Memory is bounded here: no further request is taken while the replies that wait and the requests that run hold
//! more than [`TransmissionLimits`] allows, or all connections together as much as their [`Memory`] has, and the socket
//! is not read meanwhile.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Waker, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use export::{BlockExport, BlockProperties, BlockingPool, ExportError, Output, PayloadBuffer};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::io::poll_read_buf;

use super::memory::{Memory, Share};
use super::reply::ReplyEncoder;
use super::task::{self, Answer, Finished, Task};
use super::{Chosen, Context};
use crate::Metrics;
use crate::error::{SessionError, is_storage_fault, status};
use crate::wire::{Command, CommandFlags, Dialect, PAYLOAD_MAX, Reader, Request, Status};

/// What one connection may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransmissionLimits {
    /// Bytes of payloads in memory; one request of any size is always taken.
    pub in_flight_bytes: u64,
    /// Requests that wait for a disk.
    pub in_flight_requests: usize,
}

/// One connection's requests and replies.
pub struct Transmission {
    export: Arc<dyn BlockExport>,
    properties: BlockProperties,
    contexts: Arc<[(u32, Context)]>,
    dialect: Dialect,
    encoder: ReplyEncoder,
    limits: TransmissionLimits,
    share: Share,
    metrics: Metrics,
    pool: Arc<BlockingPool>,
    input: BytesMut,
    phase: Phase,
    output: Output,
    finished: UnboundedReceiver<Finished>,
    finish: UnboundedSender<Finished>,
    running: usize,
    running_bytes: u64,
    /// A task for which the pool had no room.
    refused: Option<Task>,
    /// Whether the next request waits until there is room for it.
    blocked: bool,
}

impl Transmission {
    /// Starts, with bytes that came behind the handshake.
    pub fn start(
        chosen: Chosen,
        input: BytesMut,
        limits: TransmissionLimits,
        memory: Arc<Memory>,
        pool: Arc<BlockingPool>,
        metrics: Metrics,
    ) -> Self {
        let (finish, finished) = unbounded_channel();
        Self {
            properties: chosen.opened.export.properties(),
            export: chosen.opened.export,
            contexts: chosen.contexts.into(),
            dialect: chosen.dialect,
            encoder: ReplyEncoder::new(chosen.dialect),
            limits,
            share: Share::new(memory),
            metrics,
            pool,
            input,
            phase: Phase::Header {
                expect_payload: false,
            },
            output: Output::default(),
            finished,
            finish,
            running: 0,
            running_bytes: 0,
            refused: None,
            blocked: false,
        }
    }

    /// Takes the answers that have come from the pool. Wakes the task when the next comes.
    pub fn poll_finished(&mut self, waker: &mut Waker<'_>) {
        while let Poll::Ready(Some(finished)) = self.finished.poll_recv(waker) {
            self.running -= 1;
            self.running_bytes -= finished.task.cost_bytes;
            self.metrics.in_flight.dec();
            self.answer(finished.task, finished.outcome);
            self.retry();
        }
    }

    /// Offers the pool the task that it had no room for.
    pub fn retry(&mut self) {
        if let Some(task) = self.refused.take() {
            self.submit(task);
        }
    }

    /// Whether only [`retry`](Self::retry), after some time, can go on: the pool is busy with others' requests.
    pub fn is_starved(&self) -> bool {
        self.refused.is_some() && self.running == 0
    }

    /// Takes as many requests as are complete and allowed.
    ///
    /// # Errors
    /// If the peer broke the protocol.
    pub fn advance(&mut self) -> Result<(), SessionError> {
        self.blocked = false;
        while self.refused.is_none() && self.step()? {}
        Ok(())
    }

    /// Reads from the peer to where the next bytes belong. 0 bytes say that the peer has closed.
    pub fn poll_fill<R: AsyncRead>(
        &mut self,
        peer: Pin<&mut R>,
        waker: &mut Waker<'_>,
    ) -> Poll<std::io::Result<usize>> {
        match &mut self.phase {
            Phase::Payload { buffer, .. } => {
                let mut target = ReadBuf::new(buffer.unfilled());
                let read = peer.poll_read(waker, &mut target);
                let count = target.filled().len();
                buffer.advance(count);
                read.map_ok(|()| count)
            }
            // After a long payload the next is likely to be long too: read its header alone, so that the payload
            // need not be moved.
            Phase::Header {
                expect_payload: true,
            } if self.input.len() < self.dialect.request_length() => {
                let header = self.dialect.request_length() - self.input.len();
                self.input.reserve(header);
                poll_read_buf(peer, waker, &mut (&mut self.input).limit(header))
            }
            _ => {
                if self.input.capacity() - self.input.len() < INPUT_MIN {
                    self.input.reserve(INPUT_BYTES);
                }
                poll_read_buf(peer, waker, &mut self.input)
            }
        }
    }

    /// Whether the peer should be read from: all that was read is taken.
    pub fn wants_input(&self) -> bool {
        !matches!(self.phase, Phase::Ended) && self.refused.is_none() && !self.blocked
    }

    /// Gives back memory that is needed no longer. To be called when replies were sent.
    pub fn settle(&mut self) {
        self.share.settle(self.held_bytes());
    }

    /// Waits for the memory that the next request was found to need; [`advance`](Self::advance) then takes it.
    pub fn poll_memory(&mut self, waker: &mut Waker<'_>) -> Poll<()> {
        self.share.poll(waker)
    }

    /// Whether memory is held that all connections share.
    pub fn holds_memory(&self) -> bool {
        self.share.taken() > 0
    }

    /// Whether another connection waits for memory that this one holds for its peer alone: the rest of a payload has not
    /// come, or replies are not taken.
    pub fn keeps_others_waiting(&self) -> bool {
        let waits_for_peer = matches!(self.phase, Phase::Payload { .. }) || !self.output.is_empty();
        let waits_for_disk = self.running > 0 || self.refused.is_some();
        waits_for_peer && !waits_for_disk && self.share.is_wanted()
    }

    /// Takes no further requests; those that run are answered.
    pub fn stop(&mut self) {
        self.phase = Phase::Ended;
        self.share.forget();
    }

    /// Whether everything is answered and no request will come.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended)
            && self.running == 0
            && self.refused.is_none()
            && self.output.is_empty()
    }

    /// Replies that wait to be sent.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// One step; says whether another can follow.
    fn step(&mut self) -> Result<bool, SessionError> {
        match &mut self.phase {
            Phase::Header { .. } => self.next_request(),
            Phase::Payload { buffer, .. } if buffer.missing() > 0 => Ok(false),
            Phase::Payload { .. } => {
                let header = Phase::Header {
                    expect_payload: true,
                };
                if let Phase::Payload { request, buffer } = mem::replace(&mut self.phase, header) {
                    let cost_bytes = request.length;
                    let payload = buffer.freeze();
                    self.execute(Task {
                        request,
                        payload,
                        cost_bytes,
                    });
                }
                Ok(true)
            }
            Phase::Skip {
                remaining,
                request,
                status,
            } => {
                let step = self
                    .input
                    .len()
                    .min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                self.input.advance(step);
                *remaining -= u64::try_from(step).expect("a usize fits 64 bits");
                if *remaining > 0 {
                    return Ok(false);
                }
                let (request, status) = (*request, *status);
                self.phase = Phase::Header {
                    expect_payload: false,
                };
                self.refuse(&request, status);
                Ok(true)
            }
            Phase::Ended => Ok(false),
        }
    }

    /// Takes the next request from the input.
    fn next_request(&mut self) -> Result<bool, SessionError> {
        let header_length = self.dialect.request_length();
        if self.input.len() < header_length {
            return Ok(false);
        }
        let request =
            Request::decode(self.dialect, &mut Reader::new(&self.input)).map_err(|source| {
                SessionError::Malformed {
                    what: "request",
                    source,
                }
            })?;
        let payload = request.payload_length(self.dialect);
        let verdict = self.check(&request);
        // Refusals take room too: a peer that sends nonsense and reads no replies must not fill the memory.
        let cost = if verdict.is_ok() {
            task::cost(&request, self.contexts.len())
        } else {
            0
        };
        if !self.admits(cost) {
            self.blocked = true;
            return Ok(false);
        }
        if let Err(status) = verdict {
            if payload > SKIP_MAX {
                return Err(SessionError::PayloadTooLarge(payload));
            }
            self.metrics.request(request.command);
            self.input.advance(header_length);
            self.phase = Phase::Skip {
                request,
                remaining: payload,
                status,
            };
            return Ok(true);
        }
        let payload = usize::try_from(payload).expect("the payload was checked");
        if payload == 0 {
            self.input.advance(header_length);
            self.execute(Task {
                request,
                payload: Bytes::new(),
                cost_bytes: cost,
            });
        } else if self.input.len() >= header_length + payload {
            self.input.advance(header_length);
            let payload = self.input.split_to(payload).freeze();
            self.execute(Task {
                request,
                payload,
                cost_bytes: cost,
            });
        } else if payload < DIRECT_MIN {
            self.input
                .reserve(header_length + payload - self.input.len());
            return Ok(false);
        } else {
            self.input.advance(header_length);
            let mut buffer = self.pool.payloads().take(payload);
            buffer.put(&self.input);
            self.input.clear();
            self.phase = Phase::Payload { request, buffer };
        }
        Ok(true)
    }

    /// Whether a request of `cost` bytes may be taken now. If it may, the memory for it is taken.
    fn admits(&mut self, cost: u64) -> bool {
        let held = self.held_bytes();
        self.running < self.limits.in_flight_requests
            && self.output.pieces() < PIECES_MAX
            && (held == 0 || held + cost <= self.limits.in_flight_bytes)
            && self.share.reach(held + cost)
    }

    /// Bytes of requests and replies that are in memory, or will be.
    pub fn held_bytes(&self) -> u64 {
        let waiting = u64::try_from(self.output.len()).expect("a usize fits 64 bits");
        let received = match &self.phase {
            Phase::Payload { request, .. } => request.length,
            _ => 0,
        };
        let refused = self.refused.as_ref().map_or(0, |task| task.cost_bytes);
        received + refused + self.running_bytes + waiting
    }

    /// Refuses what the protocol forbids, before the export sees it.
    fn check(&self, request: &Request) -> Result<(), Status> {
        use CommandFlags as Flag;
        let Request {
            command,
            offset,
            length,
            flags,
            ..
        } = *request;
        let extended = self.dialect == Dialect::Extended;
        let known = match command {
            Command::Read if self.dialect != Dialect::Simple => Flag::DF,
            Command::Write if extended => Flag::PAYLOAD_LEN,
            Command::WriteZeroes => Flag::NO_HOLE | Flag::FAST_ZERO,
            Command::BlockStatus => Flag::REQ_ONE,
            // Whatever it says, it is the last; only a payload, of any length, would be waited for.
            Command::Disc => !Flag::PAYLOAD_LEN,
            _ => 0,
        };
        if flags.0 & !(known | Flag::FUA) != 0 {
            return Err(Status::Invalid);
        }
        let is_change = matches!(
            command,
            Command::Write | Command::Trim | Command::WriteZeroes
        );
        match command {
            Command::Disc | Command::Flush => return Ok(()),
            Command::Unknown(_) => return Err(Status::Invalid),
            Command::Read | Command::Write if length > u64::from(PAYLOAD_MAX) => {
                return Err(Status::Invalid);
            }
            Command::Write if extended && !flags.has(Flag::PAYLOAD_LEN) => {
                return Err(Status::Invalid);
            }
            Command::BlockStatus if self.contexts.is_empty() => return Err(Status::Invalid),
            _ if is_change && self.properties.read_only => return Err(Status::Permission),
            _ => {}
        }
        let beyond = offset
            .checked_add(length)
            .is_none_or(|end| end > self.properties.size_bytes);
        match command {
            Command::Write | Command::WriteZeroes if beyond => Err(Status::NoSpace),
            _ => self
                .properties
                .check(offset, length)
                .map_err(|error| status(&error)),
        }
    }

    /// Does a request that was checked, here or on the pool.
    fn execute(&mut self, task: Task) {
        self.metrics.request(task.request.command);
        if task.request.command == Command::Disc {
            return self.stop();
        }
        match task.try_run(&*self.export) {
            Some(outcome) => self.answer(task, outcome),
            None => self.submit(task),
        }
    }

    fn submit(&mut self, task: Task) {
        let (export, contexts) = (Arc::clone(&self.export), Arc::clone(&self.contexts));
        let finish = self.finish.clone();
        let kept = task.clone();
        let submitted = self.pool.submit(move || {
            let outcome = task.run(&*export, &contexts);
            // A connection that is gone does not want the answer.
            drop(finish.send(Finished { task, outcome }));
        });
        match submitted {
            Ok(()) => {
                self.running += 1;
                self.running_bytes += kept.cost_bytes;
                self.metrics.in_flight.inc();
            }
            Err(_) => self.refused = Some(kept),
        }
    }

    /// Queues the reply to a task.
    fn answer(&mut self, task: Task, outcome: Result<Answer, ExportError>) {
        let request = task.request;
        match outcome {
            Ok(Answer::Data(data)) if u64::try_from(data.len()) == Ok(request.length) => {
                self.metrics.read_bytes.inc_by(request.length);
                self.encoder.read(&request, data, &mut self.output);
            }
            Ok(Answer::Data(data)) => {
                tracing::error!(
                    offset = request.offset,
                    length = request.length,
                    got = data.len(),
                    "export read short"
                );
                self.refuse(&request, Status::Io);
            }
            Ok(Answer::Status(contexts)) => {
                self.encoder
                    .block_status(&request, &contexts, &mut self.output)
            }
            Ok(Answer::Done) => {
                if request.command == Command::Write {
                    self.metrics.written_bytes.inc_by(request.length);
                }
                self.encoder.done(&request, &mut self.output);
            }
            Err(error) => {
                if is_storage_fault(&error) {
                    let (offset, length) = (request.offset, request.length);
                    tracing::error!(command = ?request.command, offset, length, %error, "export failed");
                }
                self.refuse(&request, status(&error));
            }
        }
    }

    fn refuse(&mut self, request: &Request, status: Status) {
        self.metrics.errors.inc();
        self.encoder.error(request, status, &mut self.output);
    }
}

impl Drop for Transmission {
    fn drop(&mut self) {
        // What runs goes on without this connection.
        self.metrics
            .in_flight
            .dec_by(i64::try_from(self.running).unwrap_or(i64::MAX));
    }
}

impl std::fmt::Debug for Transmission {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Transmission")
            .field("dialect", &self.dialect)
            .field("running", &self.running)
            .field("waiting_bytes", &self.output.len())
            .finish_non_exhaustive()
    }
}

/// Where the next bytes of the peer belong.
enum Phase {
    /// Before a request.
    Header {
        /// Whether the last request had a long payload.
        expect_payload: bool,
    },
    /// In a long payload, which goes straight to its own buffer.
    Payload {
        request: Request,
        buffer: PayloadBuffer,
    },
    /// In the payload of a request that is refused afterwards.
    Skip {
        request: Request,
        remaining: u64,
        status: Status,
    },
    /// No request is taken any more.
    Ended,
}

/// Most pieces of replies that wait before the next request is taken. A piece of 512 bytes can keep a whole chunk of a
/// cache alive, so bytes alone do not bound the memory.
const PIECES_MAX: usize = 1024;
/// Size of the buffer for requests and short payloads.
const INPUT_BYTES: usize = 256 * 1024;
/// Least room to read into.
const INPUT_MIN: usize = 16 * 1024;
/// Payloads from here on get a buffer of their own.
const DIRECT_MIN: usize = 48 * 1024;
/// Longest payload of a refused request that is read and dropped; compact requests cannot have a longer one.
const SKIP_MAX: u64 = u32::MAX as u64;
