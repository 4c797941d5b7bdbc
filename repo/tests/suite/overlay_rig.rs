//! An overlay over a made-up disk, and a plain model of what it must show.

use std::sync::Arc;

use bytes::Bytes;
use repo::clock::{ManualClock, UnixNanoseconds};
use repo::disk::{Disk, SimulatedDisk};
use repo::overlay::{BlockCache, MemoryPages, Overlay, OverlayRecord, OverlaySettings, OverlayState};
use repo::{CHUNK_BYTES, ChunkSource, RepoError};
use uuid::Uuid;

pub const ID: Uuid = Uuid::from_u128(0x6f76_6572_6c61_7900);

/// A disk of known bytes; every third chunk is zero, every fifth is not in memory.
#[derive(Debug)]
pub struct Ground {
    pub size_bytes: u64,
}

impl Ground {
    pub fn content(&self) -> Vec<u8> {
        let chunks = self.size_bytes.div_ceil(CHUNK_BYTES as u64);
        let mut all: Vec<u8> = (0..chunks).flat_map(|index| self.chunk(index).unwrap()).collect();
        all.truncate(self.size_bytes as usize);
        all
    }
}

impl ChunkSource for Ground {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn chunk(&self, index: u64) -> Result<Bytes, RepoError> {
        let start = index * CHUNK_BYTES as u64;
        let byte = |at: u64| match start + at < self.size_bytes && !self.is_zero(index).unwrap() {
            true => (index as u8).wrapping_mul(31).wrapping_add((at / 512) as u8) | 1,
            false => 0,
        };
        Ok((0..CHUNK_BYTES as u64).map(byte).collect())
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
pub struct Rig {
    pub disk: SimulatedDisk,
    pub clock: Arc<ManualClock>,
    pub pages: Arc<MemoryPages>,
    pub ground: Arc<Ground>,
    pub settings: OverlaySettings,
}

impl Rig {
    pub fn new(size_bytes: u64, settings: OverlaySettings) -> Self {
        Self {
            disk: SimulatedDisk::new(),
            clock: Arc::new(ManualClock::new(UnixNanoseconds(1_000))),
            pages: Arc::new(MemoryPages::new()),
            ground: Arc::new(Ground { size_bytes }),
            settings,
        }
    }

    pub fn record(&self) -> OverlayRecord {
        OverlayRecord {
            id: ID,
            point: "web01@3".parse().unwrap(),
            disk: 0,
            size_bytes: self.ground.size_bytes,
            created: UnixNanoseconds(1),
        }
    }

    pub fn create(&self) -> Result<Overlay, RepoError> {
        Overlay::create(
            self.shared_disk(),
            self.clock.clone(),
            self.pages.clone(),
            self.ground.clone(),
            self.settings.clone(),
            self.record(),
        )
    }

    pub fn open(&self) -> Result<Overlay, RepoError> {
        Overlay::open(
            self.shared_disk(),
            self.clock.clone(),
            self.pages.clone(),
            self.ground.clone(),
            self.settings.clone(),
            ID,
        )
    }

    pub fn shared_disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    /// The same things after the end of the process. The store of pages has no log, so it loses some of them.
    pub fn kill(&self, seed: u64) -> Self {
        Self { disk: self.disk.kill(), pages: Arc::new(self.pages.crash(seed)), ..self.clone() }
    }

    /// The same things after a power failure.
    pub fn crash(&self, seed: u64) -> Self {
        Self { disk: self.disk.crash(seed), pages: Arc::new(self.pages.crash(seed / 7)), ..self.clone() }
    }
}

/// Settings under which everything happens early: new segments, checkpoints, spills.
pub fn small_settings() -> OverlaySettings {
    OverlaySettings {
        segment_bytes: 20_000,
        unsynced_bytes_max: 50_000,
        map_cache_bytes: 4_000,
        checkpoint_bytes: 30_000,
        blocks: Arc::new(BlockCache::new(20_000)),
    }
}

/// What an overlay must show, sector by sector.
#[derive(Clone)]
pub struct Model {
    pub bytes: Vec<u8>,
    pub own: Vec<Option<OverlayState>>,
}

impl Model {
    pub fn new(ground: &Ground) -> Self {
        let mut bytes = ground.content();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let own = vec![None; bytes.len() / 512];
        Self { bytes, own }
    }

    pub fn put(&mut self, sector: usize, bytes: &[u8]) {
        self.bytes[sector * 512..sector * 512 + bytes.len()].copy_from_slice(bytes);
        self.own[sector..sector + bytes.len() / 512].fill(Some(OverlayState::Data));
    }

    pub fn fill(&mut self, sector: usize, sectors: usize, state: OverlayState) {
        self.bytes[sector * 512..(sector + sectors) * 512].fill(0);
        self.own[sector..sector + sectors].fill(Some(state));
    }
}

pub fn read(overlay: &Overlay, offset: u64, length: usize) -> Result<Vec<u8>, RepoError> {
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
pub fn tagged(tag: u64, sectors: usize) -> Vec<u8> {
    (0..sectors as u64).flat_map(|sector| ((tag << 16) | sector).to_le_bytes().repeat(64)).collect()
}

/// Cuts bytes into pieces of odd lengths, as a network would.
pub fn pieces(bytes: &[u8]) -> Vec<Bytes> {
    bytes.chunks(1000).map(Bytes::copy_from_slice).collect()
}
