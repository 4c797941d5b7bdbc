//! Transactions, put together from the operations of records.

use std::collections::HashMap;

use super::Moment;
use super::record::Record;
use crate::bytes::View;
use crate::{GuestError, Place};

/// A transaction that was ended.
pub(super) struct Transaction {
    /// When it began.
    pub moment: Moment,
    pub items: Vec<Item>,
    /// What came of its first part, which may be cut in two.
    head: Vec<u8>,
    bytes: usize,
}

/// A change: what it is of, and what belongs to it.
#[derive(Default)]
pub(super) struct Item {
    regions: Vec<Vec<u8>>,
    total: usize,
}

/// Transactions of which the end has not come yet.
#[derive(Default)]
pub(super) struct Gathering {
    open: HashMap<u32, Transaction>,
    bytes: usize,
}

impl Gathering {
    /// Takes the operations of a record and calls `ended` with transactions that end there.
    pub(super) fn take(
        &mut self,
        record: &Record,
        ended: &mut dyn FnMut(Transaction) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        let place = Place::Journal {
            block: record.header.at,
        };
        let view = View::new(&record.data, place);
        let mut at = 0;
        for _ in 0..record.header.operations {
            if at >= view.len() {
                break;
            }
            let (tid, length) = (view.big32(at)?, view.big32(at + 4)? as usize);
            let (client, flags) = (view.u8(at + 8)?, view.u8(at + 9)?);
            if !matches!(client, TRANSACTION | LOG) {
                return Err(view.corrupt("an operation is of nobody"));
            }
            let content = view.slice(at + HEADER_BYTES, length)?;
            at += HEADER_BYTES + length;
            self.operation(tid, flags, content, record.header.moment, view, ended)?;
        }
        Ok(())
    }

    fn operation(
        &mut self,
        tid: u32,
        flags: u8,
        content: &[u8],
        moment: Moment,
        view: View<'_>,
        ended: &mut dyn FnMut(Transaction) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        let Some(transaction) = self.open.get_mut(&tid) else {
            // What began before the part that is replayed is in the filesystem already.
            if flags & flag::START != 0 {
                self.open.insert(tid, Transaction::new(moment));
            }
            return Ok(());
        };
        let mut flags = flags & !flag::END;
        if flags & flag::WAS_CONTINUED != 0 {
            flags &= !flag::CONTINUES;
        }
        match flags {
            0 | flag::CONTINUES => transaction.add(content, view)?,
            flag::WAS_CONTINUED => transaction.go_on(content, view)?,
            flag::COMMIT | flag::UNMOUNT => {
                let transaction = self.open.remove(&tid);
                if let Some(transaction) = transaction {
                    self.bytes = self.bytes.saturating_sub(transaction.bytes);
                    if flags == flag::COMMIT {
                        ended(transaction)?;
                    }
                }
                return Ok(());
            }
            _ => return Err(view.corrupt("an operation has flags that make no sense")),
        }
        let held = content.len() + REGION_OVERHEAD_BYTES;
        transaction.bytes += held;
        self.bytes += held;
        if self.bytes > GATHERED_MAX {
            return Err(GuestError::TooLarge {
                what: "the number of bytes of unfinished transactions",
                limit: GATHERED_MAX as u64,
            });
        }
        Ok(())
    }
}

impl Transaction {
    fn new(moment: Moment) -> Self {
        Self {
            moment,
            items: Vec::new(),
            head: Vec::new(),
            bytes: 0,
        }
    }

    fn add(&mut self, content: &[u8], view: View<'_>) -> Result<(), GuestError> {
        if content.is_empty() {
            return Ok(());
        }
        if self.head.len() < HEAD_BYTES {
            if !content.starts_with(MAGIC) || content.len() > HEAD_BYTES {
                return Err(view.corrupt("a transaction does not begin as one"));
            }
            self.head.extend_from_slice(content);
            return Ok(());
        }
        if self.items.last().is_none_or(Item::is_whole) {
            let total = View::new(content, Place::Head).u16(2)?;
            if total == 0 {
                return Err(view.corrupt("a change has no parts"));
            }
            self.items.push(Item {
                regions: Vec::new(),
                total: usize::from(total),
            });
        }
        if let Some(item) = self.items.last_mut() {
            item.regions.push(content.to_vec());
        }
        Ok(())
    }

    /// The rest of what the record before had no room for.
    fn go_on(&mut self, content: &[u8], view: View<'_>) -> Result<(), GuestError> {
        if let Some(region) = self
            .items
            .last_mut()
            .and_then(|item| item.regions.last_mut())
        {
            region.extend_from_slice(content);
            return Ok(());
        }
        if self.head.len() + content.len() > HEAD_BYTES {
            return Err(view.corrupt("a transaction does not begin as one"));
        }
        self.head.extend_from_slice(content);
        Ok(())
    }
}

impl Item {
    fn is_whole(&self) -> bool {
        self.regions.len() >= self.total
    }

    /// A part of it; `place` is where the log would be damaged.
    pub(super) fn region(&self, index: usize, place: Place) -> Result<View<'_>, GuestError> {
        let region = self
            .regions
            .get(index)
            .ok_or(GuestError::corrupt(place, "a part of a change is missing"))?;
        Ok(View::new(region, place))
    }

    pub(super) fn regions(&self) -> usize {
        self.regions.len()
    }
}

mod flag {
    pub(super) const START: u8 = 0x01;
    pub(super) const COMMIT: u8 = 0x02;
    pub(super) const CONTINUES: u8 = 0x04;
    pub(super) const WAS_CONTINUED: u8 = 0x08;
    pub(super) const END: u8 = 0x10;
    pub(super) const UNMOUNT: u8 = 0x20;
}

const TRANSACTION: u8 = 0x69;
const LOG: u8 = 0xAA;
const HEADER_BYTES: usize = 12;
const HEAD_BYTES: usize = 16;
const MAGIC: &[u8] = b"NART";
const REGION_OVERHEAD_BYTES: usize = 64;
/// Of all transactions whose end has not come: XFS keeps them far shorter.
const GATHERED_MAX: usize = 192 << 20;
