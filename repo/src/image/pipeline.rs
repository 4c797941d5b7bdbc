//! The stages behind [`ImageWriter`](super::ImageWriter).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use super::node::Pointer;
use super::reader::Image;
use super::tree::TreeWriter;
use super::writer::ImageTotals;
use crate::chunk::{CHUNK_BYTES, ChunkId, Codec, Encoder, is_all_zero};
use crate::disk::AlignedBuffer;
use crate::error::RepoError;
use crate::pack::{PackClass, PackWriter, Place, Record, RecordKind};
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
}

impl UnitData {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Aligned(buffer, length) => buffer.get(..*length).unwrap_or_default(),
            Self::Zeroes { .. } => &[],
        }
    }
}

/// A unit with what is to be done for each of its chunks.
pub(super) struct Processed {
    number: u64,
    first: u64,
    data: UnitData,
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
    /// It is to be stored: compressed, or as it is in the unit.
    New(ChunkId, Option<Vec<u8>>),
}

/// Tests, hashes, looks up and compresses.
pub(super) struct Worker {
    store: Arc<ChunkStore>,
    base: Option<Image>,
    encoder: Encoder,
}

impl Worker {
    pub(super) fn new(store: Arc<ChunkStore>, base: Option<Image>) -> Result<Self, RepoError> {
        let encoder = Encoder::new(CHUNK_LEVEL).map_err(RepoError::Thread)?;
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
    ) {
        for unit in units {
            let processed = self.process(unit);
            if done.send(processed).is_err() {
                break;
            }
        }
    }

    pub(super) fn process(&mut self, unit: Unit) -> Result<Processed, RepoError> {
        let Unit {
            number,
            first,
            data,
        } = unit;
        let outcomes = match &data {
            UnitData::Zeroes { chunks } => (0..*chunks).map(|_| Outcome::Zero).collect(),
            data => self.sort_chunks(first, data.bytes())?,
        };
        Ok(Processed {
            number,
            first,
            data,
            outcomes,
        })
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
                name_padded(chunk)
            };
            outcomes.push(match id {
                id if id == below.id => Outcome::Same,
                id if id.is_zero() => Outcome::Zero,
                id => Outcome::New(id, None),
            });
        }
        self.look_up(&mut outcomes)?;
        for (outcome, chunk) in outcomes.iter_mut().zip(bytes.chunks(CHUNK_BYTES)) {
            if let Outcome::New(_, packed) = outcome {
                *packed = self.compress(chunk);
            }
        }
        Ok(outcomes)
    }

    /// Finds those of the new chunks that are stored already.
    fn look_up(&self, outcomes: &mut [Outcome]) -> Result<(), RepoError> {
        let wanted: Vec<ChunkId> = outcomes.iter().filter_map(Outcome::new_id).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut places = self.store.find(&wanted)?.into_iter();
        for outcome in outcomes.iter_mut() {
            if let Some(id) = outcome.new_id()
                && let Some(place) = places.next().flatten()
            {
                *outcome = Outcome::Known(Pointer { id, place });
            }
        }
        Ok(())
    }

    fn compress(&mut self, chunk: &[u8]) -> Option<Vec<u8>> {
        if chunk.len() == CHUNK_BYTES {
            return self.encoder.compress(chunk);
        }
        let padded = pad(chunk);
        Some(self.encoder.compress(&padded).unwrap_or(padded))
    }
}

impl Outcome {
    fn new_id(&self) -> Option<ChunkId> {
        match self {
            Self::New(id, _) => Some(*id),
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
                self.append_unit(&unit)?;
                drop(unit);
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

    pub(super) fn append_unit(&mut self, unit: &Processed) -> Result<(), RepoError> {
        let bytes = unit.data.bytes();
        self.store
            .counters()
            .ingested_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        for ((step, outcome), index) in unit.outcomes.iter().enumerate().zip(unit.first..) {
            let pointer = match outcome {
                Outcome::Same => continue,
                Outcome::Zero => Pointer::ZERO,
                Outcome::Known(pointer) => {
                    self.store
                        .counters()
                        .deduplicated_chunks
                        .fetch_add(1, Ordering::Relaxed);
                    *pointer
                }
                Outcome::New(id, packed) => {
                    let raw = bytes
                        .get(chunk_range(step, bytes.len()))
                        .unwrap_or_default();
                    self.append_chunk(*id, packed.as_deref(), raw)?
                }
            };
            self.totals.changed_chunks += 1;
            self.tree.set(index, pointer)?;
        }
        Ok(())
    }

    /// Stores a chunk, unless an earlier unit brought it while this one was on its way.
    fn append_chunk(
        &mut self,
        id: ChunkId,
        packed: Option<&[u8]>,
        raw: &[u8],
    ) -> Result<Pointer, RepoError> {
        if let Some(place) = self.recent.find(id) {
            self.store
                .counters()
                .deduplicated_chunks
                .fetch_add(1, Ordering::Relaxed);
            return Ok(Pointer { id, place });
        }
        let (codec, payload) = match packed {
            Some(packed) if packed.len() < CHUNK_BYTES => (Codec::Zstd, packed),
            Some(padded) => (Codec::Raw, padded),
            None => (Codec::Raw, raw),
        };
        let record = Record::new(RecordKind::Chunk, id, codec, CHUNK_BYTES, payload);
        let place = self.packs.append(&record)?;
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

fn chunk_range(step: usize, length: usize) -> Range<usize> {
    step * CHUNK_BYTES..((step + 1) * CHUNK_BYTES).min(length)
}

fn name_padded(chunk: &[u8]) -> ChunkId {
    if chunk.len() == CHUNK_BYTES {
        ChunkId::of(chunk)
    } else {
        ChunkId::of(&pad(chunk))
    }
}

fn pad(chunk: &[u8]) -> Vec<u8> {
    let mut padded = chunk.to_vec();
    padded.resize(CHUNK_BYTES, 0);
    padded
}

/// zstd's level for chunks.
const CHUNK_LEVEL: i32 = 1;

/// More than the units in flight and one write buffer of small records can hold.
const RECENT_CHUNKS: usize = 40_000;
