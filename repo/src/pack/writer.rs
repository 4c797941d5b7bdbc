//! Appending to a pack.

use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::adopt::write_page_aligned;
use super::format::{PACK_BYTES_MAX, PACK_RECORDS_MAX, PAGE_BYTES, Place};
use super::record::Record;
use super::set::{PackClass, PackSet};
use super::table::{PackTable, TableOrigin};
use crate::chunk::ChunkId;
use crate::disk::{AlignedBuffer, DiskFile};
use crate::error::RepoError;
use crate::index::{Coverage, IndexStore};

/// One caller's way to append records: a pack of its own at a time, so that what belongs together lies together.
pub(crate) struct PackWriter {
    set: Arc<PackSet>,
    class: PackClass,
    telling: Telling,
    pack: Option<Arc<OpenPack>>,
}

/// When the index is told of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    /// When its bytes are in the file, so that others find it at once.
    Early,
    /// When it is durable: for copies of records that can be found elsewhere until then. Such packs are nobody else's,
    /// so a failed write loses nothing of a backup.
    Durable,
}

impl PackWriter {
    pub(crate) fn new(set: Arc<PackSet>, class: PackClass) -> Self {
        Self::telling(set, class, Telling::Early)
    }

    pub(crate) fn telling(set: Arc<PackSet>, class: PackClass, telling: Telling) -> Self {
        Self {
            set,
            class,
            telling,
            pack: None,
        }
    }

    /// Appends a record. It can be found through the index once its bytes have gone to the file, and is durable after
    /// [`PackSet::sync_all`].
    pub(crate) fn append(&mut self, record: &Record) -> Result<Place, RepoError> {
        self.set.check_sound()?;
        let pack = match self.pack.take() {
            Some(pack) if pack.has_room(record.length()) => pack,
            Some(full) => {
                self.set.seal(&full)?;
                self.set.open_pack(self.class, self.telling)?
            }
            None => self.set.open_pack(self.class, self.telling)?,
        };
        let place = pack.append(record, self.set.index());
        self.pack = Some(pack);
        place
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if let Some(pack) = self.pack.take() {
            self.set.give_back(pack);
        }
    }
}

impl fmt::Debug for PackWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PackWriter")
            .field("class", &self.class)
            .field("pack", &self.pack)
            .finish_non_exhaustive()
    }
}

/// A pack that is not sealed yet.
pub(super) struct OpenPack {
    pub(super) number: u32,
    pub(super) class: PackClass,
    pub(super) telling: Telling,
    file: Arc<dyn DiskFile>,
    /// Counts the packs of the set that lost records because a write failed.
    losses: Arc<AtomicU64>,
    state: Mutex<OpenState>,
}

struct OpenState {
    buffer: AlignedBuffer,
    /// Bytes in the buffer.
    filled: usize,
    /// Where in the file the buffer starts.
    written: u64,
    /// Up to where the file is durable.
    synced: u64,
    table: PackTable,
    /// Records whose bytes are partly in the buffer.
    unpublished: Vec<(ChunkId, Place, u64)>,
    /// A write failed: nothing follows.
    failed: bool,
    /// A sync failed: what the file holds behind `synced` is not known, and no later sync can tell.
    unknown: bool,
}

impl OpenPack {
    /// Takes a new file and starts it with `header`, one page.
    pub(super) fn new(
        number: u32,
        class: PackClass,
        telling: Telling,
        file: Arc<dyn DiskFile>,
        losses: Arc<AtomicU64>,
        header: &[u8],
    ) -> Self {
        let mut buffer = AlignedBuffer::zeroed(BUFFER_BYTES);
        if let Some(page) = buffer.get_mut(..header.len()) {
            page.copy_from_slice(header);
        }
        let state = OpenState {
            buffer,
            filled: header.len(),
            written: 0,
            synced: 0,
            table: PackTable::default(),
            unpublished: Vec::new(),
            failed: false,
            unknown: false,
        };
        Self {
            number,
            class,
            telling,
            file,
            losses,
            state: Mutex::new(state),
        }
    }

    /// Whether a write failed, so that nothing may follow.
    pub(super) fn has_failed(&self) -> bool {
        self.state.lock().failed
    }

    /// Whether a sync failed, so that nobody knows what the file holds.
    pub(super) fn is_unknown(&self) -> bool {
        self.state.lock().unknown
    }

    /// How far it is durable.
    pub(super) fn synced(&self) -> u64 {
        self.state.lock().synced
    }

    /// How far it is filled.
    pub(super) fn end(&self) -> u64 {
        self.state.lock().end()
    }

    fn has_room(&self, record_length: usize) -> bool {
        let state = self.state.lock();
        !state.failed
            && state.table.len() < PACK_RECORDS_MAX
            && state.end() + record_length as u64 <= PACK_BYTES_MAX
    }

    fn append(&self, record: &Record, index: &dyn IndexStore) -> Result<Place, RepoError> {
        let mut state = self.state.lock();
        let place = state.append(self, record)?;
        let end = state.end();
        state.table.push(place, &record.header);
        state.unpublished.push((record.header.id, place, end));
        if self.telling == Telling::Early {
            let written = state.written;
            state.publish(written, index)?;
        }
        Ok(place)
    }

    /// Makes all appended records durable.
    pub(super) fn sync(&self, index: &dyn IndexStore) -> Result<(), RepoError> {
        let target = {
            let mut state = self.state.lock();
            if state.unknown {
                return Err(RepoError::Poisoned);
            }
            if state.synced == state.end() {
                return Ok(());
            }
            // Behind a failed write nothing follows; what came before it may be in use by others.
            if !state.failed {
                state.pad(self)?;
                state.write_out(self)?;
                if self.telling == Telling::Early {
                    let written = state.written;
                    state.publish(written, index)?;
                }
            }
            state.written
        };
        let synced = self.file.sync();
        let mut state = self.state.lock();
        if let Err(error) = synced {
            state.unknown = true;
            return Err(error.into());
        }
        state.synced = state.synced.max(target);
        let synced = state.synced;
        state.publish(synced, index)
    }

    /// Ends the pack with its table. The records are durable before the table tells of them.
    pub(super) fn seal(&self, index: &dyn IndexStore) -> Result<u64, RepoError> {
        self.sync(index)?;
        let mut state = self.state.lock();
        let table = state.table.encode(state.written, TableOrigin::Writer);
        write_page_aligned(self.file.as_ref(), state.written, &table)?;
        if let Err(error) = self.file.sync() {
            state.unknown = true;
            return Err(error.into());
        }
        index.set_coverage(self.number, Coverage { recovered: false })?;
        Ok(state.written + table.len() as u64)
    }
}

impl OpenState {
    fn end(&self) -> u64 {
        self.written + self.filled as u64
    }

    fn append(&mut self, pack: &OpenPack, record: &Record) -> Result<Place, RepoError> {
        let offset = u32::try_from(self.end()).expect("a pack is smaller than 4 GiB");
        let mut rest = record.bytes();
        while !rest.is_empty() {
            let room = self.buffer.len() - self.filled;
            let (now, later) = rest.split_at(rest.len().min(room));
            if let Some(target) = self.buffer.get_mut(self.filled..self.filled + now.len()) {
                target.copy_from_slice(now);
            }
            self.filled += now.len();
            rest = later;
            if self.filled == self.buffer.len() {
                self.write_out(pack)?;
            }
        }
        Ok(Place::new(pack.number, offset, record.length()))
    }

    /// Fills the page with a record that holds nothing.
    fn pad(&mut self, pack: &OpenPack) -> Result<(), RepoError> {
        let used = self.filled % PAGE_BYTES;
        if used == 0 {
            return Ok(());
        }
        let padding = Record::padding(PAGE_BYTES - used);
        self.append(pack, &padding).map(drop)
    }

    /// Writes the buffer, whole pages only, to the file.
    fn write_out(&mut self, pack: &OpenPack) -> Result<(), RepoError> {
        if self.failed {
            return Err(RepoError::Refused(
                "this pack takes no more records since a write to it failed",
            ));
        }
        let bytes = self.buffer.get(..self.filled).unwrap_or_default();
        if let Err(error) = pack.file.write_at(self.written, &[IoSlice::new(bytes)]) {
            self.failed = true;
            pack.losses.fetch_add(1, Ordering::AcqRel);
            return Err(error.into());
        }
        self.written += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Tells the index of all records that end at or before `reached`.
    fn publish(&mut self, reached: u64, index: &dyn IndexStore) -> Result<(), RepoError> {
        let ready = self
            .unpublished
            .partition_point(|(_, _, end)| *end <= reached);
        if ready == 0 {
            return Ok(());
        }
        let entries: Vec<_> = self
            .unpublished
            .drain(..ready)
            .map(|(id, place, _)| (id, place))
            .collect();
        index.insert(&entries)
    }
}

impl fmt::Debug for OpenPack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OpenPack")
            .field("number", &self.number)
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

/// How much goes to the file at once.
const BUFFER_BYTES: usize = 4 << 20;
