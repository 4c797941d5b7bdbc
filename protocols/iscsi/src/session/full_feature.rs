//! Full feature phase: commands and their data (RFC 7143, 4.2 to 4.4).
//!
//! Memory is bounded here. Data is asked for, and commands that read are begun, only while what the session holds fits
//! its limit and the server's; the command window does not move meanwhile. What an initiator may send unasked is
//! bounded by the window and by FirstBurstLength.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use export::{BlockingPool, Output, PayloadBuffer, PayloadBuffers};
use scsi::Nexus;
use tokio::io::AsyncRead;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zerocopy::big_endian::U32;

use super::budget::{Budget, Share};
use super::control::{Control, Neighbours, OwnTasks};
use super::discovery::{Names, TextExchange};
use super::login::{Established, SessionKind};
use super::management::Ending;
use super::parameters::Parameters;
use super::patience::{Patience, Timing};
use super::receiver::{Received, Receiver, Step};
use super::sender::Sender;
use super::task::{Finished, Tasks};
use super::window::{Turn, Window};
use crate::error::SessionError;
use crate::metrics::Metrics;
use crate::wire::{Header, NO_TAG, NopIn, NopOut, U24, opcode, reject_reason};

/// What one session may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// Commands that the initiator may send before one is answered.
    pub queue_depth: u32,
    /// Bytes of data in memory; one command of any size is always taken.
    pub in_flight_bytes: u64,
}

/// What a session uses of its server.
#[derive(Clone)]
pub struct Surroundings {
    /// Where commands wait for disks.
    pub pool: Arc<BlockingPool>,
    /// What is counted.
    pub metrics: Metrics,
    /// Memory for long data.
    pub payloads: PayloadBuffers,
    /// The memory of all sessions.
    pub budget: Arc<Budget>,
    /// The other sessions of the target.
    pub neighbours: Arc<dyn Neighbours>,
    /// What the initiator is told of targets.
    pub names: Arc<dyn Names>,
    /// What this session may hold.
    pub limits: SessionLimits,
    /// How long it waits.
    pub timing: Timing,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Surroundings")
            .field("limits", &self.limits)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

/// A session after its login.
pub struct FullFeature {
    pub(super) kind: SessionKind,
    pub(super) cid: u16,
    /// None in a discovery session.
    pub(super) nexus: Option<Arc<Nexus>>,
    pub(super) parameters: Parameters,
    pub(super) around: Surroundings,
    pub(super) receiver: Receiver,
    pub(super) sender: Sender,
    pub(super) tasks: Tasks,
    /// Tasks that have all their data and wait for room.
    pub(super) ready: VecDeque<u32>,
    /// Tasks that would ask for data.
    pub(super) asking: VecDeque<u32>,
    pub(super) next_number: u64,
    pub(super) next_transfer_tag: u32,
    finished: UnboundedReceiver<Finished>,
    pub(super) finish: UnboundedSender<Finished>,
    controls: UnboundedReceiver<Control>,
    pub(super) control: UnboundedSender<Control>,
    /// Tasks that the pool has.
    pub(super) running: usize,
    /// Bytes that those which read will bring.
    pub(super) running_bytes: u64,
    pub(super) share: Share,
    /// Whether only others can make room: the pool is full, or the server's memory.
    pub(super) starved: bool,
    /// Task management functions whose tasks have not come to rest.
    pub(super) functions: usize,
    pub(super) text: TextExchange,
    pub(super) patience: Patience,
    pub(super) ending: Ending,
}

impl FullFeature {
    /// Begins, with the connection's input as the login left it. A connection that was reinstated goes on with the
    /// nexus of the one `before`, if it still is one with what the login opened.
    pub fn start(
        established: &Established,
        mut receiver: Receiver,
        around: Surroundings,
        before: Option<Arc<Nexus>>,
    ) -> Self {
        let parameters = established.parameters;
        receiver.agree(parameters.digests, parameters.own_segment_bytes);
        let window = Window::new(established.exp_cmd_sn, around.limits.queue_depth);
        let nexus = established.opened.as_ref().map(|opened| {
            let name = scsi::NexusName {
                initiator_port: established.name.initiator_port(),
                target_port: established.name.portal_group,
            };
            before
                .filter(|before| before.is_with(&opened.target, &opened.luns))
                .unwrap_or_else(|| Arc::new(opened.target.nexus(name, opened.luns.clone())))
        });
        let (finish, finished) = unbounded_channel();
        let (control, controls) = unbounded_channel();
        if let Some(nexus) = &nexus {
            nexus.set_task_set(Arc::new(OwnTasks(control.clone())));
        }
        Self {
            kind: established.kind,
            cid: established.cid,
            nexus,
            parameters,
            receiver,
            sender: Sender::new(&parameters, window, established.stat_sn),
            tasks: Tasks::default(),
            ready: VecDeque::new(),
            asking: VecDeque::new(),
            next_number: 0,
            next_transfer_tag: 1,
            finished,
            finish,
            controls,
            control,
            running: 0,
            running_bytes: 0,
            share: Share::new(Arc::clone(&around.budget)),
            starved: false,
            functions: 0,
            text: TextExchange::default(),
            patience: Patience::new(around.timing),
            ending: Ending::Open,
            around,
        }
    }

    /// Where others send messages to this session.
    pub fn control(&self) -> UnboundedSender<Control> {
        self.control.clone()
    }

    /// The nexus that its commands go through; none in a discovery session.
    pub fn nexus(&self) -> Option<&Arc<Nexus>> {
        self.nexus.as_ref()
    }

    /// Takes the answers of the pool and the messages of others. Wakes the task when the next comes.
    pub fn poll_events(&mut self, waker: &mut Context<'_>) {
        while let Poll::Ready(Some(finished)) = self.finished.poll_recv(waker) {
            self.finish_task(finished);
        }
        while let Poll::Ready(Some(message)) = self.controls.poll_recv(waker) {
            self.take_message(message);
        }
    }

    /// Does what waits, then takes as many PDUs as are complete and allowed.
    ///
    /// # Errors
    /// If the session cannot go on.
    pub fn advance(&mut self) -> Result<(), SessionError> {
        self.starved = false;
        self.run_ready();
        self.ask_for_data();
        while self.wants_input() {
            match self.receiver.step()? {
                Step::More => break,
                Step::Place(header) => {
                    let buffer = self.place(&header);
                    self.receiver.receive_into(buffer);
                }
                Step::Pdu(received) => self.take(received)?,
            }
        }
        self.ask_for_data();
        self.end_when_at_rest();
        self.settle();
        // Nothing of this session would wake it.
        self.starved |= !self.ready.is_empty()
            && self.running == 0
            && self.sender.output.is_empty()
            && !self.tasks.any_receiving();
        Ok(())
    }

    /// Reads from the peer to where the next bytes belong. 0 bytes say that the peer has closed.
    pub fn poll_fill<R: AsyncRead>(
        &mut self,
        peer: Pin<&mut R>,
        waker: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        let filled = self.receiver.poll_fill(peer, waker);
        if filled.is_ready() {
            self.patience.heard();
        }
        filled
    }

    /// Whether the peer should be read from.
    pub fn wants_input(&self) -> bool {
        matches!(self.ending, Ending::Open)
            && self.sender.output.pieces() < INPUT_PIECES_MAX
            && self.sender.output.len() < INPUT_OUTPUT_MAX + self.limit_bytes()
    }

    /// Whether only time can help: the pool or the memory is full of others' commands.
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    /// Whether commands or R2Ts wait for room.
    pub fn has_waiting(&self) -> bool {
        !self.starved && (!self.ready.is_empty() || !self.asking.is_empty())
    }

    /// Whether everything is answered and nothing will come.
    pub fn is_over(&self) -> bool {
        matches!(self.ending, Ending::Over) && self.sender.output.is_empty()
    }

    /// PDUs that wait to be sent.
    pub fn output(&mut self) -> &mut Output {
        &mut self.sender.output
    }

    /// The first `count` bytes of the output are sent.
    pub fn sent(&mut self, count: usize) {
        self.sender.output.consume(count);
        self.patience.read();
    }

    /// What was sent has made room: brings the window up to date, and tells the initiator if it would not learn of it.
    pub fn settle(&mut self) {
        self.share.set(self.held_bytes());
        let was_open = self.sender.window.is_open();
        let outstanding = self.tasks.len();
        let has_room = self.admits(0);
        self.sender.window.move_on(outstanding, has_room);
        let opened = !was_open && self.sender.window.is_open();
        if opened && self.sender.output.is_empty() && matches!(self.ending, Ending::Open) {
            self.nop_in(NO_TAG, NO_TAG, [0; 8], &[]);
        }
    }

    /// The connection is gone: nothing is answered any more, and what runs comes to rest.
    pub fn abandon(&mut self) {
        self.ending = Ending::Over;
        self.abort_tasks(|_| true, None);
        let waiting = self.sender.output.len();
        self.sender.output.consume(waiting);
        self.share.set(0);
    }

    /// Ready when the pool has none of this session's commands.
    pub fn poll_at_rest(&mut self, waker: &mut Context<'_>) -> Poll<()> {
        self.poll_events(waker);
        if self.running == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Bytes of data in memory, or promised.
    pub(super) fn held_bytes(&self) -> u64 {
        let waiting = u64::try_from(self.sender.output.len()).expect("a usize fits 64 bits");
        self.tasks.held_bytes() + self.running_bytes + waiting
    }

    /// Whether `more` bytes fit the limits now.
    pub(super) fn admits(&self, more: u64) -> bool {
        let held = self.held_bytes();
        held == 0
            || held + more <= self.around.limits.in_flight_bytes && self.share.admits(held, more)
    }

    /// Queues NOP-In. With `task_tag` it is the answer to a ping, with `transfer_tag` alone it is one.
    pub(super) fn nop_in(&mut self, task_tag: u32, transfer_tag: u32, lun: [u8; 8], data: &[u8]) {
        let stat_sn = if task_tag == NO_TAG {
            self.sender.stat_sn()
        } else {
            self.sender.next_stat_sn()
        };
        let pdu = NopIn {
            opcode: opcode::NOP_IN,
            flags: Header::FINAL,
            data_length: U24::new(data.len()),
            lun,
            task_tag: U32::new(task_tag),
            transfer_tag: U32::new(transfer_tag),
            stat_sn,
            exp_cmd_sn: self.sender.exp_cmd_sn(),
            max_cmd_sn: self.sender.max_cmd_sn(),
            ..NopIn::default()
        };
        self.sender.push(&pdu, data);
    }

    /// Queues Reject.
    pub(super) fn reject(&mut self, header: &Header, reason: u8) {
        self.around.metrics.rejects.inc();
        self.sender.reject(header, reason);
    }

    /// The next tag for data or a ping.
    pub(super) fn transfer_tag(&mut self) -> u32 {
        let tag = self.next_transfer_tag;
        let next = tag.wrapping_add(1);
        self.next_transfer_tag = if next == NO_TAG { 0 } else { next };
        tag
    }

    /// Where the data of a PDU goes.
    fn place(&mut self, header: &Header) -> PayloadBuffer {
        if header.kind() == opcode::DATA_OUT {
            self.place_data(header)
        } else {
            self.around.payloads.take(header.data_length.get())
        }
    }

    fn take(&mut self, received: Received) -> Result<(), SessionError> {
        let header = received.header;
        if !received.is_intact {
            self.reject(&header, reject_reason::DATA_DIGEST);
            if header.kind() != opcode::DATA_OUT {
                // A request is lost, and with it the order of commands; without recovery the session ends.
                return Err(SessionError::DataDigest);
            }
        }
        if self.kind == SessionKind::Discovery
            && !matches!(
                header.kind(),
                opcode::TEXT_REQUEST | opcode::LOGOUT_REQUEST | opcode::NOP_OUT
            )
        {
            self.reject(&header, reject_reason::PROTOCOL_ERROR);
            return Ok(());
        }
        match header.kind() {
            opcode::SCSI_COMMAND => self.command(received),
            opcode::DATA_OUT => {
                self.data_out(received);
                Ok(())
            }
            opcode::NOP_OUT => self.nop_out(&received),
            opcode::TASK_MANAGEMENT_REQUEST => self.manage(&header),
            opcode::TEXT_REQUEST => self.text_request(&received),
            opcode::LOGOUT_REQUEST => self.logout(&header),
            opcode::SNACK => {
                self.reject(&header, reject_reason::SNACK);
                Ok(())
            }
            opcode::LOGIN_REQUEST => {
                self.reject(&header, reject_reason::PROTOCOL_ERROR);
                Ok(())
            }
            _ => {
                self.reject(&header, reject_reason::NOT_SUPPORTED);
                Ok(())
            }
        }
    }

    fn nop_out(&mut self, received: &Received) -> Result<(), SessionError> {
        let request: NopOut = received.header.view();
        let is_immediate = received.header.is_immediate();
        if self
            .sender
            .window
            .take(request.cmd_sn.get(), is_immediate)?
            == Turn::Never
        {
            return Ok(());
        }
        if request.task_tag.get() == NO_TAG {
            // The answer to a ping; that something came is enough.
            return Ok(());
        }
        let data = received.data.bytes();
        let data = data
            .get(..data.len().min(self.sender.segment_bytes()))
            .unwrap_or_default();
        self.nop_in(request.task_tag.get(), NO_TAG, request.lun, data);
        Ok(())
    }

    fn limit_bytes(&self) -> usize {
        usize::try_from(self.around.limits.in_flight_bytes).unwrap_or(usize::MAX / 2)
    }
}

impl fmt::Debug for FullFeature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FullFeature")
            .field("tasks", &self.tasks.len())
            .field("running", &self.running)
            .field("held_bytes", &self.held_bytes())
            .finish_non_exhaustive()
    }
}

/// Most pieces of responses that wait before the next PDU is taken. A piece of 512 bytes can keep a whole chunk of a
/// cache alive, so bytes alone do not bound the memory.
pub(super) const PIECES_MAX: usize = 1024;
/// The same for requests that are no commands, and could go on for ever.
const INPUT_PIECES_MAX: usize = 4 * PIECES_MAX;
/// Most bytes of responses beyond the limit that wait before the next PDU is taken.
const INPUT_OUTPUT_MAX: usize = 1024 * 1024;
