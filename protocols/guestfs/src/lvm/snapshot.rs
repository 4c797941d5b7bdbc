//! Snapshots in the classic form: chunks of the origin, but for those that a store on another volume has.

use std::ops::Range;
use std::sync::Arc;

use export::Segments;

use crate::bytes::{View, to_usize};
use crate::layers::{Found, Layer, is_sound_chunk};
use crate::source::end_within;
use crate::{GuestError, Place, Source};

/// A snapshot as it is seen through its store.
pub(super) struct Snapshot {
    origin: Arc<dyn Layer>,
    store: Arc<dyn Layer>,
    chunk_bytes: u64,
    length_bytes: u64,
    /// Chunks that lie in the store, and where there, in order.
    copies: Vec<(u64, u64)>,
}

impl Snapshot {
    /// A view of `length_bytes`.
    pub(super) fn open(
        origin: Arc<dyn Layer>,
        store: Arc<dyn Layer>,
        length_bytes: u64,
    ) -> Result<Self, GuestError> {
        let head = store.read(0, 512)?.to_vec();
        let view = View::new(&head, Place::SnapshotStore);
        if view.u32(0)? != MAGIC {
            return Err(view.corrupt("its magic number is missing"));
        }
        if view.u32(4)? != 1 {
            return Err(GuestError::unsupported(
                "a snapshot that became invalid, as its store was full",
            ));
        }
        if view.u32(8)? != 1 {
            return Err(GuestError::unsupported(
                "a store of a snapshot in another version than 1",
            ));
        }
        let chunk_bytes = u64::from(view.u32(12)?) * 512;
        if !is_sound_chunk(chunk_bytes) || !chunk_bytes.is_power_of_two() || chunk_bytes > CHUNK_MAX
        {
            return Err(view.corrupt("its chunks have an impossible length"));
        }
        if length_bytes > origin.length_bytes() {
            return Err(view.corrupt("the snapshot is longer than its origin"));
        }
        let copies = read_copies(&*store, chunk_bytes)?;
        Ok(Self {
            origin,
            store,
            chunk_bytes,
            length_bytes,
            copies,
        })
    }

    /// Bytes of `range` cut where they lie in other places: at which, and whether in the store.
    fn places(&self, range: Range<u64>) -> impl Iterator<Item = (bool, Range<u64>)> {
        let chunk = self.chunk_bytes;
        let mut at = range.start;
        let mut next = self
            .copies
            .partition_point(|(number, _)| *number < range.start / chunk);
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let copy = self.copies.get(next);
            let start = copy.map_or(u64::MAX, |(number, _)| number.saturating_mul(chunk));
            if start > at {
                let end = range.end.min(start);
                let place = at..end;
                at = end;
                return Some((false, place));
            }
            let (number, stored) = copy?;
            let end = range.end.min((number + 1) * chunk);
            let place = stored * chunk + at % chunk..stored * chunk + at % chunk + (end - at);
            at = end;
            next += 1;
            Some((true, place))
        })
    }
}

/// All that the store has, from its areas of metadata.
fn read_copies(store: &dyn Source, chunk_bytes: u64) -> Result<Vec<(u64, u64)>, GuestError> {
    let corrupt = |detail| GuestError::corrupt(Place::SnapshotStore, detail);
    let chunks = store.length_bytes() / chunk_bytes;
    let in_area = chunk_bytes / 16;
    let mut copies: Vec<(u64, u64)> = Vec::new();
    let mut area = 1;
    'areas: loop {
        if area >= chunks {
            // All areas are full, and there is no room for another.
            break;
        }
        let block = store
            .read(area * chunk_bytes, to_usize(chunk_bytes))?
            .to_vec();
        let view = View::new(&block, Place::SnapshotStore);
        for at in (0..block.len()).step_by(16) {
            let (old, new) = (view.u64(at)?, view.u64(at + 8)?);
            if new == 0 {
                break 'areas;
            }
            if new >= chunks || (new - 1).is_multiple_of(in_area + 1) {
                return Err(corrupt("a chunk lies beyond it, or among its metadata"));
            }
            if old > u64::MAX / chunk_bytes - 1 {
                return Err(corrupt("a chunk of the origin is too far"));
            }
            copies.push((old, new));
        }
        if copies.len() > COPIES_MAX {
            return Err(GuestError::TooLarge {
                what: "the number of chunks of a snapshot",
                limit: COPIES_MAX as u64,
            });
        }
        area += in_area + 1;
    }
    copies.sort_unstable();
    match copies
        .windows(2)
        .any(|pair| matches!(pair, [one, other] if one.0 == other.0))
    {
        true => Err(corrupt("a chunk is there twice")),
        false => Ok(copies),
    }
}

impl Source for Snapshot {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let end = end_within(offset, length, self.length_bytes)?;
        let mut gathered = Segments::new();
        for (is_stored, place) in self.places(offset..end) {
            let source = if is_stored { &self.store } else { &self.origin };
            gathered.append(source.read(place.start, to_usize(place.end - place.start))?);
        }
        Ok(gathered)
    }
}

impl Layer for Snapshot {
    fn below(&self, range: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError> {
        for (is_stored, place) in self.places(range.start..range.end.min(self.length_bytes)) {
            let layer = if is_stored { &self.store } else { &self.origin };
            layer.below(place, found)?;
        }
        Ok(())
    }

    fn cost(&self) -> u64 {
        self.origin.cost().max(self.store.cost())
    }
}

const MAGIC: u32 = 0x7041_6E53;
const CHUNK_MAX: u64 = 64 << 20;
/// 64 MiB of memory.
const COPIES_MAX: usize = 4 << 20;
