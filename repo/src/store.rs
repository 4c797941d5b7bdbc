//! Records by name: packs, index and caches put together.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::sync::Cache;

use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::error::RepoError;
use crate::health::{Care, Health};
use crate::image::{ImageNode, Pointer};
use crate::index::{IndexStore, Place};
use crate::keys::KeyRing;
use crate::memory::{CacheKey, MemoryCache};
use crate::pack::{PackReader, PackSet, ParityShare, RecordKind};
use crate::repository::OpenOptions;

/// Finds, reads and proves records.
pub(crate) struct ChunkStore {
    packs: Arc<PackSet>,
    reader: PackReader,
    index: Arc<dyn IndexStore>,
    memory: Arc<MemoryCache>,
    health: Arc<Health>,
    parity_share: ParityShare,
    nodes: Cache<ChunkId, Arc<ImageNode>>,
    zero_chunk: Bytes,
    counters: StoreCounters,
}

/// What a store has done since it was opened.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Chunks read from packs.
    pub chunk_reads: AtomicU64,
    /// Chunks answered from memory.
    pub chunk_cache_hits: AtomicU64,
    /// Hints that were out of date, answered through the index.
    pub stale_hints: AtomicU64,
    /// Bytes that backups brought.
    pub ingested_bytes: AtomicU64,
    /// Chunks that were new and stored.
    pub stored_chunks: AtomicU64,
    /// Bytes of packs they took.
    pub stored_bytes: AtomicU64,
    /// Chunks that were there already.
    pub deduplicated_chunks: AtomicU64,
}

impl ChunkStore {
    pub(crate) fn new(
        packs: Arc<PackSet>,
        reader: PackReader,
        index: Arc<dyn IndexStore>,
        health: Arc<Health>,
        options: &OpenOptions,
    ) -> Self {
        let OpenOptions {
            chunk_cache_bytes,
            node_cache_bytes,
            ..
        } = *options;
        let count =
            |bytes: u64, each: usize| usize::try_from(bytes).unwrap_or(usize::MAX) / each + 8;
        Self {
            packs,
            reader,
            index,
            memory: Arc::new(MemoryCache::new(chunk_cache_bytes)),
            health,
            parity_share: options.parity_share,
            nodes: Cache::new(count(node_cache_bytes, ImageNode::MEMORY_BYTES)),
            zero_chunk: Bytes::from_static(&[0; CHUNK_BYTES]),
            counters: StoreCounters::default(),
        }
    }

    pub(crate) fn packs(&self) -> &Arc<PackSet> {
        &self.packs
    }

    /// What names, encrypts and decrypts the records.
    pub(crate) fn keys(&self) -> &Arc<KeyRing> {
        self.packs.keys()
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    pub(crate) fn counters(&self) -> &StoreCounters {
        &self.counters
    }

    pub(crate) fn index(&self) -> &dyn IndexStore {
        self.index.as_ref()
    }

    /// Where chunks are kept, for whoever shares that memory.
    pub(crate) fn memory(&self) -> &Arc<MemoryCache> {
        &self.memory
    }

    /// A whole chunk of zeroes.
    pub(crate) fn zero_chunk(&self) -> Bytes {
        self.zero_chunk.clone()
    }

    /// The chunk if memory has it.
    pub(crate) fn cached_chunk(&self, id: ChunkId) -> Option<Bytes> {
        if id.is_zero() {
            return Some(self.zero_chunk());
        }
        let chunk = self.memory.get(&CacheKey::Chunk(id))?;
        self.counters
            .chunk_cache_hits
            .fetch_add(1, Ordering::Relaxed);
        Some(chunk)
    }

    /// The chunk named `id`, proven by its hash.
    pub(crate) fn chunk(&self, id: ChunkId, hint: Place) -> Result<Bytes, RepoError> {
        if let Some(chunk) = self.cached_chunk(id) {
            return Ok(chunk);
        }
        let chunk = self.image_chunk(id, hint)?;
        self.memory.insert(CacheKey::Chunk(id), chunk.clone());
        Ok(chunk)
    }

    /// The chunk, without keeping it: for reads that will not come again.
    pub(crate) fn chunk_once(&self, id: ChunkId, hint: Place) -> Result<Bytes, RepoError> {
        match self.cached_chunk(id) {
            Some(chunk) => Ok(chunk),
            None => self.image_chunk(id, hint),
        }
    }

    /// A chunk of a disk, which has the length of the grid.
    fn image_chunk(&self, id: ChunkId, hint: Place) -> Result<Bytes, RepoError> {
        let chunk = self.record(id, hint, RecordKind::Chunk)?;
        if chunk.len() == CHUNK_BYTES {
            return Ok(chunk);
        }
        Err(RepoError::Corrupt {
            what: format!("the map that names chunk {id} as part of a disk"),
            detail: format!("the chunk has {} bytes", chunk.len()),
        })
    }

    /// The map node if memory has it.
    pub(crate) fn cached_node(&self, id: ChunkId) -> Option<Arc<ImageNode>> {
        self.nodes.get(&id)
    }

    /// The map node named `id` at a level, proven by its name.
    pub(crate) fn node(
        &self,
        id: ChunkId,
        hint: Place,
        level: u8,
    ) -> Result<Arc<ImageNode>, RepoError> {
        if let Some(node) = self.cached_node(id)
            && node.level() == level
        {
            return Ok(node);
        }
        let raw = self.record(id, hint, RecordKind::ImageNode)?;
        let node = ImageNode::decode(&raw, id, level, self.keys()).map_err(|detail| {
            RepoError::Corrupt {
                what: format!("map node {id}"),
                detail: detail.to_owned(),
            }
        })?;
        let node = Arc::new(node);
        self.nodes.insert(id, Arc::clone(&node));
        Ok(node)
    }

    /// The stored bytes of the record named `id`. Chunks are proven here, nodes by their reader.
    pub(crate) fn record(
        &self,
        id: ChunkId,
        hint: Place,
        kind: RecordKind,
    ) -> Result<Bytes, RepoError> {
        self.counters.chunk_reads.fetch_add(1, Ordering::Relaxed);
        let condemned = self.packs.is_condemned(hint.pack);
        let mut hurt = id.missing();
        if !condemned {
            match self.reader.read(hint, id, kind) {
                Ok(Some(raw)) => return Ok(raw),
                Ok(None) => {}
                Err(error) => hurt = error,
            }
        }
        // The hint is stale, its record is hurt, or its pack will be removed: the index may know another place.
        let mut other = None;
        // A pack may be removed between the index's answer and the reading; then the index knows the next place.
        for _ in 0..PLACES_TRIED {
            let found = self.index.find(&[id])?.pop().flatten();
            let fresh = found.filter(|place| Some(*place) != other);
            let Some(place) = fresh.filter(|place| condemned || *place != hint) else {
                break;
            };
            if other.is_none() {
                self.counters.stale_hints.fetch_add(1, Ordering::Relaxed);
            }
            other = Some(place);
            match self.reader.read(place, id, kind) {
                Ok(Some(raw)) => {
                    self.packs.note_need(place.pack, id);
                    return Ok(raw);
                }
                Ok(None) => {}
                Err(error) => hurt = error,
            }
        }
        // A condemned pack that has what nobody else has is told of, so that it stays.
        if condemned {
            match self.reader.read(hint, id, kind) {
                Ok(Some(raw)) => {
                    self.packs.note_need(hint.pack, id);
                    return Ok(raw);
                }
                Ok(None) => {}
                Err(error) => hurt = error,
            }
        }
        for place in other.into_iter().chain([hint]) {
            if let Some(raw) = self.rebuild(place, id, kind) {
                return Ok(raw);
            }
        }
        self.give_up(&hurt, id, other, hint);
        Err(self.explain(hurt, id, other.unwrap_or(hint)))
    }

    /// The record, rebuilt from the parity of its pack. The pack is then looked after.
    fn rebuild(&self, place: Place, id: ChunkId, kind: RecordKind) -> Option<Bytes> {
        let raw = match self.reader.read_rebuilt(place, id, kind) {
            Ok(raw) => raw?,
            Err(error) => {
                tracing::debug!(%id, %error, "a record cannot be rebuilt");
                return None;
            }
        };
        let rebuilt = &self.health.counters().rebuilt_reads;
        if self.health.want_care(place.pack, Care::Mend) {
            tracing::warn!(
                pack = self.packs.describe(place.pack),
                offset = place.offset(),
                "a damaged record was rebuilt from parity for a read"
            );
        }
        rebuilt.fetch_add(1, Ordering::Relaxed);
        Some(raw)
    }

    /// Nobody has the record any more: the next backup that brings it must store it. A disk that fails may be itself
    /// again one day, so that is left to the examination of the pack.
    fn give_up(&self, error: &RepoError, id: ChunkId, other: Option<Place>, hint: Place) {
        let counters = self.health.counters();
        counters.lost_reads.fetch_add(1, Ordering::Relaxed);
        let places = other.into_iter().chain([hint]);
        let lost: Vec<_> = places.map(|place| (id, place)).collect();
        if error.is_corrupt() {
            self.health.set_lost(&lost);
        }
        for (_, place) in &lost {
            if self.packs.summary(place.pack).is_some() {
                self.health.want_care(place.pack, Care::Mend);
            }
        }
    }

    /// Whether the record of that name can be read at another place than `place`.
    pub(crate) fn has_elsewhere(&self, id: ChunkId, place: Place) -> bool {
        let Ok(found) = self.index.find(&[id]) else {
            return false;
        };
        let other = found.into_iter().flatten().find(|other| *other != place);
        other.is_some_and(|other| {
            [
                RecordKind::Chunk,
                RecordKind::ImageNode,
                RecordKind::StreamNode,
            ]
            .into_iter()
            .any(|kind| matches!(self.reader.read(other, id, kind), Ok(Some(_))))
        })
    }

    /// The record that is kept for `id`, and its length: where `hint` says, unless the index knows better.
    pub(crate) fn locate(&self, id: ChunkId, hint: Place) -> Result<(Place, u32), RepoError> {
        let is_kept = |place: &Place| {
            self.packs.summary(place.pack).is_some() && !self.packs.is_condemned(place.pack)
        };
        let known = match is_kept(&hint) {
            true => Some(hint),
            false => self.index.find(&[id])?.pop().flatten().filter(is_kept),
        };
        // A place in a condemned pack is better than none: the pack is pardoned for it. A record that is nowhere is
        // needed all the same, and may be stored again one day.
        let place = known.unwrap_or(hint);
        let length = match place.length() {
            Some(length) => u32::try_from(length).ok(),
            None => self.reader.record_length(place, id)?,
        };
        Ok((place, length.unwrap_or(0)))
    }

    /// Whether the record named `id` is at `place` and is what its name says. One that the storage does not give is not.
    pub(crate) fn is_proven_at(&self, id: ChunkId, place: Place) -> Result<bool, RepoError> {
        let unproven =
            |error: &RepoError| error.is_corrupt() || matches!(error, RepoError::Disk(_));
        let stored = match self.reader.read_stored(place, id) {
            Err(error) if unproven(&error) => return Ok(false),
            other => other?,
        };
        let Some(record) = stored else {
            return Ok(false);
        };
        let raw = match self.reader.read(place, id, record.header.kind) {
            Err(error) if unproven(&error) => return Ok(false),
            other => other?,
        };
        let Some(raw) = raw else { return Ok(false) };
        let level = raw.first().copied().unwrap_or(0);
        Ok(match record.header.kind {
            // The reader has compared its hash with the name.
            RecordKind::Chunk => true,
            RecordKind::ImageNode => ImageNode::decode(&raw, id, level, self.keys()).is_ok(),
            RecordKind::StreamNode => crate::stream::is_node(&raw, id, level, self.keys()),
            RecordKind::Padding => false,
        })
    }

    /// Where each of `ids` is stored for good, as far as a new backup may rely on it.
    pub(crate) fn find(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>, RepoError> {
        let mut places = self.index.find(ids)?;
        for (place, id) in places.iter_mut().zip(ids) {
            if let Some(found) = *place
                && (self.health.is_lost_at(*id, found) || !self.packs.vouches_for(found, *id))
            {
                *place = None;
            }
        }
        Ok(places)
    }

    /// Chunks of an image, those that lie together read together, and kept in memory.
    pub(crate) fn chunks(&self, pointers: &[Pointer]) -> Result<Vec<Bytes>, RepoError> {
        if let [pointer] = pointers {
            return Ok(vec![self.chunk(pointer.id, pointer.place)?]);
        }
        let chunks = self.read_run(pointers)?;
        for (pointer, chunk) in pointers
            .iter()
            .zip(&chunks)
            .filter(|(pointer, _)| !pointer.id.is_zero())
        {
            self.memory
                .insert(CacheKey::Chunk(pointer.id), chunk.clone());
        }
        Ok(chunks)
    }

    /// Consecutive chunks of an image, without keeping them.
    pub(crate) fn read_run(&self, pointers: &[Pointer]) -> Result<Vec<Bytes>, RepoError> {
        let wanted: Vec<_> = pointers
            .iter()
            .map(|pointer| (pointer.place, pointer.id))
            .collect();
        self.counters
            .chunk_reads
            .fetch_add(pointers.len() as u64, Ordering::Relaxed);
        let mut found = self.reader.read_run(&wanted)?.into_iter();
        let mut chunks = Vec::with_capacity(pointers.len());
        for pointer in pointers {
            let chunk = match found.next().flatten() {
                Some(chunk) if chunk.len() == CHUNK_BYTES => chunk,
                _ => self.chunk_once(pointer.id, pointer.place)?,
            };
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    /// Asks for parity for every sealed pack that has none.
    pub(crate) fn want_parity(&self) {
        if self.parity_share.is_none() {
            return;
        }
        for (number, summary) in self.packs.summaries() {
            if !summary.has_parity {
                self.health.want_care(number, Care::Parity);
            }
        }
    }

    /// How much parity packs get.
    pub(crate) fn parity_share(&self) -> ParityShare {
        self.parity_share
    }

    pub(crate) fn reader(&self) -> &PackReader {
        &self.reader
    }

    /// Says where a record that is not there should have been.
    fn explain(&self, error: RepoError, id: ChunkId, hint: Place) -> RepoError {
        match error {
            RepoError::ChunkMissing { .. } if self.packs.summary(hint.pack).is_some() => {
                RepoError::Corrupt {
                    what: format!(
                        "record {id} at byte {} of {}",
                        hint.offset(),
                        self.packs.describe(hint.pack)
                    ),
                    detail: "something else is there".to_owned(),
                }
            }
            other => other,
        }
    }
}

impl fmt::Debug for ChunkStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChunkStore")
            .field("packs", &self.packs)
            .finish_non_exhaustive()
    }
}

/// Places that are tried for a record.
const PLACES_TRIED: u32 = 4;
