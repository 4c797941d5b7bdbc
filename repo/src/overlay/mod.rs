//! A durable, append-only write journal over an image, which makes a restore point writable.
//!
//! Reads give the newest write, or the point. The journal (`docs/formats/overlay.md`) is the truth; the map that says
//! where every sector comes from is in memory and, as far as it does not fit there, in a [`PageStore`] that can be
//! thrown away. Every write, discard and flush is a record with its time and number, so that the disk can be shown as
//! it was at any moment.
//!
//! Locks are taken in this order: the journal's tail, the map. The journal's group of waiting flushes is never held
//! together with either.

mod blocks;
mod buffers;
mod checkpoint;
mod copy;
mod extents;
mod format;
mod journal;
mod keys;
mod map;
mod pages;
mod queue;
mod read;
mod record;
mod recovery;
mod sealed_pages;
mod segments;
mod staging;
mod touched;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use uuid::Uuid;

pub use self::blocks::BlockCache;
pub use self::extents::{OverlayExtent, OverlayState};
use self::format::{Record, SECTOR_BYTES};
use self::journal::{Journal, Placed, Position, SyncReason};
pub use self::keys::OverlayKeys;
use self::map::Map;
pub use self::pages::{MemoryPages, PageKey, PageStore};
use self::queue::CallQueue;
pub use self::record::{OverlayRecord, discard, find, finish_discards, overlays, readable};
use self::recovery::{Change, Replay};
use self::segments::Segments;
pub use self::touched::{TouchedChunks, TouchedRange};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::error::RepoError;
use crate::image::ChunkSource;

/// A writable disk over a restore point.
///
/// Calls may run at once from many threads. A write that was answered survives the end of the process; after a flush
/// that began later has returned it survives power failure.
pub struct Overlay {
    record: OverlayRecord,
    size_bytes: u64,
    journal: Journal,
    queue: CallQueue,
    map: Mutex<Map>,
    pages: Arc<dyn PageStore>,
    source: Arc<dyn ChunkSource>,
    settings: OverlaySettings,
    /// Our number in the block cache.
    cache_number: u32,
    checkpointing: Mutex<()>,
    /// Length of the journal at the last checkpoint.
    checkpointed_bytes: AtomicU64,
    /// Bytes of the disk that copies have shown elsewhere since then: little journal, and much to do again.
    copied_bytes: AtomicU64,
    checkpoint_wanted: AtomicBool,
}

/// How much memory and disk an overlay may use for its ends.
#[derive(Debug, Clone)]
pub struct OverlaySettings {
    /// Length from which on the journal goes on in a new segment.
    pub segment_bytes: u64,
    /// From how many bytes on what is appended at once goes past the page cache: its fresh pages cost more than the
    /// disk's answer is worth from about here on.
    pub direct_bytes_min: u64,
    /// Most bytes that a power failure may take; writers wait for the disk beyond.
    pub unsynced_bytes_max: u64,
    /// Memory for the map of one overlay.
    pub map_cache_bytes: u64,
    /// Journal between two checkpoints, so about the most that opening it has to read. A copy counts for more than its
    /// record: what it shows elsewhere has to be done again.
    pub checkpoint_bytes: u64,
    /// Memory for what was lately read and written, of all overlays that share it. A [`Repository`](crate::Repository)
    /// puts its own here, which is part of what it has for chunks.
    pub blocks: Arc<BlockCache>,
}

impl Default for OverlaySettings {
    fn default() -> Self {
        Self {
            segment_bytes: 512 << 20,
            direct_bytes_min: 128 << 10,
            unsynced_bytes_max: 64 << 20,
            map_cache_bytes: 64 << 20,
            checkpoint_bytes: 64 << 20,
            blocks: Arc::new(BlockCache::new(64 << 20)),
        }
    }
}

/// What an overlay has done and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OverlayStatistics {
    /// Bytes written by its users since it was made.
    pub written_bytes: u64,
    /// Length of the journal.
    pub journal_bytes: u64,
    /// Bytes of the journal that reads can still come to. The rest was written over.
    pub live_bytes: u64,
    /// Records in the journal.
    pub records: u64,
    /// Flush records in the journal: flushes that shared a sync count once, those with nothing to do not at all.
    pub flushes: u64,
    /// Syncs since it was opened.
    pub syncs: u64,
    /// Bytes that a power failure would take now.
    pub unsynced_bytes: u64,
    /// Memory of the map.
    pub map_bytes: u64,
}

impl Overlay {
    /// Makes an overlay that shows `source` as it is.
    pub fn create(
        disk: Arc<dyn Disk>,
        keys: &OverlayKeys,
        clock: Arc<dyn Clock>,
        pages: Arc<dyn PageStore>,
        source: Arc<dyn ChunkSource>,
        settings: OverlaySettings,
        record: OverlayRecord,
    ) -> Result<Self, RepoError> {
        check_size(&record, &*source)?;
        let pages = keys.seal_pages(pages);
        let segments = Segments::new(Arc::clone(&disk), record.id, keys);
        disk.create_directory(&record::folder(record.id))?;
        let journal = Journal::create(record.id, segments, clock, &settings)?;
        record::publish(&*disk, keys, &record)?;
        let size_bytes = record.size_bytes.next_multiple_of(SECTOR_BYTES);
        let map = Map::empty(
            record.id,
            Arc::clone(&pages),
            size_bytes,
            settings.map_cache_bytes,
        );
        Ok(Self::assemble(
            record, journal, map, pages, source, settings, 0,
        ))
    }

    /// Opens an overlay as it was left, by whatever end.
    pub fn open(
        disk: Arc<dyn Disk>,
        keys: &OverlayKeys,
        clock: Arc<dyn Clock>,
        pages: Arc<dyn PageStore>,
        source: Arc<dyn ChunkSource>,
        settings: OverlaySettings,
        id: Uuid,
    ) -> Result<Self, RepoError> {
        let (record, discarded) = record::load(&*disk, keys, id)?;
        if discarded {
            return Err(RepoError::NoSuchOverlay(id));
        }
        check_size(&record, &*source)?;
        // A call that made one of the names may have come to its end before they were durable.
        disk.sync_directory(Path::new(record::ROOT))?;
        disk.sync_directory(&record::folder(id))?;
        let pages = keys.seal_pages(pages);
        let segments = Segments::new(disk, id, keys);
        let checkpoint = pages
            .checkpoint(id)?
            .as_deref()
            .and_then(checkpoint::decode);
        let mut loading = Loading::start(&record, &pages, &settings, checkpoint);
        let mut replayed =
            recovery::replay(&segments, checkpoint.unwrap_or_default(), &mut loading);
        if replayed.is_err() && loading.map.is_broken() {
            tracing::warn!(overlay = %id, "the stored map of an overlay is damaged and made again from its journal");
            loading = Loading::start(&record, &pages, &settings, None);
            replayed = recovery::replay(&segments, Position::default(), &mut loading);
        }
        let position = replayed?;
        let Loading {
            map,
            checkpointed_bytes,
            ..
        } = loading;
        let journal = Journal::resume(id, segments, clock, &settings, position);
        Ok(Self::assemble(
            record,
            journal,
            map,
            pages,
            source,
            settings,
            checkpointed_bytes,
        ))
    }

    fn assemble(
        record: OverlayRecord,
        journal: Journal,
        map: Map,
        pages: Arc<dyn PageStore>,
        source: Arc<dyn ChunkSource>,
        settings: OverlaySettings,
        checkpointed_bytes: u64,
    ) -> Self {
        Self {
            size_bytes: record.size_bytes.next_multiple_of(SECTOR_BYTES),
            record,
            journal,
            queue: CallQueue::default(),
            map: Mutex::new(map),
            pages,
            source,
            cache_number: settings.blocks.join(),
            settings,
            checkpointing: Mutex::new(()),
            checkpointed_bytes: AtomicU64::new(checkpointed_bytes),
            copied_bytes: AtomicU64::new(0),
            checkpoint_wanted: AtomicBool::new(false),
        }
    }

    /// Its name.
    pub fn id(&self) -> Uuid {
        self.record.id
    }

    /// What it lies over.
    pub fn record(&self) -> &OverlayRecord {
        &self.record
    }

    /// Capacity: that of the disk below in whole sectors.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns when every write answered before the call is on stable storage.
    pub fn flush(&self) -> Result<(), RepoError> {
        self.journal.sync(SyncReason::Flush)
    }

    /// Takes no more writes, and makes all of them durable. What a seal begins with.
    pub fn freeze(&self) -> Result<(), RepoError> {
        self.journal.freeze()
    }

    /// Takes writes again, after a seal that came to nothing.
    pub fn thaw(&self) {
        self.journal.thaw();
    }

    /// What it has done and holds.
    pub fn statistics(&self) -> OverlayStatistics {
        let totals = self.journal.lock().position.totals;
        let (live_sectors, map_bytes) = {
            let mut map = self.map.lock();
            (map.live_sectors(), map.bytes() as u64)
        };
        OverlayStatistics {
            written_bytes: totals.written_bytes,
            journal_bytes: totals.journal_bytes,
            live_bytes: live_sectors * SECTOR_BYTES,
            records: totals.records,
            flushes: totals.flushes,
            syncs: self.journal.syncs(),
            unsynced_bytes: self.journal.unsynced_bytes(),
            map_bytes,
        }
    }

    /// Hints that a range will be read soon.
    pub fn prefetch(&self, offset: u64, length: u64) {
        let chunk = crate::CHUNK_BYTES as u64;
        let end = offset.saturating_add(length).min(self.size_bytes);
        if offset < end {
            self.source
                .prefetch(offset / chunk, end.div_ceil(chunk) - offset / chunk);
        }
    }

    /// Stores what the map has that its store has not, so that the next open has little to read. Worth a call before
    /// the process ends.
    pub fn checkpoint(&self) -> Result<(), RepoError> {
        let Some(_working) = self.checkpointing.try_lock() else {
            return Ok(());
        };
        self.checkpoint_wanted.store(false, Ordering::Release);
        let (position, changed) = {
            let tail = self.journal.lock();
            let mut map = self.map.lock();
            if map.is_broken() {
                return Err(RepoError::OverlayPoisoned(self.record.id));
            }
            (tail.position, map.changed())
        };
        // The store must never know of records that a power failure can take.
        let synced = self.journal.sync_to(position.sequence, SyncReason::Own);
        let put = synced.and_then(|()| store(&*self.pages, self.record.id, &position, &changed));
        self.map.lock().stored(&changed, put.is_ok());
        self.checkpointed_bytes
            .store(position.totals.journal_bytes, Ordering::Release);
        self.copied_bytes.store(0, Ordering::Release);
        put?;
        self.pages.flush()
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<(), RepoError> {
        let rule = match offset.checked_add(length) {
            _ if !(offset | length).is_multiple_of(SECTOR_BYTES) => {
                "it must be in units of 512 bytes"
            }
            Some(end) if end <= self.size_bytes => return Ok(()),
            _ => "it must end within the disk",
        };
        Err(RepoError::BadRange {
            offset,
            length,
            size_bytes: self.size_bytes,
            rule,
        })
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Overlay")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// A map on its way up to the end of the journal.
struct Loading<'a> {
    map: Map,
    record: &'a OverlayRecord,
    pages: &'a Arc<dyn PageStore>,
    checkpointed_bytes: u64,
}

impl<'a> Loading<'a> {
    fn start(
        record: &'a OverlayRecord,
        pages: &'a Arc<dyn PageStore>,
        settings: &OverlaySettings,
        checkpoint: Option<Position>,
    ) -> Self {
        let size_bytes = record.size_bytes.next_multiple_of(SECTOR_BYTES);
        let make = if checkpoint.is_some() {
            Map::stored_in
        } else {
            Map::empty
        };
        let map = make(
            record.id,
            Arc::clone(pages),
            size_bytes,
            settings.map_cache_bytes,
        );
        Self {
            map,
            record,
            pages,
            checkpointed_bytes: checkpoint.map_or(0, |position| position.totals.journal_bytes),
        }
    }
}

impl Replay for Loading<'_> {
    fn record(&mut self, position: &Position, record: &Record) -> Result<(), RepoError> {
        if !record.fits(self.record.size_bytes.next_multiple_of(SECTOR_BYTES)) {
            return Err(RepoError::Corrupt {
                what: format!("record {} of overlay {}", record.sequence, self.record.id),
                detail: "it does not fit the disk".to_owned(),
            });
        }
        let placed = Placed {
            segment: position.segment,
            position: position.end + record.head_bytes() as u64,
        };
        let Record {
            kind,
            offset,
            length,
            proofs,
            ..
        } = record;
        Change {
            kind: *kind,
            offset: *offset,
            length: *length,
            proofs,
            placed,
        }
        .apply(&mut self.map)?;
        if self.map.shrink() {
            let mut after = *position;
            after.pass(record);
            let changed = self.map.changed();
            let put = store(&**self.pages, self.record.id, &after, &changed);
            self.map.stored(&changed, put.is_ok());
            self.checkpointed_bytes = after.totals.journal_bytes;
            put?;
        }
        Ok(())
    }
}

fn store(
    pages: &dyn PageStore,
    overlay: Uuid,
    position: &Position,
    changed: &[map::Changed],
) -> Result<(), RepoError> {
    let batch: Vec<(PageKey, &[u8])> = changed
        .iter()
        .map(|page| (page.key, page.content.as_slice()))
        .collect();
    pages.put(overlay, &batch, &checkpoint::encode(position))
}

fn check_size(record: &OverlayRecord, source: &dyn ChunkSource) -> Result<(), RepoError> {
    let fits = record.size_bytes == source.size_bytes()
        && record.size_bytes > 0
        && record.size_bytes <= crate::image::IMAGE_BYTES_MAX;
    if fits {
        Ok(())
    } else {
        Err(RepoError::Refused(
            "an overlay must have the size of the disk below it",
        ))
    }
}

/// Decoders as fuzz targets call them: any bytes in, no panic.
#[doc(hidden)]
pub mod fuzz {
    pub use super::record::fuzz_overlay_document;

    /// Heads of segments and records, pages and nodes of maps, checkpoints.
    pub fn fuzz_overlay_formats(bytes: &[u8]) {
        use super::format::{Record, SegmentHeader};

        let keys = super::OverlayKeys::for_tests(1);
        for keys in [None, keys.journal()] {
            drop(SegmentHeader::decode(bytes, keys.map(|keys| &**keys)));
            let heads = SegmentHeader::default().heads(keys);
            drop(Record::decode_head(bytes, &heads, 0));
        }
        super::map::decode_any(bytes);
        assert!(
            super::checkpoint::decode(bytes)
                .is_none_or(|position| super::checkpoint::encode(&position) == bytes)
        );
    }
}
