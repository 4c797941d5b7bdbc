//! What would be free if some points were gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::walk::{DifferenceWalk, Side, Sink, Trio, Unreadable};
use super::{OpenAccount, map_of, neighbours};
use crate::catalog::{Point, PointName};
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::image::Pointer;
use crate::store::ChunkStore;
use crate::stream::StreamReader;

/// What some points hold that no other point needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SpaceEstimate {
    /// Bytes of packs that would be free.
    pub bytes: u64,
    /// Chunks and map nodes that would be free.
    pub records: u64,
}

impl OpenAccount<'_> {
    /// What expiring `wanted` would free, beyond what the points in `expired` free already. Exact, if all of them are
    /// accounted for.
    pub(crate) fn estimate(
        &self,
        expired: &[Arc<Point>],
        wanted: &[Arc<Point>],
    ) -> Result<SpaceEstimate, RepoError> {
        let mut partitions = 1;
        loop {
            match self.estimate_in(partitions, expired, wanted)? {
                Some(estimate) => return Ok(estimate),
                // Too much to be counted at once: in more, smaller parts.
                None => partitions *= 4,
            }
        }
    }

    fn estimate_in(
        &self,
        partitions: u16,
        expired: &[Arc<Point>],
        wanted: &[Arc<Point>],
    ) -> Result<Option<SpaceEstimate>, RepoError> {
        let Some(state) = self.state.as_ref() else {
            return Err(RepoError::Refused("the account of space is not open"));
        };
        let mut sum = SpaceEstimate::default();
        for partition in 0..partitions {
            let mut losses = Losses {
                partition,
                partitions,
                asked: false,
                counts: HashMap::new(),
            };
            let mut gone = BTreeSet::new();
            for (points, asked) in [(expired, false), (wanted, true)] {
                losses.asked = asked;
                for point in points {
                    let new =
                        state.points.contains_key(&point.name) && gone.insert(point.name.clone());
                    if new {
                        lose(
                            &self.account.records,
                            &state.points,
                            &gone,
                            point,
                            &mut losses,
                        )?;
                    }
                    if losses.counts.len() > ENTRIES_MAX && partitions < PARTITIONS_MAX {
                        return Ok(None);
                    }
                }
            }
            self.add_up(losses, &mut sum)?;
        }
        Ok(Some(sum))
    }

    fn add_up(&self, losses: Losses, sum: &mut SpaceEstimate) -> Result<(), RepoError> {
        let mut losses: Vec<_> = losses.counts.into_iter().collect();
        losses.sort_unstable_by_key(|(id, _)| *id);
        for part in losses.chunks(LOOKUPS) {
            let ids: Vec<_> = part.iter().map(|(id, _)| *id).collect();
            let entries = self.account.store.entries(&ids)?;
            for ((_, loss), entry) in part.iter().zip(entries) {
                let Some(entry) = entry else { continue };
                let dead = |lost: u64| entry.count <= lost;
                if dead(loss.expired + loss.asked) && !dead(loss.expired) {
                    sum.records += 1;
                    sum.bytes += u64::from(entry.length);
                }
            }
        }
        Ok(())
    }
}

/// Counts what is lost when `point` goes after the others in `gone`.
fn lose(
    records: &Arc<ChunkStore>,
    points: &BTreeMap<PointName, Arc<Point>>,
    gone: &BTreeSet<PointName>,
    point: &Arc<Point>,
    losses: &mut Losses,
) -> Result<(), RepoError> {
    for image in &point.images {
        let (before, after) = neighbours(points, gone, &point.name, &image.name);
        let trio = Trio {
            before: Side::of(map_of(before, &image.name)),
            point: Side::of(Some((image.root, image.size_bytes))),
            after: Side::of(map_of(after, &image.name)),
        };
        DifferenceWalk {
            store: records.as_ref(),
            from: 0,
            unreadable: Unreadable::CountNoLess,
            sink: losses,
        }
        .run(trio)?;
    }
    for stream in &point.streams {
        let mut reader = StreamReader::new(records, stream.root, stream.depth, stream.size_bytes);
        loop {
            match reader.next_pointer() {
                Ok(Some(pointer)) => losses.count(pointer),
                Ok(None) => break,
                Err(error) if error.is_corrupt() => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// How often each id would be needed less.
#[derive(Debug)]
struct Losses {
    /// Only ids of this part of all.
    partition: u16,
    partitions: u16,
    /// Whether what is lost now is asked for, or lost already.
    asked: bool,
    counts: HashMap<ChunkId, Loss>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Loss {
    expired: u64,
    asked: u64,
}

impl Losses {
    fn count(&mut self, pointer: Pointer) {
        let [first, second, ..] = pointer.id.as_bytes();
        let part = u16::from_le_bytes([*first, *second]) % self.partitions;
        if pointer.id.is_zero() || part != self.partition {
            return;
        }
        let loss = self.counts.entry(pointer.id).or_default();
        match self.asked {
            true => loss.asked += 1,
            false => loss.expired += 1,
        }
    }
}

impl Sink for Losses {
    fn own_run(&mut self, pointer: Pointer) {
        self.count(pointer);
    }

    fn split_run(&mut self, pointer: Pointer) {
        self.count(pointer);
    }

    fn passed(&mut self, _: u64) -> Result<(), RepoError> {
        Ok(())
    }
}

/// Ids that are counted at once: about 64 MiB.
const ENTRIES_MAX: usize = 1 << 20;

/// Entries that are looked up at once.
const LOOKUPS: usize = 4096;

const PARTITIONS_MAX: u16 = 1 << 12;
