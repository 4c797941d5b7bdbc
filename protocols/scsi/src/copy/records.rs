//! What became of the copies of one initiator, until it asks.

use std::collections::VecDeque;

use crate::response::Ending;
use crate::sense::Sense;

use super::tokens::TokenBytes;

/// The last copies of a nexus. Each is told until newer ones push it out.
#[derive(Debug, Default)]
pub(crate) struct Records {
    kept: VecDeque<Record>,
}

/// How one copy ended.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) list_id: u32,
    /// The service action of the command.
    pub(crate) action: u8,
    pub(crate) segments: u16,
    /// Bytes of EXTENDED COPY, blocks of copies by token.
    pub(crate) transferred: u64,
    pub(crate) end: End,
    pub(crate) token: Option<TokenBytes>,
}

/// How a copy ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// All of it was copied.
    Done,
    /// What went wrong.
    Failed(Sense),
    /// It was aborted, or could not go on for another reason that has no sense data.
    Terminated,
}

impl End {
    pub(crate) fn of(outcome: &Result<(), Ending>) -> Self {
        match outcome {
            Ok(()) => Self::Done,
            Err(Ending::Check(sense)) => Self::Failed(*sense),
            Err(Ending::Status(_) | Ending::WouldWait) => Self::Terminated,
        }
    }

    pub(crate) fn sense(self) -> Option<Sense> {
        match self {
            Self::Failed(sense) => Some(sense),
            Self::Done | Self::Terminated => None,
        }
    }
}

/// List identifiers of 8 bits and of 32 are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Narrow,
    Wide,
}

impl Records {
    /// Keeps `record` in place of an older one of its identifier.
    pub(crate) fn keep(&mut self, record: Record) {
        self.kept
            .retain(|old| (old.kind, old.list_id) != (record.kind, record.list_id));
        if self.kept.len() == RECORDS_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(record);
    }

    pub(crate) fn find(&self, kind: Kind, list_id: u32) -> Option<&Record> {
        let mut kept = self.kept.iter();
        kept.find(|record| (record.kind, record.list_id) == (kind, list_id))
    }
}

/// A token takes half a KiB, so this is what an initiator can make us keep.
const RECORDS_MAX: usize = 64;
