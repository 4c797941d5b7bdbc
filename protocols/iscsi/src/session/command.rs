//! SCSI commands: their data, their turn, and their response.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use export::PayloadBuffer;
use scsi::{Cdb, Command, Direction, Plan, Response, Sense, SenseKey, Status};

use super::full_feature::{FullFeature, PIECES_MAX};
use super::receiver::{Received, Segment};
use super::sender::Expectation;
use super::task::{Attribute, Finished, State, Task};
use super::transfer::Transfer;
use super::window::Turn;
use crate::error::SessionError;
use crate::wire::{DataOut, Header, NO_TAG, ScsiCommand, additional_headers, reject_reason};

impl FullFeature {
    /// Takes a SCSI Command PDU.
    pub(super) fn command(&mut self, received: Received) -> Result<(), SessionError> {
        let header = received.header;
        let request: ScsiCommand = header.view();
        let task_tag = request.task_tag.get();
        let turn = self
            .sender
            .window
            .take(request.cmd_sn.get(), header.is_immediate())?;
        if turn == Turn::Never {
            return Ok(());
        }
        self.around.metrics.commands.inc();
        let Some(additional) = additional_headers(&received.additional) else {
            self.reject(&header, reject_reason::INVALID_FIELD);
            return Ok(());
        };
        if task_tag == NO_TAG {
            self.reject(&header, reject_reason::INVALID_FIELD);
            return Ok(());
        }
        if self.tasks.contains(task_tag) {
            self.reject(&header, reject_reason::TASK_IN_PROGRESS);
            return Ok(());
        }
        if header.is_immediate() && self.tasks.len() >= 2 * self.around.limits.queue_depth as usize
        {
            self.reject(&header, reject_reason::TOO_MANY_IMMEDIATE);
            return Ok(());
        }
        let cdb = if additional.extended_cdb.is_empty() {
            Cdb::new(&request.cdb)
        } else {
            Cdb::new(&[&request.cdb, additional.extended_cdb].concat())
        };
        let read_length = additional.read_length;
        let task = self.plan(&request, cdb, read_length, received.data);
        if task.transfer.is_complete() {
            if self.ready.is_empty() && self.may_start(&task) {
                self.start_task(task);
            } else {
                self.make_ready(task);
            }
        } else {
            if task.transfer.missing() > 0 {
                self.asking.push_back(task_tag);
            }
            self.tasks.insert(task);
        }
        Ok(())
    }

    /// Makes the task of a command: how much data it brings, and whether it will be executed.
    fn plan(
        &mut self,
        request: &ScsiCommand,
        cdb: Cdb,
        read_length: Option<u32>,
        data: Segment,
    ) -> Task {
        let is_write = request.flags & ScsiCommand::WRITE != 0;
        let is_read = request.flags & ScsiCommand::READ != 0;
        let length = request.expected_length.get();
        let mut expected = Expectation {
            task_tag: request.task_tag.get(),
            lun: request.lun,
            read_bytes: match (is_read, is_write) {
                (true, true) => read_length.unwrap_or(0),
                (true, false) => length,
                (false, _) => 0,
            },
            write_bytes: if is_write { length } else { 0 },
            wanted_bytes: 0,
            r2ts: 0,
        };
        let mut verdict = None;
        if let Some(nexus) = self.nexus.as_ref().filter(|_| is_write || !is_read) {
            match nexus.plan(request.lun, &cdb) {
                Plan::Transfer {
                    direction: Direction::FromInitiator,
                    length_bytes,
                } => expected.wanted_bytes = length_bytes,
                Plan::Transfer { .. } => {}
                Plan::Refuse(response) => verdict = Some(response),
            }
        }
        let (immediate, is_last) = (data.bytes().len(), request.flags & Header::FINAL != 0);
        let unasked = self.unasked_max(&expected);
        let may_follow = is_write && !self.parameters.initial_r2t;
        let has_immediate = immediate > 0;
        if has_immediate && (!self.parameters.immediate_data || immediate > unasked)
            || !is_last && !may_follow
        {
            verdict = Some(check(UNEXPECTED_UNSOLICITED_DATA));
        }
        let wanted = if verdict.is_some() {
            0
        } else {
            expected.wanted_bytes.min(expected.write_bytes)
        };
        let mut transfer = Transfer::new(wanted, data.into_bytes());
        if !is_last && may_follow && immediate < unasked {
            transfer.expect_unsolicited(u32::try_from(unasked).unwrap_or(u32::MAX));
        }
        self.next_number += 1;
        Task {
            number: self.next_number,
            attribute: Attribute::from_bits(request.flags & ScsiCommand::ATTRIBUTE),
            expected,
            cdb,
            transfer,
            verdict,
            command: None,
            state: State::Receiving,
        }
    }

    /// Where the data of a Data-Out goes. What no task waits for is dropped; so is what does not follow the order, and
    /// its task fails.
    pub(super) fn place_data(&mut self, header: &Header) -> PayloadBuffer {
        let request: DataOut = header.view();
        let task_tag = request.task_tag.get();
        let buffers = &self.around.payloads;
        let placed = self
            .tasks
            .with(task_tag, |task| task.transfer.place(&request, buffers));
        match placed {
            Some(Ok(buffer)) => return buffer,
            Some(Err(_)) => self.fail(task_tag, DATA_PHASE_ERROR),
            None => {}
        }
        self.around.payloads.take(header.data_length.get())
    }

    /// Takes a Data-Out PDU.
    pub(super) fn data_out(&mut self, received: Received) {
        let header = received.header;
        let task_tag = header.task_tag.get();
        self.patience.got_data();
        let buffer = match received.data {
            Segment::Placed { buffer, .. } => buffer,
            // Without data there was nothing to place.
            Segment::Alone(_) => self.place_data(&header),
        };
        if !received.is_intact {
            return self.fail(task_tag, PROTOCOL_SERVICE_CRC_ERROR);
        }
        let outstanding = self.parameters.max_outstanding_r2t;
        let is_final = header.is_final();
        let put = self.tasks.with(task_tag, |task| {
            let put = task.transfer.put(buffer, is_final);
            let transfer = &task.transfer;
            (put, transfer.is_complete(), transfer.may_ask(outstanding))
        });
        match put {
            // Data of a command that was aborted or has failed.
            None => {}
            Some((Err(_), ..)) => self.fail(task_tag, INCORRECT_AMOUNT_OF_DATA),
            Some((Ok(()), true, _)) => {
                if let Some(task) = self.tasks.remove(task_tag) {
                    if self.ready.is_empty() && self.may_start(&task) {
                        self.start_task(task);
                    } else {
                        self.make_ready(task);
                    }
                }
            }
            Some((Ok(()), false, true)) if !self.asking.contains(&task_tag) => {
                self.asking.push_back(task_tag);
            }
            Some((Ok(()), false, _)) => {}
        }
    }

    /// Sends R2T to those that wait for it, first come, first served, as far as there is memory.
    pub(super) fn ask_for_data(&mut self) {
        let outstanding = self.parameters.max_outstanding_r2t;
        while let Some(task_tag) = self.asking.front().copied() {
            let missing = self
                .tasks
                .get(task_tag)
                .filter(|task| task.transfer.may_ask(outstanding))
                .map(|task| task.transfer.missing());
            let Some(missing) = missing else {
                self.asking.pop_front();
                continue;
            };
            let length = missing.min(self.parameters.max_burst_bytes);
            if self.tasks.any_receiving() && !self.admits(length.into()) {
                self.starved = !self.share.admits(self.held_bytes(), length.into());
                return;
            }
            let transfer_tag = self.transfer_tag();
            let asked = self.tasks.with(task_tag, |task| {
                let burst = task.transfer.ask(transfer_tag, length);
                task.expected.r2ts = task.transfer.r2ts();
                (task.expected.lun, burst)
            });
            if let Some((lun, burst)) = asked {
                self.sender.r2t(lun, task_tag, burst);
            }
        }
    }

    /// Starts what has its data and waited for room.
    pub(super) fn run_ready(&mut self) {
        while !self.starved && !self.ready.is_empty() {
            let runnable = self.ready.iter().position(|task_tag| {
                self.tasks
                    .get(*task_tag)
                    .is_none_or(|task| self.may_start(task))
            });
            let Some(task_tag) = runnable.and_then(|at| self.ready.remove(at)) else {
                return;
            };
            if let Some(task) = self.tasks.remove(task_tag) {
                self.start_task(task);
            }
        }
    }

    /// Takes the answer of the pool.
    pub(super) fn finish_task(&mut self, finished: Finished) {
        self.running -= 1;
        self.around.metrics.in_flight.dec();
        let Some(task) = self.tasks.remove(finished.task_tag) else {
            return;
        };
        self.running_bytes -= u64::from(task.expected.read_bytes);
        if let (State::Running(_), Some(response)) = (&task.state, finished.response) {
            self.respond(&task.expected, response);
        }
    }

    /// Whether there is room for a command, and it is its turn.
    fn may_start(&self, task: &Task) -> bool {
        let read_bytes = u64::from(task.expected.read_bytes);
        (read_bytes == 0 || self.admits(read_bytes))
            && self.sender.output.pieces() < PIECES_MAX
            && self.tasks.may_run(task)
    }

    fn make_ready(&mut self, mut task: Task) {
        task.state = State::Ready;
        let task_tag = task.expected.task_tag;
        if task.attribute == Attribute::HeadOfQueue {
            self.ready.push_front(task_tag);
        } else {
            self.ready.push_back(task_tag);
        }
        self.tasks.insert(task);
    }

    /// Executes a command, here or on the pool.
    fn start_task(&mut self, mut task: Task) {
        if let Some(response) = task.verdict.take() {
            return self.respond(&task.expected, response);
        }
        let Some(nexus) = self.nexus.clone() else {
            return;
        };
        let command = match task.command.take() {
            Some(command) => command,
            None => Arc::new(Command {
                lun: task.expected.lun,
                cdb: task.cdb,
                data_out: task.transfer.take(),
                expected_bytes: Some(task.expected.write_bytes),
            }),
        };
        if let Some(response) = nexus.try_execute(&command) {
            return self.respond(&task.expected, response);
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let job = {
            let (command, cancelled) = (Arc::clone(&command), Arc::clone(&cancelled));
            let finish = self.finish.clone();
            let task_tag = task.expected.task_tag;
            move || {
                let is_wanted = !cancelled.load(Ordering::Relaxed);
                let response = is_wanted.then(|| nexus.execute_unless(&command, &cancelled));
                // Both are let go of before the session learns that nothing of it runs.
                drop((nexus, command));
                drop(finish.send(Finished { task_tag, response }));
            }
        };
        if self.around.pool.submit(job).is_ok() {
            self.running += 1;
            self.running_bytes += u64::from(task.expected.read_bytes);
            self.around.metrics.in_flight.inc();
            task.state = State::Running(cancelled);
            self.tasks.insert(task);
        } else {
            task.command = Some(command);
            task.state = State::Ready;
            self.ready.push_front(task.expected.task_tag);
            self.tasks.insert(task);
            self.starved = true;
        }
    }

    /// Ends a command that has not got its data.
    fn fail(&mut self, task_tag: u32, code: (u8, u8)) {
        if let Some(task) = self.tasks.remove(task_tag) {
            self.respond(&task.expected, check(code));
        }
    }

    /// Answers a command.
    fn respond(&mut self, expected: &Expectation, response: Response) {
        let metrics = &self.around.metrics;
        if response.status == Status::Good {
            metrics.written_bytes.inc_by(expected.wanted_bytes.into());
        } else {
            metrics.not_good.inc();
        }
        let read_bytes = response.data_in.len().min(expected.read_bytes as usize);
        metrics
            .read_bytes
            .inc_by(u64::try_from(read_bytes).unwrap_or(0));
        // The response tells how far the window is open now that this command is over.
        self.sender.window.move_on(self.tasks.len(), self.admits(0));
        self.sender.respond(expected, response);
    }

    /// Most data that a command may bring unasked.
    fn unasked_max(&self, expected: &Expectation) -> usize {
        expected.write_bytes.min(self.parameters.first_burst_bytes) as usize
    }
}

/// ABORTED COMMAND for a fault of the transport (RFC 7143, 11.4.7.2).
fn check(code: (u8, u8)) -> Response {
    Response {
        status: Status::CheckCondition,
        sense: Some(Sense::new(SenseKey::AbortedCommand, code)),
        data_in: export::Segments::new(),
    }
}

const UNEXPECTED_UNSOLICITED_DATA: (u8, u8) = (0x0c, 0x0c);
const INCORRECT_AMOUNT_OF_DATA: (u8, u8) = (0x0c, 0x0d);
const PROTOCOL_SERVICE_CRC_ERROR: (u8, u8) = (0x47, 0x05);
const DATA_PHASE_ERROR: (u8, u8) = (0x4b, 0x00);
