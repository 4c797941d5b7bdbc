//! Task management, logout, and what other sessions and the server ask for (RFC 7143, 11.5, 11.14, 11.9).
//!
//! A function is answered when every task that it aborted has come to rest: none of them changes the disk afterwards.

use std::sync::Arc;

use zerocopy::big_endian::{U16, U32};

use super::control::{Cause, Control, Rest, Scope};
use super::full_feature::FullFeature;
use super::task::{Aborted, Task};
use super::window::Turn;
use crate::error::SessionError;
use crate::wire::{
    AsyncMessage, Header, LogoutRequest, LogoutResponse, NO_TAG, TaskManagementRequest,
    TaskManagementResponse, async_event, opcode, reject_reason,
};

/// Whether and how a session comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Not now.
    Open,
    /// As soon as nothing runs, logout is answered.
    Logout { task_tag: u32 },
    /// Nothing more will come.
    Over,
}

impl FullFeature {
    /// Takes a Task Management Function Request.
    pub(super) fn manage(&mut self, header: &Header) -> Result<(), SessionError> {
        let request: TaskManagementRequest = header.view();
        let turn = self
            .sender
            .window
            .take(request.cmd_sn.get(), header.is_immediate())?;
        if turn == Turn::Never {
            return Ok(());
        }
        if self.functions >= FUNCTIONS_MAX {
            self.reject(header, reject_reason::TOO_MANY_IMMEDIATE);
            return Ok(());
        }
        let Some(nexus) = self.nexus.clone() else {
            return Ok(());
        };
        self.around.metrics.management.inc();
        self.functions += 1;
        let task_tag = request.task_tag.get();
        let (lun, unit) = (request.lun, Scope::LogicalUnit(request.lun));
        let control = self.control.clone();
        let rest = |response| Rest::new(task_tag, response, control.clone());
        match request.function & 0x7f {
            ABORT_TASK => {
                let rest = rest(self.abort_one(&request));
                let tag = request.referenced_task_tag.get();
                self.abort_tasks(|task| task.expected.task_tag == tag, Some(&rest));
            }
            ABORT_TASK_SET | CLEAR_TASK_SET if !nexus.has_unit(lun) => {
                drop(rest(NO_SUCH_LUN));
            }
            ABORT_TASK_SET => {
                let rest = rest(COMPLETE);
                self.abort_tasks(|task| unit.covers(task.expected.lun), Some(&rest));
            }
            CLEAR_TASK_SET => {
                let rest = rest(COMPLETE);
                self.abort_everywhere(unit, Cause::Cleared, &rest);
            }
            LOGICAL_UNIT_RESET => {
                if nexus.logical_unit_reset(lun) {
                    self.abort_everywhere(unit, Cause::Reset, &rest(COMPLETE));
                } else {
                    drop(rest(NO_SUCH_LUN));
                }
            }
            TARGET_WARM_RESET => {
                self.abort_everywhere(Scope::Target, Cause::Reset, &rest(COMPLETE));
                nexus.target_reset();
            }
            TARGET_COLD_RESET => {
                self.abort_everywhere(Scope::Target, Cause::Reset, &rest(RESET_AND_CLOSE));
                nexus.target_reset();
                self.around.neighbours.tell(&|| Control::Reset);
            }
            TASK_REASSIGN => drop(rest(REASSIGNMENT_NOT_SUPPORTED)),
            _ => drop(rest(FUNCTION_NOT_SUPPORTED)),
        }
        Ok(())
    }

    /// Aborts tasks of this session; those that do not run are gone at once.
    pub(super) fn abort_tasks(
        &mut self,
        is_meant: impl Fn(&Task) -> bool,
        rest: Option<&Arc<Rest>>,
    ) -> usize {
        let Aborted { gone, running } = self.tasks.abort(is_meant, rest);
        let aborted = gone.len() + running;
        if !gone.is_empty() {
            self.ready.retain(|task_tag| !gone.contains(task_tag));
            self.asking.retain(|task_tag| !gone.contains(task_tag));
        }
        aborted
    }

    /// Takes a Logout Request.
    pub(super) fn logout(&mut self, header: &Header) -> Result<(), SessionError> {
        let request: LogoutRequest = header.view();
        let turn = self
            .sender
            .window
            .take(request.cmd_sn.get(), header.is_immediate())?;
        if turn == Turn::Never {
            return Ok(());
        }
        let task_tag = request.task_tag.get();
        match request.reason & 0x7f {
            CLOSE_SESSION => {}
            CLOSE_CONNECTION if request.cid.get() == self.cid => {}
            CLOSE_CONNECTION => {
                self.logout_response(task_tag, CID_NOT_FOUND);
                return Ok(());
            }
            REMOVE_FOR_RECOVERY => {
                self.logout_response(task_tag, RECOVERY_NOT_SUPPORTED);
                return Ok(());
            }
            _ => {
                self.reject(header, reject_reason::INVALID_FIELD);
                return Ok(());
            }
        }
        self.abort_tasks(|_| true, None);
        self.ending = Ending::Logout { task_tag };
        Ok(())
    }

    /// Answers a logout when nothing runs any more.
    pub(super) fn end_when_at_rest(&mut self) {
        if let Ending::Logout { task_tag } = self.ending
            && self.running == 0
        {
            self.logout_response(task_tag, COMPLETE);
            self.ending = Ending::Over;
        }
    }

    /// Takes a message of another session or of the server.
    pub(super) fn take_message(&mut self, message: Control) {
        match message {
            Control::Abort { scope, cause, rest } => {
                let aborted = self.abort_tasks(|task| scope.covers(task.expected.lun), Some(&rest));
                if let (Cause::Cleared, Scope::LogicalUnit(lun), Some(nexus)) =
                    (cause, scope, &self.nexus)
                    && aborted > 0
                {
                    nexus.commands_cleared(lun);
                }
            }
            Control::Preempt(scope) => {
                self.abort_tasks(|task| scope.covers(task.expected.lun), None);
            }
            Control::Rested { task_tag, response } => self.rested(task_tag, response),
            Control::RequestLogout(within) => {
                let secs = u16::try_from(within.as_secs()).unwrap_or(u16::MAX);
                self.async_message(async_event::LOGOUT_REQUEST, [0, 0, secs]);
            }
            Control::Drop => {
                let wait = self.parameters.time_to_wait;
                self.async_message(async_event::SESSION_DROP, [0, wait, 0]);
                self.abort_tasks(|_| true, None);
                self.ending = Ending::Over;
            }
            Control::Reset => {
                self.abort_tasks(|_| true, None);
                self.ending = Ending::Over;
            }
        }
    }

    /// A function's tasks have come to rest: answers it.
    fn rested(&mut self, task_tag: u32, response: u8) {
        self.functions -= 1;
        if self.ending != Ending::Open {
            return;
        }
        let pdu = TaskManagementResponse {
            opcode: opcode::TASK_MANAGEMENT_RESPONSE,
            flags: Header::FINAL,
            response: if response == RESET_AND_CLOSE {
                COMPLETE
            } else {
                response
            },
            task_tag: U32::new(task_tag),
            stat_sn: self.sender.next_stat_sn(),
            exp_cmd_sn: self.sender.exp_cmd_sn(),
            max_cmd_sn: self.sender.max_cmd_sn(),
            ..TaskManagementResponse::default()
        };
        self.sender.push(&pdu, &[]);
        if response == RESET_AND_CLOSE {
            self.ending = Ending::Over;
        }
    }

    /// What ABORT TASK is answered with (RFC 7143, 11.6.1).
    fn abort_one(&mut self, request: &TaskManagementRequest) -> u8 {
        let is_here = self.tasks.contains(request.referenced_task_tag.get());
        // A command that has not come, and could, is taken as come and aborted.
        if is_here || self.sender.window.abandon(request.ref_cmd_sn.get()) {
            COMPLETE
        } else {
            NO_SUCH_TASK
        }
    }

    fn abort_everywhere(&mut self, scope: Scope, cause: Cause, rest: &Arc<Rest>) {
        self.abort_tasks(|task| scope.covers(task.expected.lun), Some(rest));
        self.around.neighbours.tell(&|| Control::Abort {
            scope,
            cause,
            rest: Arc::clone(rest),
        });
    }

    fn logout_response(&mut self, task_tag: u32, response: u8) {
        let pdu = LogoutResponse {
            opcode: opcode::LOGOUT_RESPONSE,
            flags: Header::FINAL,
            response,
            task_tag: U32::new(task_tag),
            stat_sn: self.sender.next_stat_sn(),
            exp_cmd_sn: self.sender.exp_cmd_sn(),
            max_cmd_sn: self.sender.max_cmd_sn(),
            time_to_wait: U16::new(self.parameters.time_to_wait),
            ..LogoutResponse::default()
        };
        self.sender.push(&pdu, &[]);
    }

    fn async_message(&mut self, event: u8, parameters: [u16; 3]) {
        let pdu = AsyncMessage {
            opcode: opcode::ASYNC_MESSAGE,
            flags: Header::FINAL,
            task_tag: U32::new(NO_TAG),
            stat_sn: self.sender.next_stat_sn(),
            exp_cmd_sn: self.sender.exp_cmd_sn(),
            max_cmd_sn: self.sender.max_cmd_sn(),
            event,
            parameters: parameters.map(U16::new),
            ..AsyncMessage::default()
        };
        self.sender.push(&pdu, &[]);
    }
}

/// Task management functions.
const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_TASK_SET: u8 = 4;
const LOGICAL_UNIT_RESET: u8 = 5;
const TARGET_WARM_RESET: u8 = 6;
const TARGET_COLD_RESET: u8 = 7;
const TASK_REASSIGN: u8 = 8;

/// Responses to them.
const COMPLETE: u8 = 0;
const NO_SUCH_TASK: u8 = 1;
const NO_SUCH_LUN: u8 = 2;
const REASSIGNMENT_NOT_SUPPORTED: u8 = 4;
const FUNCTION_NOT_SUPPORTED: u8 = 5;
/// Not on the wire: complete, and the session ends.
const RESET_AND_CLOSE: u8 = 0xfe;

/// Reasons of a logout.
const CLOSE_SESSION: u8 = 0;
const CLOSE_CONNECTION: u8 = 1;
const REMOVE_FOR_RECOVERY: u8 = 2;
/// Responses to it.
const CID_NOT_FOUND: u8 = 1;
const RECOVERY_NOT_SUPPORTED: u8 = 2;

/// Most functions of a session that wait for tasks.
const FUNCTIONS_MAX: usize = 32;
