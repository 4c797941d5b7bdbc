//! What reaches a session from elsewhere: from other sessions of its target, and from the server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

/// A message to a session.
#[derive(Debug)]
pub enum Control {
    /// Abort tasks for a task management function of another session.
    Abort {
        /// Which tasks.
        scope: Scope,
        /// What the initiator of those tasks is told.
        cause: Cause,
        /// Kept until they have come to rest.
        rest: Arc<Rest>,
    },
    /// Abort tasks because a command of another session did so, by preempting this one's reservation.
    Preempt(Scope),
    /// All tasks that a function of this session aborted have come to rest.
    Rested {
        /// The tag of the function.
        task_tag: u32,
        /// What its response says.
        response: u8,
    },
    /// Ask the initiator to log out within this time.
    RequestLogout(Duration),
    /// Tell the initiator that the session will be dropped and may come back, and end it.
    Drop,
    /// End the session: the target was reset.
    Reset,
}

/// Why tasks of another session are aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A reset, of which a unit attention tells.
    Reset,
    /// CLEAR TASK SET.
    Cleared,
}

/// Which tasks a function is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of one logical unit, by its LUN field.
    LogicalUnit([u8; 8]),
    /// All.
    Target,
}

impl Scope {
    /// Whether a task of the unit `lun` is meant.
    pub(super) fn covers(self, lun: [u8; 8]) -> bool {
        match self {
            Self::LogicalUnit(field) => same_unit(field, lun),
            Self::Target => true,
        }
    }
}

/// The tasks of a session, for the device to abort.
#[derive(Debug)]
pub(super) struct OwnTasks(pub(super) UnboundedSender<Control>);

impl scsi::TaskSet for OwnTasks {
    fn abort_all(&self, lun: u16) {
        let scope = Scope::LogicalUnit(scsi::encode_lun(lun));
        // A session that is gone has none.
        drop(self.0.send(Control::Preempt(scope)));
    }
}

/// Held by every aborted task that still runs; when the last lets go, the function is answered.
pub struct Rest {
    task_tag: u32,
    response: u8,
    session: UnboundedSender<Control>,
}

impl Rest {
    /// For the function `task_tag`, which is then answered with `response`.
    pub(super) fn new(task_tag: u32, response: u8, session: UnboundedSender<Control>) -> Arc<Self> {
        Arc::new(Self {
            task_tag,
            response,
            session,
        })
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        // A session that is gone does not answer.
        drop(self.session.send(Control::Rested {
            task_tag: self.task_tag,
            response: self.response,
        }));
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Rest")
            .field("task_tag", &self.task_tag)
            .finish_non_exhaustive()
    }
}

/// The other sessions of a target.
pub trait Neighbours: Send + Sync + 'static {
    /// Sends each of them a message.
    fn tell(&self, message: &dyn Fn() -> Control);
}

/// A session without others.
#[derive(Debug, Clone, Copy)]
pub struct NoNeighbours;

impl Neighbours for NoNeighbours {
    fn tell(&self, _: &dyn Fn() -> Control) {}
}

/// Whether two LUN fields name one unit: small numbers can be written with and without the flat space bit.
fn same_unit(first: [u8; 8], second: [u8; 8]) -> bool {
    let plain = |mut field: [u8; 8]| {
        if field[0] == 0x40 {
            field[0] = 0;
        }
        field
    };
    plain(first) == plain(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unit_has_two_fields() {
        let scope = Scope::LogicalUnit([0, 7, 0, 0, 0, 0, 0, 0]);
        assert!(scope.covers([0x40, 7, 0, 0, 0, 0, 0, 0]));
        assert!(!scope.covers([0x41, 7, 0, 0, 0, 0, 0, 0]));
        assert!(!scope.covers([0, 8, 0, 0, 0, 0, 0, 0]));
        assert!(Scope::Target.covers([1; 8]));
    }
}
