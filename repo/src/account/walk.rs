//! Where a map differs from its neighbours in time.
//!
//! The maps of one disk in consecutive points are laid over one another. At each place of the map, points that follow
//! one another with the same id there form a *run*, and an id is needed as often as it has runs. A point that comes or
//! goes changes runs only where it differs from both neighbours, so that is all that is walked.

use std::sync::Arc;

use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::image::{ImageNode, Pointer, depth_for};
use crate::store::ChunkStore;

/// The map of a disk, seen from some height.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    /// The map is not that high: it lies below the first child.
    Below { root: Pointer, depth: u8 },
    /// The node or chunk that is here; the zero id where nothing is.
    Here(Pointer),
}

/// A point's map of a disk between the one before and the one after.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trio {
    pub(super) before: Side,
    pub(super) point: Side,
    pub(super) after: Side,
}

/// Takes what a walk finds.
pub(super) trait Sink {
    /// The point has a run of its own here: `pointer` is neither before nor after it.
    fn own_run(&mut self, pointer: Pointer);

    /// Without the point, what is before and after it is one run of `pointer`; with it, two.
    fn split_run(&mut self, pointer: Pointer);

    /// Everything before chunk `next` was told. A walk may go on from here.
    fn passed(&mut self, next: u64) -> Result<(), RepoError>;
}

/// What to do where a map cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Fail, unless it is only the map before a newest point: what that has is counted once more.
    CountMore,
    /// Tell of nothing below: what is needed there stays counted.
    CountNoLess,
}

/// Walks a trio of maps, passing over what is before chunk `from`.
#[derive(Debug)]
pub(super) struct DifferenceWalk<'a, S> {
    pub(super) store: &'a ChunkStore,
    pub(super) from: u64,
    pub(super) unreadable: Unreadable,
    pub(super) sink: &'a mut S,
}

impl Side {
    /// The map of a disk, or nothing.
    pub(super) fn of(map: Option<(Pointer, u64)>) -> Self {
        match map {
            Some((root, size_bytes)) if !root.id.is_zero() => Self::Below {
                root,
                depth: depth_for(size_bytes),
            },
            _ => Self::Here(Pointer::ZERO),
        }
    }

    /// Levels of the map, 0 if there is nothing.
    fn depth(self) -> u8 {
        match self {
            Self::Below { depth, .. } => depth,
            Self::Here(_) => 0,
        }
    }

    /// As seen from `height`.
    fn at(self, height: u8) -> Self {
        match self {
            Self::Below { root, depth } if depth == height => Self::Here(root),
            other => other,
        }
    }

    fn is_nothing(self) -> bool {
        matches!(self, Self::Here(pointer) if pointer.id.is_zero())
    }

    fn id(self) -> ChunkId {
        match self {
            Self::Below { .. } => ChunkId::ZERO,
            Self::Here(pointer) => pointer.id,
        }
    }

    fn is_same(self, other: Self) -> bool {
        match (self, other) {
            (Self::Here(ours), Self::Here(theirs)) => ours.id == theirs.id,
            (
                Self::Below { root, depth },
                Self::Below {
                    root: their_root,
                    depth: their_depth,
                },
            ) => root.id == their_root.id && depth == their_depth,
            _ => false,
        }
    }

    /// What lies in `slot` one level below `height`.
    fn child(self, node: Option<&ImageNode>, height: u8, slot: usize) -> Self {
        match self {
            Self::Below { .. } if slot == 0 => self.at(height - 1),
            Self::Below { .. } => Self::Here(Pointer::ZERO),
            Self::Here(_) => Self::Here(node.map_or(Pointer::ZERO, |node| node.pointer(slot))),
        }
    }
}

impl<S: Sink> DifferenceWalk<'_, S> {
    /// Tells the sink of every place where the point differs from both neighbours, in a fixed order.
    pub(super) fn run(&mut self, trio: Trio) -> Result<(), RepoError> {
        let sides = [trio.before, trio.point, trio.after];
        let height = sides.iter().map(|side| side.depth()).max().unwrap_or(0);
        self.walk(height, 0, sides.map(|side| side.at(height)))
    }

    fn walk(&mut self, height: u8, first: u64, sides: [Side; 3]) -> Result<(), RepoError> {
        let [before, point, after] = sides;
        if point.is_same(before) || point.is_same(after) {
            return Ok(());
        }
        let step = 1_u64 << (u32::from(height.saturating_sub(1)) * FAN_OUT_BITS);
        let end = match height {
            0 => first + 1,
            _ => first + step * ImageNode::FAN_OUT as u64,
        };
        if end <= self.from {
            return Ok(());
        }
        if first >= self.from {
            self.tell(before, point, after);
        }
        if height == 0 {
            return Ok(());
        }
        let nodes = match self.load(height, sides) {
            Err(error) if error.is_corrupt() && self.unreadable == Unreadable::CountNoLess => {
                tracing::warn!(%error, "a part of a map cannot be read: what it leads to stays counted");
                return Ok(());
            }
            other => other?,
        };
        for (slot, child) in (0..ImageNode::FAN_OUT).zip((first..).step_by(step_size(step))) {
            let [a, p, b] = &nodes;
            let children = [
                before.child(a.as_deref(), height, slot),
                point.child(p.as_deref(), height, slot),
                after.child(b.as_deref(), height, slot),
            ];
            self.walk(height - 1, child, children)?;
        }
        if height == 1 {
            self.sink.passed(end)?;
        }
        Ok(())
    }

    fn tell(&mut self, before: Side, point: Side, after: Side) {
        let (a, p, b) = (before.id(), point.id(), after.id());
        if let Side::Here(pointer) = point
            && !p.is_zero()
            && p != a
            && p != b
        {
            self.sink.own_run(pointer);
        }
        if let Side::Here(pointer) = before
            && !a.is_zero()
            && a == b
            && a != p
        {
            self.sink.split_run(pointer);
        }
    }

    fn load(&self, height: u8, sides: [Side; 3]) -> Result<[Option<Arc<ImageNode>>; 3], RepoError> {
        let mut nodes = [None, None, None];
        let newest = sides.last().is_some_and(|after| after.is_nothing());
        for ((number, node), side) in nodes.iter_mut().enumerate().zip(sides) {
            let Side::Here(pointer) = side else { continue };
            if pointer.id.is_zero() {
                continue;
            }
            match self.store.node(pointer.id, pointer.place, height - 1) {
                Err(error)
                    if error.is_corrupt()
                        && self.unreadable == Unreadable::CountMore
                        && newest
                        && number == 0 =>
                {
                    tracing::warn!(%error, "a part of an earlier map cannot be read: what it shares is counted once more");
                }
                found => *node = Some(found?),
            }
        }
        Ok(nodes)
    }
}

fn step_size(step: u64) -> usize {
    usize::try_from(step).expect("this is a machine of 64 bits")
}

const FAN_OUT_BITS: u32 = 10;
