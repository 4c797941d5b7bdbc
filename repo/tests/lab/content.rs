//! What disks and streams should hold, sector by sector.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chance::Chance;

/// What a sector holds: 0 is zeroes, any other number fills it in its own way.
pub(crate) type Tag = u64;

pub(crate) const SECTOR: u64 = 512;
pub(crate) const CHUNK: u64 = 65_536;
const SECTORS: u64 = CHUNK / SECTOR;

/// Tags with this bit make bytes that do not compress.
const NOISE: u64 = 1 << 63;

/// The content of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    size_bytes: u64,
    /// Chunks with anything but zeroes in them, and perhaps some others.
    chunks: BTreeMap<u64, Arc<Vec<Tag>>>,
}

impl Disk {
    pub(crate) fn zeroes(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            chunks: BTreeMap::new(),
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.size_bytes / SECTOR
    }

    pub(crate) fn get(&self, sector: u64) -> Tag {
        self.chunks
            .get(&(sector / SECTORS))
            .map_or(0, |chunk| chunk[(sector % SECTORS) as usize])
    }

    pub(crate) fn set(&mut self, sector: u64, tag: Tag) {
        let chunk = self
            .chunks
            .entry(sector / SECTORS)
            .or_insert_with(|| Arc::new(vec![0; SECTORS as usize]));
        Arc::make_mut(chunk)[(sector % SECTORS) as usize] = tag;
    }

    pub(crate) fn resize(&mut self, size_bytes: u64) {
        for sector in size_bytes / SECTOR
            ..self
                .sectors()
                .min(size_bytes.next_multiple_of(CHUNK) / SECTOR)
        {
            self.set(sector, 0);
        }
        self.chunks.retain(|index, _| *index * CHUNK < size_bytes);
        self.size_bytes = size_bytes;
    }

    /// Chunks that are worth a look: all of a small disk, of a large one those that were ever written.
    pub(crate) fn interesting_chunks(&self) -> Vec<u64> {
        let count = self.size_bytes.div_ceil(CHUNK);
        if count <= 16 {
            return (0..count).collect();
        }
        let mut some: Vec<u64> = self.chunks.keys().copied().collect();
        some.extend([0, count / 2, count - 1]);
        some.sort_unstable();
        some.dedup();
        some
    }

    /// The bytes of a chunk as far as the disk goes.
    pub(crate) fn chunk(&self, index: u64) -> Vec<u8> {
        let first = index * SECTORS;
        let tags: Vec<Tag> = (first..(first + SECTORS).min(self.sectors()))
            .map(|sector| self.get(sector))
            .collect();
        expand(&tags)
    }
}

/// Tags for so many sectors: new ones, some of them zeroes, or what some sectors of `like` hold.
pub(crate) fn fill(sectors: u64, like: &Disk, chance: &mut Chance) -> Vec<Tag> {
    let kind = chance.below(8);
    let from = chance.below(like.sectors());
    let base = (chance.next() & !NOISE) >> 12 << 10;
    (0..sectors)
        .map(|step| match kind {
            0 => like.get((from / SECTORS * SECTORS + step) % like.sectors()),
            1 => 0,
            2 => NOISE | base | step,
            3 if step % 5 < 2 => 0,
            // Whole chunks that are equal.
            4 => 4096 + step % SECTORS,
            _ => base | (step + 1),
        })
        .collect()
}

/// The bytes that sectors with these tags hold.
pub(crate) fn expand(tags: &[Tag]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(tags.len() * SECTOR as usize);
    for tag in tags {
        let mut word = *tag;
        for _ in 0..SECTOR / 8 {
            if tag & NOISE != 0 {
                word = word
                    .wrapping_mul(0x5851_f42d_4c95_7f2d)
                    .wrapping_add(*tag | 1);
            }
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes
}
