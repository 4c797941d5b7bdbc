//! The changes of transactions, in the order in which they have to be made.

use std::collections::HashMap;

use super::transaction::{Gathering, Item, Transaction};
use super::{Ends, Log, Moment, Replayed};
use crate::{GuestError, Place};

/// What is made of the log while it is read.
pub(super) struct Replay<'a> {
    pub log: &'a Log<'a>,
    pub made: Replayed,
    /// Buffers that were given up, by place and length, and how often that is still to come.
    pub cancelled: HashMap<(u64, u16), u32>,
    /// When buffers on disk were written, by place.
    pub written: HashMap<u64, Option<Moment>>,
}

/// A transaction's place in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct When {
    pub moment: Moment,
    pub place: Place,
}

/// Replays all transactions that were ended.
pub(super) fn all(log: &Log<'_>, ends: Ends) -> Result<Replayed, GuestError> {
    let mut replay = Replay {
        log,
        made: Replayed::default(),
        cancelled: HashMap::new(),
        written: HashMap::new(),
    };
    // What was given up later must not be replayed, so all of that has to be known first.
    each(log, ends, &mut |transaction| {
        replay.note_cancelled(&transaction)
    })?;
    each(log, ends, &mut |transaction| replay.apply(&transaction))?;
    replay.made.pending.finish()?;
    tracing::debug!(
        sectors = replay.made.overlay.len(),
        "the log is replayed in memory"
    );
    Ok(replay.made)
}

fn each(
    log: &Log<'_>,
    ends: Ends,
    ended: &mut dyn FnMut(Transaction) -> Result<(), GuestError>,
) -> Result<(), GuestError> {
    let mut gathering = Gathering::default();
    log.walk(ends.tail, ends.head, &mut |record| {
        gathering.take(&record, ended)
    })
    .map_err(|bad| bad.error)
}

impl Replay<'_> {
    fn note_cancelled(&mut self, transaction: &Transaction) -> Result<(), GuestError> {
        let place = transaction.place();
        for item in &transaction.items {
            if kind(item, place)? == BUFFER {
                let buffer = super::buffers::Buffer::decode(item, place)?;
                if buffer.is_cancelled() {
                    *self.cancelled.entry(buffer.key()).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// Blocks first, as inodes lie in them; last what is given up.
    fn apply(&mut self, transaction: &Transaction) -> Result<(), GuestError> {
        let when = When {
            moment: transaction.moment,
            place: transaction.place(),
        };
        for turn in [Turn::Blocks, Turn::Rest, Turn::GivenUp] {
            for item in &transaction.items {
                if turn_of(item, when.place)? == turn {
                    self.apply_item(item, when)?;
                }
            }
        }
        Ok(())
    }

    fn apply_item(&mut self, item: &Item, when: When) -> Result<(), GuestError> {
        match kind(item, when.place)? {
            BUFFER => self.buffer(item, when),
            INODE => self.inode(item, when),
            NEW_INODES => self.new_inodes(item, when),
            // Quotas are not shown.
            QUOTA | QUOTA_OFF => Ok(()),
            other => {
                let known = self.made.pending.note(other, item, when.place)?;
                if known {
                    return Ok(());
                }
                Err(GuestError::unsupported(format!(
                    "an XFS log with changes of the unknown kind {other:#x}"
                )))
            }
        }
    }
}

impl Transaction {
    fn place(&self) -> Place {
        Place::Journal {
            block: self.moment.block(),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Turn {
    Blocks,
    Rest,
    GivenUp,
}

fn turn_of(item: &Item, place: Place) -> Result<Turn, GuestError> {
    Ok(match kind(item, place)? {
        BUFFER if super::buffers::Buffer::decode(item, place)?.is_cancelled() => Turn::GivenUp,
        BUFFER | NEW_INODES => Turn::Blocks,
        _ => Turn::Rest,
    })
}

fn kind(item: &Item, place: Place) -> Result<u16, GuestError> {
    item.region(0, place)?.u16(0)
}

const INODE: u16 = 0x123B;
const BUFFER: u16 = 0x123C;
const QUOTA: u16 = 0x123D;
const QUOTA_OFF: u16 = 0x123E;
const NEW_INODES: u16 = 0x123F;
