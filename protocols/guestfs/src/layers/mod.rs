//! What Linux puts together from parts of disks: concatenations, stripes, mirrors, parity, copies on write.
//!
//! A layer is a [`Source`] that also tells where below it its bytes lie. Layers are pure: which parts belong together
//! is known by `md` and `lvm`. The layouts are described in `docs/protocols/guestfs.md`.

mod chain;
pub(crate) mod galois;
mod member;
mod mirror;
mod parity;
mod part;
mod raid10;
mod stripes;

use std::ops::Range;
use std::sync::Arc;

use export::Segments;

pub(crate) use chain::Chain;
pub(crate) use member::Member;
pub(crate) use mirror::Mirror;
pub(crate) use parity::{Algorithm, Parity, Trust};
pub(crate) use part::{Part, Slice};
pub(crate) use raid10::{Geometry, Raid10};
pub(crate) use stripes::Stripes;

use crate::{GuestError, Source};

/// A source among those of a set of disks, by its number.
pub(crate) type NodeId = usize;

/// Takes note of bytes of a node.
pub(crate) type Found<'a> = dyn FnMut(NodeId, Range<u64>) + 'a;

/// A source that is put together from others.
pub(crate) trait Layer: Source {
    /// Where below the bytes of `range` lie: every copy, and all that is needed to rebuild one. May be more than that,
    /// never less.
    fn below(&self, range: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError>;

    /// How many places below one read may have to look at. Bounded by [`COST_MAX`] where layers stack, so that no
    /// small read multiplies without end.
    fn cost(&self) -> u64;
}

/// Refuses what multiplies reads beyond reason.
pub(crate) fn bounded(layer: Arc<dyn Layer>) -> Result<Arc<dyn Layer>, GuestError> {
    match layer.cost() <= COST_MAX {
        true => Ok(layer),
        false => Err(GuestError::TooLarge {
            what: "the number of parts for one read",
            limit: COST_MAX,
        }),
    }
}

/// Bytes of `range` cut where units of `unit` end, each with the number of its unit and its place within it.
pub(crate) fn units(range: Range<u64>, unit: u64) -> impl Iterator<Item = (u64, Range<u64>)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let number = at / unit;
        let start = at % unit;
        let end = unit.min(start + (range.end - at));
        at += end - start;
        Some((number, start..end))
    })
}

/// Zeroes, shared by all that read them.
pub(crate) fn zeroes(length: usize) -> Segments {
    static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
    let mut gathered = Segments::new();
    let mut left = length;
    while left > 0 {
        let step = left.min(ZEROES.len());
        let piece = ZEROES.get(..step).unwrap_or_default();
        gathered.push(bytes::Bytes::from_static(piece));
        left -= step;
    }
    gathered
}

/// Parts that one read may have to look at.
pub(crate) const COST_MAX: u64 = 4096;

/// The smallest unit that Linux spreads over members.
pub(crate) const CHUNK_MIN: u64 = 4096;
/// The largest that is believed.
pub(crate) const CHUNK_MAX: u64 = 1 << 30;

/// Refuses units that would make reads crawl, or that no tool of Linux makes.
pub(crate) fn is_sound_chunk(bytes: u64) -> bool {
    (CHUNK_MIN..=CHUNK_MAX).contains(&bytes) && bytes.is_multiple_of(512)
}
