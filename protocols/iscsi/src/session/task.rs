//! A SCSI command from its arrival to its response.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scsi::{Cdb, Command, Response};

use super::control::{Rest, Scope};
use super::sender::Expectation;
use super::transfer::Transfer;

/// A command.
#[derive(Debug)]
pub(super) struct Task {
    /// Place in the order of arrival.
    pub(super) number: u64,
    pub(super) attribute: Attribute,
    pub(super) expected: Expectation,
    pub(super) cdb: Cdb,
    pub(super) transfer: Transfer,
    /// What it is answered with when its data has come, if it is not executed.
    pub(super) verdict: Option<Response>,
    /// Put together when it is first tried.
    pub(super) command: Option<Arc<Command>>,
    pub(super) state: State,
}

/// How far a command has come.
#[derive(Debug)]
pub(super) enum State {
    /// Its data is on the way.
    Receiving,
    /// It waits for its turn.
    Ready,
    /// The pool has it.
    Running(Arc<AtomicBool>),
    /// The pool has it, and its answer will be thrown away.
    Aborted(Vec<Arc<Rest>>),
}

/// Where a command stands in the task set (SAM-5, 8.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    Simple,
    Ordered,
    HeadOfQueue,
}

impl Attribute {
    /// From the flags of a command. What is not defined is simple, as an untagged command is.
    pub(super) fn from_bits(bits: u8) -> Self {
        match bits {
            2 => Self::Ordered,
            3 => Self::HeadOfQueue,
            _ => Self::Simple,
        }
    }
}

/// The answer of the pool.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) task_tag: u32,
    /// `None` if the command was aborted before it began.
    pub(super) response: Option<Response>,
}

/// What became of tasks that were aborted.
#[derive(Debug)]
pub(super) struct Aborted {
    /// The tags of those that are gone at once.
    pub(super) gone: Vec<u32>,
    /// How many of the others there are: the pool has them.
    pub(super) running: usize,
}

/// The commands of a session that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    by_tag: HashMap<u32, Task>,
    /// How many of them are ordered.
    ordered: usize,
    /// Bytes of data that they hold or were promised.
    held_bytes: u64,
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.by_tag.len()
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    pub(super) fn contains(&self, task_tag: u32) -> bool {
        self.by_tag.contains_key(&task_tag)
    }

    pub(super) fn get(&self, task_tag: u32) -> Option<&Task> {
        self.by_tag.get(&task_tag)
    }

    pub(super) fn insert(&mut self, task: Task) {
        self.held_bytes += task.transfer.held();
        self.ordered += usize::from(task.attribute == Attribute::Ordered);
        self.by_tag.insert(task.expected.task_tag, task);
    }

    pub(super) fn remove(&mut self, task_tag: u32) -> Option<Task> {
        let task = self.by_tag.remove(&task_tag)?;
        self.held_bytes -= task.transfer.held();
        self.ordered -= usize::from(task.attribute == Attribute::Ordered);
        Some(task)
    }

    /// Changes a task; what it holds is counted anew.
    pub(super) fn with<T>(
        &mut self,
        task_tag: u32,
        change: impl FnOnce(&mut Task) -> T,
    ) -> Option<T> {
        let task = self.by_tag.get_mut(&task_tag)?;
        let before = task.transfer.held();
        let outcome = change(task);
        self.held_bytes = self.held_bytes - before + task.transfer.held();
        Some(outcome)
    }

    /// Whether any waits for data that has begun or was asked for.
    pub(super) fn any_receiving(&self) -> bool {
        self.by_tag
            .values()
            .any(|task| task.transfer.is_receiving())
    }

    /// Whether the order of the task set lets this command go now: one that is ordered waits for all before it, and
    /// others wait for an ordered one before them.
    pub(super) fn may_run(&self, task: &Task) -> bool {
        if self.ordered == 0 && task.attribute != Attribute::Ordered
            || task.attribute == Attribute::HeadOfQueue
        {
            return true;
        }
        let is_ordered = task.attribute == Attribute::Ordered;
        let scope = Scope::LogicalUnit(task.expected.lun);
        !self.by_tag.values().any(|other| {
            other.number < task.number
                && (is_ordered || other.attribute == Attribute::Ordered)
                && scope.covers(other.expected.lun)
        })
    }

    /// Aborts those that `is_meant` says. Those that run are thrown away when they end, and let go of `rest` then.
    pub(super) fn abort(
        &mut self,
        is_meant: impl Fn(&Task) -> bool,
        rest: Option<&Arc<Rest>>,
    ) -> Aborted {
        let mut gone = Vec::new();
        let mut running = 0;
        for task in self.by_tag.values_mut().filter(|task| is_meant(task)) {
            match &mut task.state {
                State::Receiving | State::Ready => gone.push(task.expected.task_tag),
                State::Running(cancelled) => {
                    cancelled.store(true, Ordering::Relaxed);
                    running += 1;
                    task.state = State::Aborted(rest.cloned().into_iter().collect());
                }
                State::Aborted(rests) => rests.extend(rest.cloned()),
            }
        }
        for task_tag in &gone {
            drop(self.remove(*task_tag));
        }
        Aborted { gone, running }
    }
}
