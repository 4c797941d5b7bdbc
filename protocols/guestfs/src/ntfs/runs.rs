//! Where the clusters of an attribute lie.

use std::ops::Range;

use crate::{GuestError, Place};

/// Runs of clusters, one behind the other from cluster 0 of the attribute on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// Where each begins in the attribute, and on the volume.
    starts: Vec<(u64, u64)>,
    clusters: u64,
}

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first cluster on the volume; `None` for a hole.
    pub first: Option<u64>,
    pub clusters: u64,
}

impl Runs {
    /// None yet, of an attribute of which the clusters before `clusters` are of no interest.
    pub(super) fn from(clusters: u64) -> Self {
        Self {
            starts: Vec::new(),
            clusters,
        }
    }

    /// Adds those that `pairs` describe, which must be clusters `first` to `end` of the attribute on a volume of `volume`
    /// clusters.
    pub(super) fn append(
        &mut self,
        pairs: &[u8],
        first: u64,
        end: u64,
        volume: u64,
        place: Place,
    ) -> Result<(), GuestError> {
        let corrupt = |detail| Err(GuestError::corrupt(place, detail));
        if first != self.clusters {
            return corrupt("a part of its runs is missing");
        }
        let mut rest = pairs;
        let mut lcn = 0_i64;
        while let Some((head, tail)) = rest.split_first() {
            if *head == 0 {
                break;
            }
            let (length_bytes, place_bytes) = (usize::from(head & 15), usize::from(head >> 4));
            let fields = tail.split_at_checked(length_bytes);
            let fields = fields.and_then(|(length, tail)| {
                let (delta, tail) = tail.split_at_checked(place_bytes)?;
                Some((number(length)?, delta, tail))
            });
            let Some((length, delta, tail)) = fields else {
                return corrupt("its runs are cut off");
            };
            rest = tail;
            let length = u64::try_from(length).unwrap_or(0);
            let next = self.clusters.checked_add(length);
            let Some(next) = next.filter(|next| length > 0 && *next <= end) else {
                return corrupt("its runs have impossible lengths");
            };
            let start = if delta.is_empty() {
                HOLE
            } else {
                let delta = number(delta).unwrap_or(i64::MIN);
                lcn = lcn.checked_add(delta).unwrap_or(-1);
                match u64::try_from(lcn) {
                    Ok(start) if start < volume && length <= volume - start => start,
                    _ => return corrupt("its runs lie outside of the volume"),
                }
            };
            self.push(start, next, place)?;
        }
        if self.clusters == end {
            Ok(())
        } else {
            corrupt("its runs end too early")
        }
    }

    fn push(&mut self, start: u64, next: u64, place: Place) -> Result<(), GuestError> {
        let goes_on = self
            .starts
            .last()
            .is_some_and(|(at, before)| match *before {
                HOLE => start == HOLE,
                before => start != HOLE && before + (self.clusters - at) == start,
            });
        if !goes_on {
            if self.starts.len() >= RUNS_MAX {
                tracing::warn!(%place, "there are more runs than are read");
                return Err(GuestError::TooLarge {
                    what: "the number of runs of one file",
                    limit: RUNS_MAX as u64,
                });
            }
            self.starts.push((self.clusters, start));
        }
        self.clusters = next;
        Ok(())
    }

    /// How many clusters they have, with holes.
    pub(super) fn clusters(&self) -> u64 {
        self.clusters
    }

    /// What begins at cluster `at`; `None` behind the end.
    pub(super) fn at(&self, at: u64) -> Option<Run> {
        if at >= self.clusters {
            return None;
        }
        let index = self.starts.partition_point(|(start, _)| *start <= at);
        let end = self.starts.get(index).map_or(self.clusters, |next| next.0);
        let (start, first) = self.starts.get(index.checked_sub(1)?)?;
        Some(Run {
            first: (*first != HOLE).then(|| first + (at - start)),
            clusters: end - at,
        })
    }

    /// Clusters of the volume, in the order of the attribute.
    pub(super) fn on_volume(&self) -> impl Iterator<Item = Range<u64>> {
        let ends = self.starts.iter().skip(1).map(|(start, _)| *start);
        let ends = ends.chain([self.clusters]);
        let runs = self.starts.iter().zip(ends);
        runs.filter(|((_, first), _)| *first != HOLE)
            .map(|((start, first), end)| *first..first + (end - start))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.starts.len() * 16
    }
}

/// A number with a sign, in as few bytes as it needs.
fn number(bytes: &[u8]) -> Option<i64> {
    if bytes.is_empty() || bytes.len() > 8 {
        return None;
    }
    let fill = if bytes.last()? & 0x80 == 0 { 0 } else { 0xFF };
    let mut whole = [fill; 8];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(whole))
}

const HOLE: u64 = u64::MAX;
/// 32 MiB of memory.
const RUNS_MAX: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_go_forth_and_back_and_have_holes() {
        let pairs = [0x11, 4, 10, 0x01, 3, 0x11, 2, 0xFC, 0x11, 1, 2, 0];
        let mut runs = Runs::default();
        runs.append(&pairs, 0, 10, 100, Place::Record(9)).unwrap();
        let run = |first, clusters| Some(Run { first, clusters });
        assert_eq!(runs.at(1), run(Some(11), 3));
        assert_eq!(runs.at(5), run(None, 2));
        assert_eq!(runs.at(7), run(Some(6), 3), "neighbours are one run");
        assert_eq!(runs.at(10), None);
        assert_eq!(runs.on_volume().collect::<Vec<_>>(), [10..14, 6..9]);
        for (pairs, end, volume) in [
            (&pairs[..], 10, 13),
            (&pairs[..], 9, 100),
            (&pairs[..], 11, 100),
            (&[0x11, 4, 0xF0, 0], 4, 100),
            (&[0x11, 0xF0, 4, 0], 4, 100),
            (&[0x19, 1], 1, 100),
        ] {
            let mut runs = Runs::default();
            assert!(
                runs.append(pairs, 0, end, volume, Place::Record(9))
                    .is_err()
            );
        }
    }
}
