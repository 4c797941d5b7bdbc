//! Thin pools: which blocks of a pool's data belong to which volume, from the pool's metadata.
//!
//! Read is the state after the last transaction that was committed, which is what the superblock leads to. Every block
//! of metadata has a checksum and says where it lies, and both are compared.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use export::Segments;
use quick_cache::sync::Cache;

use crate::bytes::{View, to_usize};
use crate::layers::{Found, Layer, zeroes};
use crate::source::end_within;
use crate::{GuestError, Place, Source};

/// A pool.
pub(super) struct Pool {
    metadata: Arc<dyn Layer>,
    data: Arc<dyn Layer>,
    /// The length of a block of data.
    pub(super) block_bytes: u64,
    /// Where the tree of volumes begins.
    root: u64,
    details: u64,
    /// A state of the metadata that is kept for reading it from outside, and uses data of its own.
    held: u64,
    cache: Cache<u64, Bytes>,
}

impl Pool {
    pub(super) fn open(metadata: Arc<dyn Layer>, data: Arc<dyn Layer>) -> Result<Self, GuestError> {
        let block = metadata.read(0, BLOCK_BYTES)?.to_vec();
        let view = View::new(&block, Place::ThinMetadata { block: 0 });
        if view.u64(32)? != MAGIC {
            return Err(view.corrupt("the magic number of the superblock is missing"));
        }
        check(&view, 0, SUPERBLOCK_SALT)?;
        if !matches!(view.u32(40)?, 1 | 2) || view.u32(360)? != 0 {
            return Err(GuestError::unsupported(
                "metadata of a thin pool in this version",
            ));
        }
        let block_bytes = u64::from(view.u32(336)?) * 512;
        if !block_bytes.is_multiple_of(64 << 10) || !((64 << 10)..=(1 << 30)).contains(&block_bytes)
        {
            return Err(view.corrupt("the blocks of data have an impossible length"));
        }
        if view.u32(340)? != 8 {
            return Err(view.corrupt("the blocks of metadata have an impossible length"));
        }
        Ok(Self {
            block_bytes,
            held: view.u64(56)?,
            root: view.u64(320)?,
            details: view.u64(328)?,
            metadata,
            data,
            cache: Cache::new(CACHE_BYTES / BLOCK_BYTES),
        })
    }

    /// Where the tree of a volume begins.
    fn root_of(&self, device: u64) -> Result<u64, GuestError> {
        let known = self.find(self.details, device, DETAILS_BYTES)?;
        let root = self.find(self.root, device, 8)?;
        match (known, root) {
            (Some(_), Some(value)) => Ok(value),
            _ => Err(GuestError::missing(format!(
                "volume {device} of a thin pool, which its metadata do not know,"
            ))),
        }
    }

    /// A block of metadata, proven.
    fn node(&self, number: u64, value_bytes: usize) -> Result<Node, GuestError> {
        let place = Place::ThinMetadata { block: number };
        let block = match self.cache.get(&number) {
            Some(block) => block,
            None => {
                let at = number.checked_mul(BLOCK_BYTES as u64);
                let at = at
                    .filter(|at| {
                        at.saturating_add(BLOCK_BYTES as u64) <= self.metadata.length_bytes()
                    })
                    .ok_or(GuestError::corrupt(place, "it lies beyond the metadata"))?;
                let block = Bytes::from(self.metadata.read(at, BLOCK_BYTES)?.to_vec());
                check(&View::new(&block, place), number, NODE_SALT)?;
                self.cache.insert(number, block.clone());
                block
            }
        };
        Node::new(block, place, value_bytes)
    }

    /// The value of the first word of what stands at `key` in the tree from `root` on.
    fn find(&self, root: u64, key: u64, value_bytes: usize) -> Result<Option<u64>, GuestError> {
        let mut number = root;
        for _ in 0..DEPTH_MAX {
            let node = self.node(number, value_bytes)?;
            let place = node.place_of(key)?;
            let Some(place) = place else {
                return Ok(None);
            };
            let value = node.value(place)?;
            if node.is_leaf {
                return Ok((node.key(place)? == key).then_some(value));
            }
            number = value;
        }
        Err(GuestError::corrupt(
            Place::ThinMetadata { block: root },
            "its tree is too deep",
        ))
    }

    /// All in the tree from `root` on with keys in `keys`, in order. Keys must grow all the way, so no node can be met twice.
    fn each(
        &self,
        root: u64,
        keys: Range<u64>,
        value_bytes: usize,
        take: &mut dyn FnMut(u64, u64) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        // What is still to be looked at: node, the keys that it may have.
        let mut waiting = vec![(root, 0, u64::MAX, 0)];
        while let Some((number, least, below, depth)) = waiting.pop() {
            let node = self.node(number, value_bytes)?;
            if depth >= DEPTH_MAX {
                return Err(node.view().corrupt("its tree is too deep"));
            }
            node.check_keys(least, below)?;
            let mut inner = Vec::new();
            for place in 0..node.entries {
                let key = node.key(place)?;
                let next = match place + 1 < node.entries {
                    true => node.key(place + 1)?,
                    false => below,
                };
                if node.is_leaf {
                    if keys.contains(&key) {
                        take(key, node.value(place)?)?;
                    }
                } else if key < keys.end && next > keys.start {
                    inner.push((node.value(place)?, key, next, depth + 1));
                }
            }
            waiting.extend(inner.into_iter().rev());
        }
        Ok(())
    }

    /// All volumes that the metadata know.
    pub(super) fn devices(&self) -> Result<Vec<u64>, GuestError> {
        let mut devices = Vec::new();
        self.each(self.root, 0..u64::MAX, 8, &mut |device, _| {
            devices.push(device);
            match devices.len() <= DEVICES_MAX {
                true => Ok(()),
                false => Err(GuestError::TooLarge {
                    what: "the number of volumes of a thin pool",
                    limit: DEVICES_MAX as u64,
                }),
            }
        })?;
        Ok(devices)
    }

    /// Whether all that is in use can be told from the trees.
    pub(super) fn is_told_by_trees(&self) -> bool {
        self.held == 0
    }

    /// Looks at every block that belongs to a volume: gives the places of its data.
    pub(super) fn each_mapped(&self, device: u64, take: &mut Found<'_>) -> Result<(), GuestError> {
        let root = self.root_of(device)?;
        self.each(root, 0..u64::MAX, 8, &mut |_, value| {
            let at = self.data_at(value, root)?;
            self.data.below(at..at + self.block_bytes, take)
        })
    }

    /// The place of the data block that a mapping names.
    fn data_at(&self, value: u64, root: u64) -> Result<u64, GuestError> {
        // The lower bits are a time.
        let at = (value >> 24).checked_mul(self.block_bytes);
        at.filter(|at| at.saturating_add(self.block_bytes) <= self.data.length_bytes())
            .ok_or(GuestError::corrupt(
                Place::ThinMetadata { block: root },
                "a volume in its tree has a block beyond the pool",
            ))
    }
}

/// A node of a tree.
struct Node {
    block: Bytes,
    place: Place,
    is_leaf: bool,
    entries: usize,
    values_at: usize,
    value_bytes: usize,
}

impl Node {
    /// Values of leaves have `value_bytes`, those of others lead to nodes.
    fn new(block: Bytes, place: Place, value_bytes: usize) -> Result<Self, GuestError> {
        let view = View::new(&block, place);
        let is_leaf = match view.u32(4)? {
            1 => false,
            2 => true,
            _ => return Err(view.corrupt("it is no node of a tree")),
        };
        let (entries, most) = (view.u32(16)? as usize, view.u32(20)? as usize);
        let value_bytes = if is_leaf { value_bytes } else { 8 };
        if view.u32(24)? as usize != value_bytes {
            return Err(view.corrupt("its values have another length"));
        }
        if entries > most || most > (BLOCK_BYTES - HEAD_BYTES) / (8 + value_bytes) {
            return Err(view.corrupt("it has more entries than there is room for"));
        }
        if entries == 0 && !is_leaf {
            return Err(view.corrupt("it leads nowhere"));
        }
        Ok(Self {
            place,
            is_leaf,
            entries,
            values_at: HEAD_BYTES + most * 8,
            value_bytes,
            block,
        })
    }

    fn view(&self) -> View<'_> {
        View::new(&self.block, self.place)
    }

    fn key(&self, place: usize) -> Result<u64, GuestError> {
        self.view().u64(HEAD_BYTES + place * 8)
    }

    fn value(&self, place: usize) -> Result<u64, GuestError> {
        self.view().u64(self.values_at + place * self.value_bytes)
    }

    /// The last entry with a key that is not above `key`.
    fn place_of(&self, key: u64) -> Result<Option<usize>, GuestError> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle)? <= key {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low.checked_sub(1))
    }

    /// Refuses keys that do not grow, or that belong elsewhere.
    fn check_keys(&self, least: u64, below: u64) -> Result<(), GuestError> {
        let mut least = least;
        for place in 0..self.entries {
            let key = self.key(place)?;
            if key < least || key >= below {
                return Err(self.view().corrupt("its keys are out of order"));
            }
            least = key.saturating_add(1);
        }
        Ok(())
    }
}

/// A thin volume.
pub(super) struct Thin {
    pool: Arc<Pool>,
    root: u64,
    length_bytes: u64,
    /// What is read where the volume has nothing.
    outside: Option<Arc<dyn Layer>>,
}

impl Thin {
    pub(super) fn open(
        pool: Arc<Pool>,
        device: u64,
        length_bytes: u64,
        outside: Option<Arc<dyn Layer>>,
    ) -> Result<Self, GuestError> {
        Ok(Self {
            root: pool.root_of(device)?,
            pool,
            length_bytes,
            outside,
        })
    }

    fn read_outside(&self, at: u64, length: usize) -> Result<Segments, GuestError> {
        let Some(outside) = &self.outside else {
            return Ok(zeroes(length));
        };
        // Behind its end there is nothing.
        let room = outside.length_bytes().saturating_sub(at);
        let within = length.min(usize::try_from(room).unwrap_or(usize::MAX));
        let mut gathered = match within {
            0 => Segments::new(),
            within => outside.read(at, within)?,
        };
        gathered.append(zeroes(length - within));
        Ok(gathered)
    }

    /// Mapped blocks that have bytes of `range`: those bytes, and where their data lie.
    fn mapped(
        &self,
        range: &Range<u64>,
        take: &mut dyn FnMut(Range<u64>, u64) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        let block = self.pool.block_bytes;
        let blocks = range.start / block..range.end.div_ceil(block);
        self.pool.each(self.root, blocks, 8, &mut |key, value| {
            let start = key * block;
            let (from, to) = (range.start.max(start), range.end.min(start + block));
            let data = self.pool.data_at(value, self.root)?;
            take(from..to, data + (from - start))
        })
    }
}

impl Source for Thin {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let end = end_within(offset, length, self.length_bytes)?;
        let mut gathered = Segments::new();
        let mut at = offset;
        self.mapped(&(offset..end), &mut |bytes, data| {
            if bytes.start > at {
                gathered.append(self.read_outside(at, to_usize(bytes.start - at))?);
            }
            let length = to_usize(bytes.end - bytes.start);
            gathered.append(self.pool.data.read(data, length)?);
            at = bytes.end;
            Ok(())
        })?;
        if at < end {
            gathered.append(self.read_outside(at, to_usize(end - at))?);
        }
        Ok(gathered)
    }
}

impl Layer for Thin {
    fn below(&self, range: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError> {
        let range = range.start..range.end.min(self.length_bytes);
        if let Some(outside) = &self.outside {
            outside.below(range.clone(), found)?;
        }
        self.mapped(&range, &mut |bytes, data| {
            self.pool
                .data
                .below(data..data + (bytes.end - bytes.start), found)
        })
    }

    fn cost(&self) -> u64 {
        let outside = self.outside.as_ref().map_or(0, |outside| outside.cost());
        self.pool
            .data
            .cost()
            .max(outside)
            .max(self.pool.metadata.cost())
    }
}

fn check(view: &View<'_>, number: u64, salt: u32) -> Result<(), GuestError> {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, 0xFFFF_FFFF);
    digest.update(view.slice(4, BLOCK_BYTES - 4)?);
    let sum = !u32::try_from(digest.finalize() & 0xFFFF_FFFF).expect("it was cut to 32 bits");
    if sum ^ salt != view.u32(0)? {
        return Err(view.corrupt("its checksum is wrong"));
    }
    match view.u64(8)? == number {
        true => Ok(()),
        false => Err(view.corrupt("it says that it lies elsewhere")),
    }
}

const BLOCK_BYTES: usize = 4096;
const HEAD_BYTES: usize = 32;
const DETAILS_BYTES: usize = 24;
const MAGIC: u64 = 27_022_010;
const SUPERBLOCK_SALT: u32 = 160_774;
const NODE_SALT: u32 = 121_107;
/// A tree of so many levels has more leaves than there are blocks.
const DEPTH_MAX: usize = 16;
const DEVICES_MAX: usize = 1 << 20;
const CACHE_BYTES: usize = 16 << 20;
