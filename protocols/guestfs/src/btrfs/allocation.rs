//! Which bytes of a device are in use.
//!
//! The tree of extents says it of logical bytes, as the last commit left them; what was written since then and can be
//! found again is in the log, which no tree of extents knows. Chunks that are spread over devices in turns or with parity
//! are in use as a whole.

use std::collections::VecDeque;
use std::iter;
use std::ops::{ControlFlow, Range};

use super::Btrfs;
use super::chunk::{Chunk, Profile};
use super::items::Items;
use super::key::{Key, kind, object};
use super::subvolumes::log_roots;
use super::superblock::{COPIES_AT, feature};
use crate::bytes::View;
use crate::{GuestError, Place};

/// Ranges of bytes of a device that are in use, one chunk after the other.
pub(crate) struct UsedExtents {
    btrfs: Btrfs,
    /// Logical bytes that only the log leads to, in order.
    logged: Vec<Range<u64>>,
    /// In use whatever is said of them, in order.
    fixed: VecDeque<Range<u64>>,
    /// What chunks have of the device, in order.
    parts: VecDeque<Part>,
    ready: VecDeque<Range<u64>>,
    end_bytes: u64,
}

/// A stripe of a chunk on the device.
#[derive(Debug, Clone, Copy)]
struct Part {
    start: u64,
    length: u64,
    logical: u64,
}

impl UsedExtents {
    /// Those of the first device of `btrfs`.
    pub(crate) fn of(btrfs: Btrfs) -> Result<Self, GuestError> {
        let unknown = btrfs.superblock.read_only_features & !feature::READ_ONLY_KNOWN;
        if unknown != 0 {
            return Err(GuestError::unsupported(format!(
                "a map of what is in use, with read-only features {unknown:#x}"
            )));
        }
        let storage = btrfs.nodes.storage();
        let device = storage.devices().first().ok_or(GuestError::NotFound)?;
        let damaged = |detail| GuestError::corrupt(Place::Device(device.number), detail);
        if device.length_bytes > device.source.length_bytes() {
            return Err(damaged("it is longer than its volume"));
        }
        if device.is_stale {
            return Err(damaged("it was away when the others were last written to"));
        }
        let mut parts = Vec::new();
        for chunk in storage.chunks().iter() {
            let is_here = |stripe: &&super::chunk::Stripe| {
                stripe.device == device.number && stripe.device_name == device.name
            };
            parts.extend(chunk.stripes.iter().filter(is_here).map(|stripe| Part {
                start: stripe.offset,
                length: chunk.bytes_of_stripe(),
                logical: chunk.logical,
            }));
        }
        parts.sort_unstable_by_key(|part| part.start);
        let mut end = 0;
        for part in &parts {
            let part_end = part.start.checked_add(part.length);
            let part_end = part_end.filter(|part_end| *part_end <= device.length_bytes);
            if part.start < end {
                return Err(damaged("two chunks have the same place"));
            }
            end = part_end.ok_or_else(|| damaged("a chunk reaches behind its end"))?;
        }
        let head = 0..HEAD_BYTES;
        let copies = COPIES_AT.map(|at| at..at + COPY_BYTES);
        let fixed = iter::once(head).chain(copies.into_iter().skip(1));
        let fixed = fixed.filter(|range| range.end <= device.length_bytes);
        Ok(Self {
            logged: logged_extents(&btrfs)?,
            fixed: fixed.collect(),
            parts: parts.into(),
            ready: VecDeque::new(),
            end_bytes: device.length_bytes,
            btrfs,
        })
    }

    /// Where the filesystem ends. What lies behind it is nobody's to leave out.
    pub(crate) fn end_bytes(&self) -> u64 {
        self.end_bytes
    }

    /// Adds what is in use of a part of the device.
    fn read_part(&mut self, part: Part) -> Result<(), GuestError> {
        let chunk = self.btrfs.nodes.storage().chunks().at(part.logical)?;
        let mut used: Vec<Range<u64>> = match chunk.profile {
            Profile::Copies => {
                let place = |logical: u64| part.start + (logical - chunk.logical);
                let used = self.used_of(chunk)?;
                used.into_iter()
                    .map(|range| place(range.start)..place(range.end))
                    .collect()
            }
            Profile::Turns { .. } | Profile::Parity { .. } => {
                iter::once(part.start..part.start + part.length).collect()
            }
        };
        used.extend(self.fixed_before(part.start + part.length));
        used.sort_unstable_by_key(|range| range.start);
        self.ready.extend(used);
        Ok(())
    }

    fn fixed_before(&mut self, end: u64) -> Vec<Range<u64>> {
        let count = self.fixed.partition_point(|range| range.start < end);
        self.fixed.drain(..count).collect()
    }

    /// Logical bytes of a chunk that are in use.
    fn used_of(&self, chunk: &Chunk) -> Result<Vec<Range<u64>>, GuestError> {
        let nodes = &self.btrfs.nodes;
        let extents = self.btrfs.tree(object::EXTENT_TREE)?;
        let end = chunk.logical + chunk.length;
        let node_bytes = nodes.node_bytes() as u64;
        let damaged = |detail| GuestError::corrupt(Place::Chunk(chunk.logical), detail);
        let mut used: Vec<Range<u64>> = Vec::new();
        let mut sum = 0_u64;
        let mut last_end = chunk.logical;
        let first = Key::new(chunk.logical, 0, 0);
        let last = Key::new(end - 1, u8::MAX, u64::MAX);
        extents.scan(nodes, first, last, &mut |key, _| {
            let length = match key.kind {
                kind::EXTENT => key.offset,
                kind::NODE_EXTENT => node_bytes,
                _ => return Ok(ControlFlow::Continue(())),
            };
            let extent_end = key.object.checked_add(length);
            let extent_end = extent_end.filter(|extent_end| *extent_end <= end);
            if key.object < last_end || length == 0 {
                return Err(damaged("two extents in it have the same place"));
            }
            last_end = extent_end.ok_or_else(|| damaged("an extent reaches behind its end"))?;
            sum += length;
            match used.last_mut() {
                Some(range) if range.end == key.object => range.end = last_end,
                _ => used.push(key.object..last_end),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if self.counted(chunk)? != sum {
            return Err(damaged(
                "its extents are not as many bytes as its block group says",
            ));
        }
        let reaching = self
            .logged
            .partition_point(|range| range.end <= chunk.logical);
        let reaching = self.logged.iter().skip(reaching);
        let reaching = reaching.take_while(|range| range.start < end);
        used.extend(reaching.map(|range| range.start.max(chunk.logical)..range.end.min(end)));
        Ok(used)
    }

    /// How many bytes of a chunk are in use, as its block group says.
    fn counted(&self, chunk: &Chunk) -> Result<u64, GuestError> {
        let features = self.btrfs.superblock.read_only_features;
        let tree = match features & feature::BLOCK_GROUP_TREE {
            0 => object::EXTENT_TREE,
            _ => object::BLOCK_GROUP_TREE,
        };
        let key = Key::new(chunk.logical, kind::BLOCK_GROUP, chunk.length);
        let group = self.btrfs.tree(tree)?.get(&self.btrfs.nodes, key)?;
        let place = Place::Chunk(chunk.logical);
        let group = group.ok_or(GuestError::corrupt(place, "it has no block group"))?;
        View::new(&group, place).u64(0)
    }
}

impl Iterator for UsedExtents {
    type Item = Result<Range<u64>, GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            match self.parts.pop_front() {
                Some(part) => {
                    if let Err(error) = self.read_part(part) {
                        return Some(Err(error));
                    }
                }
                None => {
                    let rest = self.fixed_before(u64::MAX);
                    if rest.is_empty() {
                        return None;
                    }
                    self.ready.extend(rest);
                }
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl Btrfs {
    fn tree(&self, tree: u64) -> Result<&Items, GuestError> {
        let missing = GuestError::corrupt(Place::Tree(tree), "it is not there");
        self.roots.others.get(&tree).ok_or(missing)
    }
}

/// All that the log leads to: its own nodes, and the extents of files that it speaks of.
fn logged_extents(btrfs: &Btrfs) -> Result<Vec<Range<u64>>, GuestError> {
    let Some(tree) = btrfs.log_tree() else {
        return Ok(Vec::new());
    };
    let node_bytes = btrfs.nodes.node_bytes() as u64;
    let mut found: Vec<Range<u64>> = Vec::new();
    let logs = log_roots(&btrfs.nodes, &tree)?;
    for tree in [tree].iter().chain(logs.iter().map(|(_, log)| log)) {
        tree.walk(&btrfs.nodes, &mut |node| {
            found.push(node.logical()..node.logical().saturating_add(node_bytes));
            let entries = if node.level == 0 { node.entries() } else { 0 };
            for index in 0..entries {
                let key = node.key(index)?;
                if key.kind == kind::EXTENT_OF_FILE {
                    let place = Place::Log { inode: key.object };
                    found.extend(stored(View::new(node.item(index)?, place))?);
                }
            }
            match found.len() > LOGGED_MAX {
                true => Err(GuestError::TooLarge {
                    what: "the number of extents in the log",
                    limit: LOGGED_MAX as u64,
                }),
                false => Ok(()),
            }
        })?;
    }
    found.sort_unstable_by_key(|range| range.start);
    found.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
    Ok(found)
}

/// The place on disk of an extent of a file, written or not.
fn stored(item: View<'_>) -> Result<Option<Range<u64>>, GuestError> {
    if item.u8(20)? == 0 {
        return Ok(None);
    }
    let (start, length) = (item.u64(21)?, item.u64(29)?);
    let end = start.checked_add(length);
    let end = end.ok_or_else(|| item.corrupt("an extent is out of bounds"))?;
    Ok((start != 0).then_some(start..end))
}

/// What is before the first chunk, for boot loaders and the first superblock.
const HEAD_BYTES: u64 = 1 << 20;
/// What Linux leaves alone around a copy of the superblock.
const COPY_BYTES: u64 = 64 << 10;
/// Extents that are kept in memory: 16 MiB.
const LOGGED_MAX: usize = 1 << 20;
