//! The journal (jbd2), replayed in memory.
//!
//! The log is a ring of transactions: blocks that describe what follows, copies of blocks, lists of blocks that were
//! revoked, and a block that commits. Transactions without that last block never happened. What comes of it is a map
//! from a block of the filesystem to its newest copy in the journal; nothing is written.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use ::bytes::Bytes;

use super::Ext;
use super::blocks::{JournalCopy, Overlay};
use super::checksum::{crc32_big, crc32c};
use super::inode::{Inode, Purpose};
use crate::bytes::View;
use crate::{GuestError, Place};

/// The first four bytes of each of the journal's own blocks.
pub(super) const MAGIC: u32 = 0xC03B_3998;

/// Finds which blocks have a newer content in the journal.
pub(super) fn replay(ext: &Ext) -> Result<Overlay, GuestError> {
    let inode = ext.inode(ext.superblock.journal_inode, Purpose::Internal)?;
    let log = Log::open(ext, &inode)?;
    if log.start == 0 {
        return Ok(Overlay::new());
    }
    let transactions = log.committed()?;
    log.refuse_fast_commits(transactions.last().map(|last| last.sequence))?;
    let mut revoked = HashMap::new();
    for transaction in &transactions {
        for block in &transaction.revoked {
            revoked.insert(*block, transaction.sequence);
        }
    }
    let mut overlay = Overlay::new();
    for transaction in &transactions {
        for copy in &transaction.copies {
            let later = revoked
                .get(&copy.target)
                .is_some_and(|at| !is_before(*at, transaction.sequence));
            if later {
                continue;
            }
            log.prove_copy(copy, transaction.sequence)?;
            let newest = JournalCopy {
                block: log.place(copy.at)?,
                escaped: copy.escaped,
            };
            overlay.insert(copy.target, newest);
        }
    }
    Ok(overlay)
}

/// What a committed transaction changes.
#[derive(Default)]
struct Transaction {
    sequence: u32,
    copies: Vec<Copy>,
    revoked: Vec<u64>,
}

/// A block in the log.
struct Copy {
    target: u64,
    /// Which block of the journal has it.
    at: u64,
    escaped: bool,
    checksum: u32,
}

/// The ring of blocks.
struct Log<'a> {
    ext: &'a Ext,
    /// Where the journal's blocks lie: first block of a run, where that is on the volume, and how long it is.
    runs: BTreeMap<u64, (u64, u64)>,
    first: u64,
    /// Behind the last.
    end: u64,
    start: u64,
    sequence: u32,
    compatible: u32,
    incompatible: u32,
    seed: u32,
}

impl<'a> Log<'a> {
    fn open(ext: &'a Ext, inode: &Inode) -> Result<Self, GuestError> {
        let runs = runs(ext, inode)?;
        let mut log = Self {
            ext,
            runs,
            first: 0,
            end: 0,
            start: 0,
            sequence: 0,
            compatible: 0,
            incompatible: 0,
            seed: 0,
        };
        let head = log.read(0)?;
        let view = View::new(&head, Place::Journal { block: 0 });
        let version = view.big32(4)?;
        if view.big32(0)? != MAGIC || !matches!(version, 3 | 4) {
            return Err(view.corrupt("the journal does not begin with its superblock"));
        }
        if version == 4 {
            log.compatible = view.big32(0x24)?;
            log.incompatible = view.big32(0x28)?;
            let unknown = log.incompatible & !feature::KNOWN;
            if unknown != 0 {
                return Err(GuestError::unsupported(format!(
                    "journal feature of unknown meaning, incompatible bits {unknown:#x}"
                )));
            }
            if log.has_checksums() {
                let (before, after) = (view.slice(0, 0xFC)?, view.slice(0x100, 1024 - 0x100)?);
                let computed = crc32c(crc32c(crc32c(!0, before), &[0; 4]), after);
                if view.u8(0x50)? != CRC32C || computed != view.big32(0xFC)? {
                    return Err(view.corrupt("the checksum is wrong"));
                }
            }
            log.seed = crc32c(!0, view.slice(0x30, 16)?);
        }
        let fast = match (log.has(feature::FAST_COMMIT), view.big32(0x54)?) {
            (false, _) => 0,
            (true, 0) => FAST_BLOCKS,
            (true, count) => u64::from(count),
        };
        log.first = u64::from(view.big32(0x14)?);
        log.end = u64::from(view.big32(0x10)?).saturating_sub(fast);
        log.sequence = view.big32(0x18)?;
        log.start = u64::from(view.big32(0x1C)?);
        let there = inode.size_bytes / ext.blocks.block_bytes() as u64;
        if view.big32(0xC)? != ext.superblock.block_bytes
            || log.first == 0
            || log.first >= log.end
            || log.end > there
            || (log.start != 0 && !(log.first..log.end).contains(&log.start))
        {
            return Err(view.corrupt("its sizes contradict each other"));
        }
        Ok(log)
    }

    fn has(&self, feature: u32) -> bool {
        self.incompatible & feature != 0
    }

    fn has_checksums(&self) -> bool {
        self.has(feature::CHECKSUMS_2 | feature::CHECKSUMS_3)
    }

    /// Where a block of the journal lies on the volume.
    fn place(&self, at: u64) -> Result<u64, GuestError> {
        let run = self.runs.range(..=at).next_back();
        run.filter(|(start, (_, length))| at - **start < *length)
            .map(|(start, (physical, _))| physical + (at - start))
            .ok_or(GuestError::corrupt(Place::Journal { block: at }, HOLE))
    }

    fn read(&self, at: u64) -> Result<Bytes, GuestError> {
        self.ext
            .blocks
            .raw(self.place(at)?, Place::Journal { block: at })
    }

    /// The block behind `at` in the ring.
    fn next(&self, at: u64) -> u64 {
        if at + 1 >= self.end {
            self.first
        } else {
            at + 1
        }
    }

    /// Every transaction that was committed, in order.
    fn committed(&self) -> Result<Vec<Transaction>, GuestError> {
        let mut scan = Scan {
            log: self,
            at: self.start,
            walked: 0,
            transactions: Vec::new(),
            open: Transaction {
                sequence: self.sequence,
                ..Transaction::default()
            },
            copies: 0,
            revoked: 0,
            old_checksum: !0,
            is_doubtful: false,
            last_commit_secs: 0,
        };
        // The ring is gone around at most once: what is behind has been overwritten.
        while scan.walked < self.end - self.first && scan.step()?.is_continue() {
            scan.check_limits()?;
        }
        Ok(scan.transactions)
    }

    /// Whether a block's checksum at its end is right, if it has one.
    fn is_whole(&self, view: View<'_>) -> Result<bool, GuestError> {
        if !self.has_checksums() {
            return Ok(true);
        }
        let tail = view.len() - TAIL_BYTES;
        let state = crc32c(self.seed, view.slice(0, tail)?);
        Ok(crc32c(state, &[0; TAIL_BYTES]) == view.big32(tail)?)
    }

    /// Whether a commit block is right.
    fn commits(&self, view: View<'_>, old_checksum: u32) -> Result<bool, GuestError> {
        let stored = view.big32(16)?;
        if self.has_checksums() {
            let state = crc32c(crc32c(self.seed, view.slice(0, 16)?), &[0; 4]);
            return Ok(crc32c(state, view.slice(20, view.len() - 20)?) == stored);
        }
        let (kind, length) = (view.u8(12)?, view.u8(13)?);
        let absent = (kind, length, stored) == (0, 0, 0);
        let is_checked = self.compatible & feature::OLD_CHECKSUM != 0 && !absent;
        Ok(!is_checked || (kind, length, stored) == (1, 4, old_checksum))
    }

    /// What a descriptor says of the blocks behind it.
    fn tags(&self, view: View<'_>) -> Result<Vec<Copy>, GuestError> {
        let wide = self.has(feature::SIXTY_FOUR_BIT);
        let third = self.has(feature::CHECKSUMS_3);
        let second = self.has(feature::CHECKSUMS_2);
        let length = match (third, second, wide) {
            (true, _, _) => 16,
            (_, true, true) => 14,
            (_, true, false) => 10,
            (_, false, true) => 12,
            (_, false, false) => 8,
        };
        let tail = if self.has_checksums() { TAIL_BYTES } else { 0 };
        let mut tags = Vec::new();
        let mut at = HEADER_BYTES;
        while at + length <= view.len() - tail {
            let (flags, checksum) = if third {
                (view.big32(at + 4)?, view.big32(at + 12)?)
            } else {
                let (checksum, flags) = (view.big16(at + 4)?, view.big16(at + 6)?);
                (u32::from(flags), u32::from(checksum))
            };
            let high = if wide { view.big32(at + 8)? } else { 0 };
            tags.push(Copy {
                target: u64::from(view.big32(at)?) | u64::from(high) << 32,
                at: 0,
                escaped: flags & tag::ESCAPED != 0,
                checksum,
            });
            at += length;
            if flags & tag::SAME_UUID == 0 {
                at += UUID_BYTES;
            }
            if flags & tag::LAST != 0 {
                break;
            }
        }
        Ok(tags)
    }

    /// Blocks of which no earlier copy is to be used.
    fn revoked(&self, view: View<'_>) -> Result<Vec<u64>, GuestError> {
        let tail = if self.has_checksums() { TAIL_BYTES } else { 0 };
        let end = view.big32(12)? as usize;
        let wide = self.has(feature::SIXTY_FOUR_BIT);
        let length = if wide { 8 } else { 4 };
        if end > view.len() - tail {
            return Err(view.corrupt("its list of revoked blocks is too long"));
        }
        let mut revoked = Vec::new();
        let mut at = REVOKE_HEADER_BYTES;
        while at + length <= end {
            let mut block = u64::from(view.big32(at)?);
            if wide {
                block = block << 32 | u64::from(view.big32(at + 4)?);
            }
            revoked.push(block);
            at += length;
        }
        Ok(revoked)
    }

    /// Checks a copy that will be used, and that it has a place in the filesystem.
    fn prove_copy(&self, copy: &Copy, sequence: u32) -> Result<(), GuestError> {
        let place = Place::Journal { block: copy.at };
        // By the volume, as the filesystem may have grown in a transaction of this very journal.
        let blocks = self.ext.source().length_bytes() / self.ext.blocks.block_bytes() as u64;
        if copy.target >= blocks {
            return Err(GuestError::corrupt(
                place,
                "the copy is of a block that the volume does not have",
            ));
        }
        if !self.has_checksums() {
            return Ok(());
        }
        let state = crc32c(self.seed, &sequence.to_be_bytes());
        let computed = crc32c(state, &self.read(copy.at)?);
        let stored = if self.has(feature::CHECKSUMS_3) {
            computed
        } else {
            computed & 0xFFFF
        };
        if stored == copy.checksum {
            Ok(())
        } else {
            Err(GuestError::corrupt(
                place,
                "the checksum of the copy is wrong",
            ))
        }
    }

    /// Fast commits change inodes by rules of their own. Whoever passed over them would miss the newest files.
    fn refuse_fast_commits(&self, last: Option<u32>) -> Result<(), GuestError> {
        if !self.has(feature::FAST_COMMIT) {
            return Ok(());
        }
        let first = self.end + 1;
        let bytes = self.read(first)?;
        let view = View::new(&bytes, Place::Journal { block: first });
        let expected = last.map_or(self.sequence, |last| last.wrapping_add(1));
        // Tag, length, features, and the transaction that it belongs to.
        if view.u16(0)? == FAST_HEAD && view.u32(8)? == expected {
            return Err(GuestError::unsupported("a journal with fast commits in it"));
        }
        Ok(())
    }
}

/// A walk along the log.
struct Scan<'l> {
    log: &'l Log<'l>,
    at: u64,
    walked: u64,
    transactions: Vec<Transaction>,
    /// The one of which the commit has not come yet.
    open: Transaction,
    copies: u64,
    revoked: u64,
    /// Over the blocks of the open transaction, as old commits have it.
    old_checksum: u32,
    /// Whether a block of the open transaction has a wrong checksum.
    is_doubtful: bool,
    last_commit_secs: u64,
}

impl Scan<'_> {
    fn step(&mut self) -> Result<ControlFlow<()>, GuestError> {
        let bytes = self.log.read(self.at)?;
        let view = View::new(&bytes, Place::Journal { block: self.at });
        if view.big32(0)? != MAGIC || view.big32(8)? != self.open.sequence {
            return Ok(ControlFlow::Break(()));
        }
        self.advance();
        match view.big32(4)? {
            DESCRIPTOR => self.describe(view)?,
            REVOKE => {
                self.is_doubtful |= !self.log.is_whole(view)?;
                let more = self.log.revoked(view)?;
                self.revoked += more.len() as u64;
                self.open.revoked.extend(more);
            }
            COMMIT => return self.commit(view),
            _ => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn advance(&mut self) {
        self.at = self.log.next(self.at);
        self.walked += 1;
    }

    fn describe(&mut self, view: View<'_>) -> Result<(), GuestError> {
        self.is_doubtful |= !self.log.is_whole(view)?;
        let has_old_checksum = self.log.compatible & feature::OLD_CHECKSUM != 0;
        if has_old_checksum {
            self.old_checksum = crc32_big(self.old_checksum, view.all());
        }
        for mut copy in self.log.tags(view)? {
            copy.at = self.at;
            if has_old_checksum {
                self.old_checksum = crc32_big(self.old_checksum, &self.log.read(self.at)?);
            }
            self.open.copies.push(copy);
            self.copies += 1;
            self.advance();
        }
        Ok(())
    }

    fn commit(&mut self, view: View<'_>) -> Result<ControlFlow<()>, GuestError> {
        let secs = u64::from(view.big32(48)?) << 32 | u64::from(view.big32(52)?);
        if self.is_doubtful || !self.log.commits(view, self.old_checksum)? {
            // Left from an earlier turn around the ring, or of a commit that did not wait for its blocks.
            if secs < self.last_commit_secs || self.log.has(feature::ASYNC_COMMIT) {
                return Ok(ControlFlow::Break(()));
            }
            return Err(view.corrupt("a committed transaction has a wrong checksum"));
        }
        let next = Transaction {
            sequence: self.open.sequence.wrapping_add(1),
            ..Transaction::default()
        };
        self.transactions
            .push(std::mem::replace(&mut self.open, next));
        self.last_commit_secs = secs;
        self.old_checksum = !0;
        Ok(ControlFlow::Continue(()))
    }

    fn check_limits(&self) -> Result<(), GuestError> {
        let limits = [
            (
                "the number of copies in the journal",
                self.copies,
                COPIES_MAX,
            ),
            (
                "the number of revoked blocks in the journal",
                self.revoked,
                COPIES_MAX,
            ),
            (
                "the number of blocks of the journal to replay",
                self.walked,
                WALKED_MAX,
            ),
        ];
        match limits.into_iter().find(|(_, count, limit)| count > limit) {
            Some((what, _, limit)) => Err(GuestError::TooLarge { what, limit }),
            None => Ok(()),
        }
    }
}

fn runs(ext: &Ext, inode: &Inode) -> Result<BTreeMap<u64, (u64, u64)>, GuestError> {
    let blocks = inode.size_bytes / ext.blocks.block_bytes() as u64;
    let mut runs = BTreeMap::new();
    let mut at = 0;
    while at < blocks {
        let run = ext.map(inode, at)?;
        let place = Place::Journal { block: at };
        let physical = run.physical.ok_or(GuestError::corrupt(place, HOLE))?;
        runs.insert(at, (physical, run.blocks));
        if runs.len() > RUNS_MAX {
            return Err(GuestError::TooLarge {
                what: "the number of pieces of the journal",
                limit: RUNS_MAX as u64,
            });
        }
        at = at.saturating_add(run.blocks);
    }
    Ok(runs)
}

/// Whether one sequence number is before another; they start again after the last.
fn is_before(one: u32, other: u32) -> bool {
    one != other && other.wrapping_sub(one) < 1 << 31
}

const HOLE: &str = "the journal has a hole";
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
const CRC32C: u8 = 4;
const FAST_HEAD: u16 = 9;
/// How many blocks at the end are for fast commits if nothing is said.
const FAST_BLOCKS: u64 = 256;
const HEADER_BYTES: usize = 12;
const REVOKE_HEADER_BYTES: usize = 16;
const TAIL_BYTES: usize = 4;
const UUID_BYTES: usize = 16;
/// Copies, and revoked blocks, that are kept in memory: 4 GiB of journal with blocks of 4 KiB.
const COPIES_MAX: u64 = 1 << 20;
/// Blocks of all kinds that are looked at.
const WALKED_MAX: u64 = 1 << 22;
const RUNS_MAX: usize = 1 << 16;

mod feature {
    pub(super) const OLD_CHECKSUM: u32 = 0x1;
    pub(super) const SIXTY_FOUR_BIT: u32 = 0x2;
    pub(super) const ASYNC_COMMIT: u32 = 0x4;
    pub(super) const CHECKSUMS_2: u32 = 0x8;
    pub(super) const CHECKSUMS_3: u32 = 0x10;
    pub(super) const FAST_COMMIT: u32 = 0x20;
    /// Those above and revoke records.
    pub(super) const KNOWN: u32 = 0x3F;
}

mod tag {
    pub(super) const ESCAPED: u32 = 1;
    pub(super) const SAME_UUID: u32 = 2;
    pub(super) const LAST: u32 = 8;
}
