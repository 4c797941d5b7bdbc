//! The stages behind [`ImageWriter`](super::ImageWriter).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use super::node::Pointer;
use super::reader::Image;
use super::tree::TreeWriter;
use super::writer::ImageTotals;
use crate::chunk::{CHUNK_BYTES, ChunkId, is_all_zero};
use crate::disk::AlignedBuffer;
use crate::error::RepoError;
use crate::pack::{PackClass, PackWriter, Place, Record, RecordEncoder, RecordKind};
use crate::store::ChunkStore;

/// Consecutive chunks on their way.
pub(super) struct Unit {
    /// Place in the order of all units.
    pub(super) number: u64,
    /// Index of the first chunk.
    pub(super) first: u64,
    pub(super) data: UnitData,
}

/// The bytes of a unit; a last chunk that is not full is completed with zeroes.
pub(super) enum UnitData {
    /// From a caller.
    Shared(Bytes),
    /// From a direct read: the first bytes of the buffer.
    Aligned(AlignedBuffer, usize),
    /// So many chunks of zeroes.
    Zeroes { chunks: u64 },
    /// So many chunks that the image below has from `source` on.
    Copied { source: u64, chunks: u64 },
}

impl UnitData {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Aligned(buffer, length) => buffer.get(..*length).unwrap_or_default(),
            Self::Zeroes { .. } | Self::Copied { .. } => &[],
        }
    }

    /// The buffer of a read, which the next can use.
    fn into_buffer(self) -> Option<AlignedBuffer> {
        match self {
            Self::Aligned(buffer, _) => Some(buffer),
            Self::Shared(_) | Self::Zeroes { .. } | Self::Copied { .. } => None,
        }
    }
}

/// What is to be done for each chunk of a unit.
pub(super) struct Processed {
    number: u64,
    first: u64,
    /// Bytes that the unit brought.
    length: usize,
    outcomes: Vec<Outcome>,
}

/// What becomes of a chunk.
enum Outcome {
    /// It is as in the image below.
    Same,
    /// It is all zero, which it was not below.
    Zero,
    /// It is stored already.
    Known(Pointer),
    /// It differs from what is below, and is not looked up yet.
    Changed(ChunkId),
    /// It is to be stored.
    New(Record),
}

/// Tests, hashes, looks up, compresses and encrypts.
pub(super) struct Worker {
    store: Arc<ChunkStore>,
    base: Option<Image>,
    encoder: RecordEncoder,
}

impl Worker {
    pub(super) fn new(store: Arc<ChunkStore>, base: Option<Image>) -> Result<Self, RepoError> {
        let encoder = RecordEncoder::new(CHUNK_LEVEL, Arc::clone(store.keys()))?;
        Ok(Self {
            store,
            base,
            encoder,
        })
    }

    /// Works until no more units come or nobody wants the results.
    pub(super) fn run(
        mut self,
        units: &Receiver<Unit>,
        done: &Sender<Result<Processed, RepoError>>,
        spares: &Sender<AlignedBuffer>,
    ) {
        for unit in units {
            let processed = self.process(&unit);
            if let Some(buffer) = unit.data.into_buffer() {
                // Enough are free if there is no room.
                drop(spares.try_send(buffer));
            }
            if done.send(processed).is_err() {
                break;
            }
        }
    }

    pub(super) fn process(&mut self, unit: &Unit) -> Result<Processed, RepoError> {
        let outcomes = match &unit.data {
            UnitData::Zeroes { chunks } => (0..*chunks).map(|_| Outcome::Zero).collect(),
            UnitData::Copied { source, chunks } => self.copied(unit.first, *source, *chunks)?,
            data => self.sort_chunks(unit.first, data.bytes())?,
        };
        Ok(Processed {
            number: unit.number,
            first: unit.first,
            length: unit.data.bytes().len(),
            outcomes,
        })
    }

    fn copied(&self, first: u64, source: u64, chunks: u64) -> Result<Vec<Outcome>, RepoError> {
        let Some(base) = &self.base else {
            return Err(RepoError::Refused("there is no image to move chunks of"));
        };
        let below = base.pointers(first, chunks)?;
        let moved = base.pointers(source, chunks)?;
        let outcome = |(moved, below): (Pointer, Pointer)| match moved {
            same if same.id == below.id => Outcome::Same,
            zero if zero.id.is_zero() => Outcome::Zero,
            other => Outcome::Known(other),
        };
        Ok(moved.into_iter().zip(below).map(outcome).collect())
    }

    fn sort_chunks(&mut self, first: u64, bytes: &[u8]) -> Result<Vec<Outcome>, RepoError> {
        let count = bytes.len().div_ceil(CHUNK_BYTES);
        let below = match &self.base {
            Some(base) => base.pointers(first, count as u64)?,
            None => vec![Pointer::ZERO; count],
        };
        let mut outcomes = Vec::with_capacity(count);
        for (chunk, below) in bytes.chunks(CHUNK_BYTES).zip(&below) {
            let id = if is_all_zero(chunk) {
                ChunkId::ZERO
            } else {
                self.store.keys().chunk_id(&padded(chunk))
            };
            outcomes.push(match id {
                // What is lost below is looked up, and stored again if it is nowhere else.
                id if id == below.id && !self.store.health().is_lost(id) => Outcome::Same,
                id if id.is_zero() => Outcome::Zero,
                id => Outcome::Changed(id),
            });
        }
        self.look_up(&mut outcomes)?;
        for (outcome, chunk) in outcomes.iter_mut().zip(bytes.chunks(CHUNK_BYTES)) {
            if let Outcome::Changed(id) = *outcome {
                let record = self.encoder.encode(RecordKind::Chunk, id, &padded(chunk))?;
                *outcome = Outcome::New(record);
            }
        }
        Ok(outcomes)
    }

    /// Finds those of the changed chunks that are stored already.
    fn look_up(&self, outcomes: &mut [Outcome]) -> Result<(), RepoError> {
        let wanted: Vec<ChunkId> = outcomes.iter().filter_map(Outcome::changed_id).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut places = self.store.find(&wanted)?.into_iter();
        for outcome in outcomes.iter_mut() {
            if let Some(id) = outcome.changed_id()
                && let Some(place) = places.next().flatten()
            {
                *outcome = Outcome::Known(Pointer { id, place });
            }
        }
        Ok(())
    }
}

impl Outcome {
    fn changed_id(&self) -> Option<ChunkId> {
        match self {
            Self::Changed(id) => Some(*id),
            _ => None,
        }
    }
}

/// Appends in order and builds the map.
pub(super) struct Appender {
    store: Arc<ChunkStore>,
    packs: PackWriter,
    tree: TreeWriter,
    recent: RecentChunks,
    totals: ImageTotals,
}

impl Appender {
    pub(super) fn new(
        store: Arc<ChunkStore>,
        size_bytes: u64,
        base: Option<Image>,
    ) -> Result<Self, RepoError> {
        let packs = PackWriter::new(Arc::clone(store.packs()), PackClass::Chunks);
        let tree = TreeWriter::new(Arc::clone(&store), size_bytes, base)?;
        Ok(Self {
            store,
            packs,
            tree,
            recent: RecentChunks::default(),
            totals: ImageTotals::default(),
        })
    }

    /// Takes units until there are no more, in the order of their numbers.
    pub(super) fn run(
        mut self,
        done: &Receiver<Result<Processed, RepoError>>,
        tokens: &Sender<()>,
    ) -> Result<ImageTotals, RepoError> {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for processed in done {
            let processed = processed?;
            waiting.insert(processed.number, processed);
            while let Some(unit) = waiting.remove(&next) {
                self.append_unit(unit)?;
                next += 1;
                if tokens.try_send(()).is_err() {
                    tracing::trace!("the caller has ended and waits for no token");
                }
            }
        }
        self.finish()
    }

    /// Stores the rest of the map.
    pub(super) fn finish(mut self) -> Result<ImageTotals, RepoError> {
        self.totals.root = self.tree.finish()?;
        self.totals.stored_bytes += self.tree.stored().1;
        Ok(self.totals)
    }

    pub(super) fn append_unit(&mut self, unit: Processed) -> Result<(), RepoError> {
        self.store
            .counters()
            .ingested_bytes
            .fetch_add(unit.length as u64, Ordering::Relaxed);
        for (outcome, index) in unit.outcomes.into_iter().zip(unit.first..) {
            let pointer = match outcome {
                Outcome::Same | Outcome::Changed(_) => continue,
                Outcome::Zero => Pointer::ZERO,
                Outcome::Known(pointer) => {
                    self.store
                        .counters()
                        .deduplicated_chunks
                        .fetch_add(1, Ordering::Relaxed);
                    pointer
                }
                Outcome::New(record) => self.append_chunk(&record)?,
            };
            self.totals.changed_chunks += 1;
            self.tree.set(index, pointer)?;
        }
        Ok(())
    }

    /// Stores a chunk, unless an earlier unit brought it while this one was on its way.
    fn append_chunk(&mut self, record: &Record) -> Result<Pointer, RepoError> {
        let id = record.header.id;
        if let Some(place) = self.recent.find(id) {
            self.store
                .counters()
                .deduplicated_chunks
                .fetch_add(1, Ordering::Relaxed);
            return Ok(Pointer { id, place });
        }
        let place = self.packs.append(record)?;
        self.recent.remember(id, place);
        self.totals.new_chunks += 1;
        self.totals.stored_bytes += record.length() as u64;
        let counters = self.store.counters();
        counters.stored_chunks.fetch_add(1, Ordering::Relaxed);
        counters
            .stored_bytes
            .fetch_add(record.length() as u64, Ordering::Relaxed);
        Ok(Pointer { id, place })
    }
}

/// Chunks appended so lately that workers may have looked them up before.
#[derive(Default)]
struct RecentChunks {
    places: HashMap<ChunkId, Place>,
    order: VecDeque<ChunkId>,
}

impl RecentChunks {
    fn find(&self, id: ChunkId) -> Option<Place> {
        self.places.get(&id).copied()
    }

    fn remember(&mut self, id: ChunkId, place: Place) {
        self.places.insert(id, place);
        self.order.push_back(id);
        if self.order.len() > RECENT_CHUNKS
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
    }
}

/// A whole chunk: the last of a disk is filled up with zeroes.
fn padded(chunk: &[u8]) -> Cow<'_, [u8]> {
    if chunk.len() == CHUNK_BYTES {
        return Cow::Borrowed(chunk);
    }
    let mut whole = chunk.to_vec();
    whole.resize(CHUNK_BYTES, 0);
    Cow::Owned(whole)
}

/// zstd's level for chunks.
const CHUNK_LEVEL: i32 = 1;

/// More than the units in flight and one write buffer of small records can hold.
const RECENT_CHUNKS: usize = 40_000;
