//! The writing end of a journal: records go in one after the other, flushes share a sync.
//!
//! Invariants: a record's bytes are with the kernel before its sequence number is told to anyone; what
//! [`Journal::durable`] says was synced; after a failed sync nothing more is written. A segment is only appended to by
//! the [`Journal`] that made it, and not after a write to it failed, so bytes behind its end can never be mistaken
//! for records.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use uuid::Uuid;

use super::OverlaySettings;
use super::format::{
    HeadProof, PADDING_BYTES_MAX, Proofs, Record, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::segments::Segments;
use super::staging::{Staging, is_in_pages};
use crate::clock::Clock;
use crate::disk::{Caching, DIRECT_ALIGNMENT, DiskFile};
use crate::error::RepoError;

#[derive(Debug)]
pub(super) struct Journal {
    overlay: Uuid,
    pub(super) segments: Segments,
    clock: Arc<dyn Clock>,
    segment_bytes: u64,
    direct_bytes_min: u64,
    tail: Mutex<Tail>,
    group: Mutex<Group>,
    /// Told whenever a sync has ended.
    synced: Condvar,
    /// The newest record that changes the disk.
    written: AtomicU64,
    /// The newest record known to be on stable storage.
    durable: AtomicU64,
    appended_bytes: AtomicU64,
    durable_bytes: AtomicU64,
    syncs: AtomicU64,
    frozen: AtomicBool,
    poisoned: AtomicBool,
}

/// Where the next record goes.
#[derive(Debug)]
pub(super) struct Tail {
    /// The segment being written, or none if the next record starts a new one.
    file: Option<Arc<dyn DiskFile>>,
    /// The same, for long appends; opened with the first of them.
    direct: Option<Arc<dyn DiskFile>>,
    staging: Option<Staging>,
    number: u32,
    heads: Option<HeadProof>,
    /// What the last record said of durability.
    stated: u64,
    pub(super) position: Position,
}

/// A place between two records, and the sums of all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    pub(super) segment: u32,
    pub(super) end: u64,
    /// Of the record before it.
    pub(super) sequence: u64,
    /// Of the record before it.
    pub(super) time: u64,
    pub(super) totals: Totals,
}

/// Sums over records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) records: u64,
    pub(super) flushes: u64,
    /// Payload.
    pub(super) written_bytes: u64,
    /// Records with their heads.
    pub(super) journal_bytes: u64,
}

#[derive(Debug, Default)]
struct Group {
    /// Somebody is at work on a sync.
    led: bool,
}

/// A record to be.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) kind: RecordKind,
    /// Further records of the same call follow.
    pub(super) more: bool,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) proofs: Proofs,
    /// As it is to be stored.
    pub(super) payload: Vec<Bytes>,
    /// As it was given, if it is to be kept in memory and is stored otherwise.
    pub(super) clear: Option<Vec<Bytes>>,
}

/// Where a record's payload came to lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) segment: u32,
    pub(super) position: u64,
}

/// Why a sync is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncReason {
    /// The guest asked; that is part of the disk's history.
    Flush,
    /// We want it.
    Own,
}

impl Draft {
    /// A record without range and payload, of a journal that is encrypted or not.
    pub(super) fn bare(kind: RecordKind, is_sealed: bool) -> Self {
        Self {
            kind,
            more: false,
            offset: 0,
            length: 0,
            proofs: Proofs::none(is_sealed),
            payload: Vec::new(),
            clear: None,
        }
    }

    /// What it takes from `position` so that `ahead_bytes` behind it end with a page, if they do not.
    fn padding(position: u64, ahead_bytes: u64, is_sealed: bool) -> Option<Self> {
        let page = DIRECT_ALIGNMENT as u64;
        let head = super::format::head_bytes(0, is_sealed) as u64;
        let end = position + ahead_bytes;
        let body = match end.next_multiple_of(page) - end {
            0 => return None,
            // A page more if there is no room for a head.
            room => room.checked_sub(head).unwrap_or(room + page - head),
        };
        let zeroes = Bytes::from_static(&[0; PADDING_BYTES_MAX]);
        Some(Self {
            length: body,
            payload: vec![zeroes.slice(..usize::try_from(body).unwrap_or(0))],
            ..Self::bare(RecordKind::Padding, is_sealed)
        })
    }

    /// Whether the disk could take the payload from where it is, and that is worth a page of padding.
    fn is_in_pages(&self) -> bool {
        self.kind == RecordKind::Write
            && self.length >= IN_PLACE_BYTES_MIN
            && self.payload.iter().all(|piece| is_in_pages(piece))
    }

    fn head_bytes(&self) -> u64 {
        self.total_bytes() - self.length
    }

    fn record(&self, position: &Position, time: u64, durable: u64) -> Record {
        Record {
            kind: self.kind,
            more: self.more,
            sequence: position.sequence + 1,
            time,
            offset: self.offset,
            length: self.length,
            durable,
            proofs: self.proofs.clone(),
        }
    }
}

impl Journal {
    /// Goes on after `position`, up to which everything is durable, in a new segment.
    pub(super) fn resume(
        overlay: Uuid,
        segments: Segments,
        clock: Arc<dyn Clock>,
        settings: &OverlaySettings,
        position: Position,
    ) -> Self {
        let tail = Tail {
            file: None,
            direct: None,
            staging: None,
            number: position.segment,
            heads: None,
            stated: 0,
            position,
        };
        let bytes = position.totals.journal_bytes;
        Self {
            overlay,
            segments,
            clock,
            segment_bytes: settings.segment_bytes,
            direct_bytes_min: settings.direct_bytes_min,
            tail: Mutex::new(tail),
            group: Mutex::default(),
            synced: Condvar::new(),
            written: AtomicU64::new(position.sequence),
            durable: AtomicU64::new(position.sequence),
            appended_bytes: AtomicU64::new(bytes),
            durable_bytes: AtomicU64::new(bytes),
            syncs: AtomicU64::new(0),
            frozen: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
        }
    }

    /// Makes the first segment of a new journal.
    pub(super) fn create(
        overlay: Uuid,
        segments: Segments,
        clock: Arc<dyn Clock>,
        settings: &OverlaySettings,
    ) -> Result<Self, RepoError> {
        let journal = Self::resume(overlay, segments, clock, settings, Position::default());
        journal.start_segment(&mut journal.tail.lock())?;
        Ok(journal)
    }

    /// Holds back all other writers.
    pub(super) fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock()
    }

    /// Holds back all other writers if none is at work and the next `bytes` need no new segment.
    pub(super) fn try_lock(&self, bytes: u64) -> Option<MutexGuard<'_, Tail>> {
        let tail = self.tail.try_lock()?;
        (tail.file.is_some() && tail.position.end + bytes <= self.segment_bytes).then_some(tail)
    }

    /// Refuses if no writes are taken any more.
    pub(super) fn check_open(&self) -> Result<(), RepoError> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(RepoError::OverlayPoisoned(self.overlay));
        }
        if self.frozen.load(Ordering::Acquire) {
            return Err(RepoError::OverlaySealed(self.overlay));
        }
        Ok(())
    }

    /// Appends records. When it returns, the kernel has all of them.
    pub(super) fn append(
        &self,
        tail: &mut Tail,
        drafts: &[&Draft],
    ) -> Result<Vec<Placed>, RepoError> {
        self.check_poison()?;
        let total: u64 = drafts.iter().map(|draft| draft.total_bytes()).sum();
        let is_long = total >= self.direct_bytes_min;
        // Each padding takes less than two pages: one before, one behind, and one for each payload that lies in pages.
        let aligned = || drafts.iter().filter(|draft| draft.is_in_pages()).count();
        let paddings = if is_long { 2 * (aligned() + 2) } else { 0 };
        let room = total + (paddings * DIRECT_ALIGNMENT) as u64;
        let full = tail.position.end + room > self.segment_bytes
            && tail.position.end > SEGMENT_HEADER_BYTES as u64;
        if tail.file.is_none() || full {
            self.start_segment(tail)?;
        }
        if is_long {
            self.put_in_pages(tail, drafts)
        } else {
            self.put(tail, drafts, Caching::Cached)
        }
    }

    /// Appends past the page cache. Padding before and behind gives the append its pages for itself; padding within it
    /// lets payloads that lie in pages of memory lie in pages of the file.
    fn put_in_pages(&self, tail: &mut Tail, drafts: &[&Draft]) -> Result<Vec<Placed>, RepoError> {
        let is_sealed = self.is_sealed();
        if let Some(padding) = Draft::padding(tail.position.end, 0, is_sealed) {
            self.put(tail, &[&padding], Caching::Cached)?;
        }
        let mut end = tail.position.end;
        let mut paddings = Vec::with_capacity(drafts.len() + 1);
        for draft in drafts {
            let padding = draft
                .is_in_pages()
                .then(|| Draft::padding(end, draft.head_bytes(), is_sealed))
                .flatten();
            end += draft.total_bytes() + padding.as_ref().map_or(0, Draft::total_bytes);
            paddings.push(padding);
        }
        let last = Draft::padding(end, 0, is_sealed);
        let mut padded = Vec::with_capacity(drafts.len() * 2 + 1);
        for (padding, draft) in paddings.iter().zip(drafts) {
            padded.extend(padding);
            padded.push(draft);
        }
        padded.extend(&last);
        let placed = self.put(tail, &padded, Caching::Direct)?;
        let is_asked = |draft: &Draft| draft.kind != RecordKind::Padding;
        let asked = padded
            .iter()
            .zip(placed)
            .filter(|(draft, _)| is_asked(draft));
        Ok(asked.map(|(_, placed)| placed).collect())
    }

    fn put(
        &self,
        tail: &mut Tail,
        drafts: &[&Draft],
        caching: Caching,
    ) -> Result<Vec<Placed>, RepoError> {
        let Some(heads_of_segment) = &tail.heads else {
            return Err(RepoError::OverlayPoisoned(self.overlay));
        };
        let time = self.clock.now().0.max(tail.position.time);
        let durable = self.durable.load(Ordering::Acquire);
        let mut after = tail.position;
        let mut heads = Vec::with_capacity(drafts.len() * super::format::HEAD_BYTES_MAX);
        let mut lengths = Vec::with_capacity(drafts.len());
        let mut placed = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let record = draft.record(&after, time, durable);
            record.encode_head(heads_of_segment, after.end, &mut heads);
            lengths.push(record.head_bytes());
            placed.push(Placed {
                segment: after.segment,
                position: after.end + record.head_bytes() as u64,
            });
            after.pass(&record);
        }
        let mut slices = Vec::with_capacity(drafts.len() * 2);
        let mut rest = heads.as_slice();
        for (draft, length) in drafts.iter().zip(lengths) {
            let (head, others) = rest.split_at(length);
            rest = others;
            slices.push(IoSlice::new(head));
            slices.extend(draft.payload.iter().map(|piece| IoSlice::new(piece)));
        }
        self.write(tail, &slices, caching)?;
        tail.position = after;
        tail.stated = durable;
        self.appended_bytes
            .store(after.totals.journal_bytes, Ordering::Release);
        if drafts.iter().any(|draft| draft.kind.changes_disk()) {
            self.written.store(after.sequence, Ordering::Release);
        }
        Ok(placed)
    }

    fn write(
        &self,
        tail: &mut Tail,
        slices: &[IoSlice<'_>],
        caching: Caching,
    ) -> Result<(), RepoError> {
        let Some(file) = tail.file.clone() else {
            return Err(RepoError::OverlayPoisoned(self.overlay));
        };
        let written = match caching {
            Caching::Cached => file.write_at(tail.position.end, slices),
            Caching::Direct => {
                let direct = match &tail.direct {
                    Some(direct) => Arc::clone(direct),
                    None => self.segments.open_direct(tail.number)?,
                };
                let direct = tail.direct.insert(direct);
                let staging = tail.staging.get_or_insert_with(Staging::new);
                staging.write(&**direct, tail.position.end, slices)
            }
        };
        written.map_err(|error| {
            // Part of it may be there. Nothing is ever put behind it in this segment.
            tail.file = None;
            tail.direct = None;
            error.into()
        })
    }

    /// Returns when everything answered before the call is on stable storage. Calls that come while a sync is under
    /// way share the next one.
    pub(super) fn sync(&self, reason: SyncReason) -> Result<(), RepoError> {
        self.sync_to(self.written.load(Ordering::Acquire), reason)
    }

    /// Returns when the record numbered `target` and all before it are on stable storage.
    pub(super) fn sync_to(&self, target: u64, reason: SyncReason) -> Result<(), RepoError> {
        let mut group = self.group.lock();
        let mut waited = false;
        loop {
            if self.durable.load(Ordering::Acquire) >= target {
                return Ok(());
            }
            self.check_poison()?;
            if !group.led {
                break;
            }
            waited = true;
            self.synced.wait(&mut group);
        }
        group.led = true;
        drop(group);
        let _leading = Leading(self);
        if waited {
            // The others that the last sync released get to append once more, and share this one.
            std::thread::yield_now();
        }
        self.lead(reason)
    }

    /// Takes no more writes; all that were answered are durable when it returns.
    pub(super) fn freeze(&self) -> Result<(), RepoError> {
        {
            // Whoever got past `check_open` has the tail; after this nobody does.
            let _tail = self.tail.lock();
            self.frozen.store(true, Ordering::Release);
        }
        self.sync(SyncReason::Flush)
    }

    /// Takes writes again.
    pub(super) fn thaw(&self) {
        self.frozen.store(false, Ordering::Release);
    }

    /// Takes no more writes until the overlay is opened again.
    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    /// Bytes of records that a power failure may take.
    pub(super) fn unsynced_bytes(&self) -> u64 {
        self.appended_bytes
            .load(Ordering::Acquire)
            .saturating_sub(self.durable_bytes.load(Ordering::Acquire))
    }

    /// Syncs so far.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Whether it is encrypted.
    pub(super) fn is_sealed(&self) -> bool {
        self.segments.keys().is_some()
    }

    fn check_poison(&self) -> Result<(), RepoError> {
        match self.poisoned.load(Ordering::Acquire) {
            true => Err(RepoError::OverlayPoisoned(self.overlay)),
            false => Ok(()),
        }
    }

    /// Does one sync for everyone who waits.
    fn lead(&self, reason: SyncReason) -> Result<(), RepoError> {
        let mut tail = self.tail.lock();
        if reason == SyncReason::Flush {
            match self.append(
                &mut tail,
                &[&Draft::bare(RecordKind::Flush, self.is_sealed())],
            ) {
                Ok(_) => {}
                // What was answered can be made safe without the record.
                Err(error) if error.is_full() => {
                    tracing::debug!(%error, "no room for the record of a flush")
                }
                Err(error) => return Err(error),
            }
        }
        let covered = tail.position;
        let file = match &tail.file {
            Some(file) => Arc::clone(file),
            None => self.segments.open(tail.number)?,
        };
        drop(tail);
        self.sync_file(&*file, &covered)?;
        let mut tail = self.tail.lock();
        // Says on disk that the sync was a success, so that a later open tells damage from a torn end. Not for the
        // price of a new segment: its header says the same.
        let mark = Draft::bare(RecordKind::Mark, self.is_sealed());
        let room = tail.position.end + mark.total_bytes() <= self.segment_bytes;
        if tail.file.is_some()
            && room
            && tail.stated < covered.sequence
            && let Err(error) = self.append(&mut tail, &[&mark])
        {
            tracing::debug!(%error, "a sync could not be noted in the journal");
        }
        Ok(())
    }

    fn sync_file(&self, file: &dyn DiskFile, covered: &Position) -> Result<(), RepoError> {
        if let Err(error) = file.sync() {
            self.poison();
            tracing::error!(overlay = %self.overlay, %error, "the sync of an overlay failed; it takes no more writes");
            return Err(error.into());
        }
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.durable.fetch_max(covered.sequence, Ordering::AcqRel);
        self.durable_bytes
            .fetch_max(covered.totals.journal_bytes, Ordering::AcqRel);
        Ok(())
    }

    /// Ends the segment, if there is one, durably, and starts the next.
    fn start_segment(&self, tail: &mut Tail) -> Result<(), RepoError> {
        if tail.number > 0 {
            let file = match tail.file.take() {
                Some(file) => file,
                None => self.segments.open(tail.number)?,
            };
            self.sync_file(&*file, &tail.position)?;
        }
        let header = SegmentHeader {
            number: tail.number + 1,
            overlay: *self.overlay.as_bytes(),
            salt: *Uuid::new_v4().as_bytes(),
            first_sequence: tail.position.sequence + 1,
            previous_end: tail.position.end,
            created: self.clock.now().0.max(tail.position.time),
        };
        let file = self.segments.create(&header)?;
        tail.file = Some(file);
        tail.direct = None;
        tail.number = header.number;
        tail.heads = Some(header.heads(self.segments.keys()));
        tail.stated = tail.position.sequence;
        tail.position.segment = header.number;
        tail.position.end = SEGMENT_HEADER_BYTES as u64;
        Ok(())
    }
}

/// The one who does the sync. However that ends, the next may try.
struct Leading<'a>(&'a Journal);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.group.lock().led = false;
        self.0.synced.notify_all();
    }
}

impl Position {
    /// Moves behind a record.
    pub(super) fn pass(&mut self, record: &Record) {
        self.end += record.total_bytes();
        self.sequence = record.sequence;
        self.time = record.time;
        self.totals.records += 1;
        self.totals.journal_bytes += record.total_bytes();
        self.totals.written_bytes += record.payload_bytes() as u64;
        self.totals.flushes += u64::from(record.kind == RecordKind::Flush);
    }
}

impl Draft {
    pub(super) fn total_bytes(&self) -> u64 {
        let body: usize = self.payload.iter().map(Bytes::len).sum();
        let payload = match self.kind {
            RecordKind::Padding => 0,
            _ => body,
        };
        let is_sealed = matches!(self.proofs, Proofs::Seals(_));
        (super::format::head_bytes(payload, is_sealed) + body) as u64
    }
}

impl RecordKind {
    pub(super) fn changes_disk(self) -> bool {
        match self {
            Self::Write | Self::Zeroes { .. } | Self::Discard | Self::Copy { .. } => true,
            Self::Flush | Self::Mark | Self::Padding => false,
        }
    }
}

/// The shortest payload that is written from where it is rather than copied.
const IN_PLACE_BYTES_MIN: u64 = 32 << 10;
