//! An overlay over a made-up disk, and a plain model of what it must show.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::sync::Arc;

use bytes::Bytes;
use repo::clock::{ManualClock, UnixNanoseconds};
use repo::disk::{Disk, SimulatedDisk};
use repo::overlay::{
    BlockCache, MemoryPages, Overlay, OverlayKeys, OverlayRecord, OverlaySettings, OverlayState,
};
use repo::{CHUNK_BYTES, ChunkSource, RepoError};
use uuid::Uuid;

pub(crate) const ID: Uuid = Uuid::from_u128(0x6f76_6572_6c61_7900);

/// A disk of known bytes; every third chunk is zero, every fifth is not in memory.
#[derive(Debug)]
pub(crate) struct Ground {
    size_bytes: u64,
    /// The chunks repeat after this many.
    chunks: Vec<Bytes>,
}

impl Ground {
    fn new(size_bytes: u64) -> Self {
        let byte = |index: usize, at: usize| {
            if index % 3 == 2 {
                0
            } else {
                (index * 31 + at / 512) as u8 | 1
            }
        };
        let chunks = (0..9)
            .map(|index| (0..CHUNK_BYTES).map(|at| byte(index, at)).collect())
            .collect();
        Self { size_bytes, chunks }
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        let chunks = self.size_bytes.div_ceil(CHUNK_BYTES as u64);
        let mut all = Vec::new();
        for index in 0..chunks {
            all.extend_from_slice(&self.chunk(index).unwrap());
        }
        all.truncate(self.size_bytes as usize);
        all
    }
}

impl ChunkSource for Ground {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn chunk(&self, index: u64) -> Result<Bytes, RepoError> {
        let whole = &self.chunks[index as usize % self.chunks.len()];
        let there = (self.size_bytes - index * CHUNK_BYTES as u64).min(CHUNK_BYTES as u64) as usize;
        if there == CHUNK_BYTES {
            return Ok(whole.clone());
        }
        let mut end = whole[..there].to_vec();
        end.resize(CHUNK_BYTES, 0);
        Ok(Bytes::from(end))
    }

    fn cached_chunk(&self, index: u64) -> Option<Bytes> {
        (index % 5 != 4).then(|| self.chunk(index).unwrap())
    }

    fn is_zero(&self, index: u64) -> Result<bool, RepoError> {
        Ok(index % 3 == 2)
    }
}

/// Everything an overlay needs.
#[derive(Clone)]
pub(crate) struct Rig {
    pub(crate) disk: SimulatedDisk,
    pub(crate) keys: OverlayKeys,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) pages: Arc<MemoryPages>,
    pub(crate) ground: Arc<Ground>,
    pub(crate) settings: OverlaySettings,
}

impl Rig {
    pub(crate) fn new(size_bytes: u64, settings: OverlaySettings) -> Self {
        Self {
            disk: SimulatedDisk::new(),
            keys: OverlayKeys::none(),
            clock: Arc::new(ManualClock::new(UnixNanoseconds(1_000))),
            pages: Arc::new(MemoryPages::new()),
            ground: Arc::new(Ground::new(size_bytes)),
            settings,
        }
    }

    /// The same in an encrypted repository.
    pub(crate) fn encrypted(self) -> Self {
        Self {
            keys: OverlayKeys::for_tests(7),
            ..self
        }
    }

    /// One that is not encrypted, and one that is.
    pub(crate) fn both(size_bytes: u64, settings: &OverlaySettings) -> [Self; 2] {
        let rig = || Self::new(size_bytes, settings.clone());
        [rig(), rig().encrypted()]
    }

    pub(crate) fn record(&self) -> OverlayRecord {
        OverlayRecord {
            id: ID,
            point: "web01@3".parse().unwrap(),
            disk: 0,
            size_bytes: self.ground.size_bytes(),
            created: UnixNanoseconds(1),
        }
    }

    pub(crate) fn create(&self) -> Result<Overlay, RepoError> {
        self.create_as(self.record())
    }

    pub(crate) fn create_as(&self, record: OverlayRecord) -> Result<Overlay, RepoError> {
        Overlay::create(
            self.shared_disk(),
            &self.keys,
            self.clock.clone(),
            self.pages.clone(),
            self.ground.clone(),
            self.settings.clone(),
            record,
        )
    }

    pub(crate) fn open(&self) -> Result<Overlay, RepoError> {
        self.open_as(ID)
    }

    pub(crate) fn open_as(&self, id: Uuid) -> Result<Overlay, RepoError> {
        Overlay::open(
            self.shared_disk(),
            &self.keys,
            self.clock.clone(),
            self.pages.clone(),
            self.ground.clone(),
            self.settings.clone(),
            id,
        )
    }

    pub(crate) fn shared_disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    /// The same things after the end of the process. The store of pages has no log, so it loses some of them.
    pub(crate) fn kill(&self, seed: u64) -> Self {
        Self {
            disk: self.disk.kill(),
            pages: Arc::new(self.pages.crash(seed)),
            ..self.clone()
        }
    }

    /// The same things after a power failure.
    pub(crate) fn crash(&self, seed: u64) -> Self {
        Self {
            disk: self.disk.crash(seed),
            pages: Arc::new(self.pages.crash(seed / 7)),
            ..self.clone()
        }
    }
}

/// Settings under which everything happens early: new segments, checkpoints, spills.
pub(crate) fn small_settings() -> OverlaySettings {
    OverlaySettings {
        segment_bytes: 20_000,
        direct_bytes_min: 3_000,
        unsynced_bytes_max: 50_000,
        map_cache_bytes: 4_000,
        checkpoint_bytes: 30_000,
        blocks: Arc::new(BlockCache::new(20_000)),
    }
}

/// What an overlay must show, sector by sector.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) bytes: Vec<u8>,
    pub(crate) own: Vec<Option<OverlayState>>,
    /// Whether the bytes are in the journal.
    pub(crate) live: Vec<bool>,
}

impl Model {
    pub(crate) fn new(ground: &Ground) -> Self {
        let mut bytes = ground.content();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let own = vec![None; bytes.len() / 512];
        let live = vec![false; own.len()];
        Self { bytes, own, live }
    }

    pub(crate) fn put(&mut self, sector: usize, bytes: &[u8]) {
        self.bytes[sector * 512..sector * 512 + bytes.len()].copy_from_slice(bytes);
        self.own[sector..sector + bytes.len() / 512].fill(Some(OverlayState::Data));
        self.live[sector..sector + bytes.len() / 512].fill(true);
    }

    /// Shows elsewhere what is at `from`. Where the ground has holes, so has the copy.
    pub(crate) fn copy(&mut self, from: usize, sector: usize, sectors: usize) {
        let bytes = self.bytes[from * 512..(from + sectors) * 512].to_vec();
        self.bytes[sector * 512..(sector + sectors) * 512].copy_from_slice(&bytes);
        self.live.copy_within(from..from + sectors, sector);
        let states: Vec<OverlayState> = (from..from + sectors).map(|at| self.state(at)).collect();
        for (at, state) in (sector..).zip(states) {
            self.own[at] = Some(state);
        }
    }

    /// What is at a sector, whoever has it.
    fn state(&self, sector: usize) -> OverlayState {
        self.own[sector].unwrap_or(match (sector / 128) % 3 {
            2 => OverlayState::Hole,
            _ => OverlayState::Data,
        })
    }

    pub(crate) fn fill(&mut self, sector: usize, sectors: usize, state: OverlayState) {
        self.bytes[sector * 512..(sector + sectors) * 512].fill(0);
        self.own[sector..sector + sectors].fill(Some(state));
        self.live[sector..sector + sectors].fill(false);
    }
}

pub(crate) fn read(overlay: &Overlay, offset: u64, length: usize) -> Result<Vec<u8>, RepoError> {
    let mut out = Vec::new();
    overlay.read(offset, length as u32, &mut out)?;
    let bytes = out.concat();
    assert_eq!(bytes.len(), length);
    let mut cached = Vec::new();
    if overlay.read_cached(offset, length as u32, &mut cached) {
        assert_eq!(cached.concat(), bytes);
    } else {
        assert!(cached.is_empty());
    }
    Ok(bytes)
}

/// Bytes that say which write and sector they are from.
pub(crate) fn tagged(tag: u64, sectors: usize) -> Vec<u8> {
    (0..sectors as u64)
        .flat_map(|sector| ((tag << 16) | sector).to_le_bytes().repeat(64))
        .collect()
}

/// Cuts bytes into pieces of odd lengths, as a network would.
pub(crate) fn pieces(bytes: &[u8]) -> Vec<Bytes> {
    bytes.chunks(1000).map(Bytes::copy_from_slice).collect()
}
