//! Chunks in turn on several members, each more than once: RAID 10 in its layouts near, far and offset.

use std::ops::Range;

use export::Segments;

use super::{Found, Layer, Member, units};
use crate::bytes::to_usize;
use crate::source::end_within;
use crate::{GuestError, Source};

/// How copies are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    members: u64,
    /// Copies side by side.
    near: u64,
    /// Copies on other members farther in.
    far: u64,
    /// Whether a far copy lies in the next row instead of the next part of the member.
    is_offset: bool,
    /// Members among which far copies stay.
    set: u64,
    chunk_bytes: u64,
}

impl Geometry {
    /// As the number in superblocks says it; `None` if it cannot be.
    pub(crate) fn new(layout: u32, members: u64, chunk_bytes: u64) -> Option<Self> {
        let near = u64::from(layout & 0xFF);
        let far = u64::from(layout >> 8 & 0xFF);
        if near == 0 || far == 0 || near * far > members || layout >> 19 != 0 {
            return None;
        }
        let set = match layout >> 17 {
            0 => members,
            1 => members / far,
            2 => far * near,
            _ => return None,
        };
        (set > 0 && chunk_bytes > 0).then_some(Self {
            members,
            near,
            far,
            is_offset: layout >> 16 & 1 == 1,
            set,
            chunk_bytes,
        })
    }

    /// Chunks of the array that fit into members of `member_bytes`.
    fn chunks(&self, member_bytes: u64) -> Option<u64> {
        let rows = member_bytes / self.chunk_bytes / self.far;
        Some(rows.checked_mul(self.members)? / self.near)
    }

    /// How far the next far copy lies behind the one before, in chunks.
    fn stride(&self, chunks: u64) -> u64 {
        match self.is_offset {
            true => 1,
            false => {
                chunks
                    .saturating_mul(self.near * self.far)
                    .div_ceil(self.members)
                    / self.far
            }
        }
    }

    /// Member and row of each copy of `chunk`.
    fn copies(&self, chunk: u64, stride: u64) -> impl Iterator<Item = (usize, u64)> {
        let geometry = *self;
        let first = chunk * self.near;
        // In the layout offset, rows of copies lie between.
        let between = if self.is_offset { self.far } else { 1 };
        let row = first / self.members * between;
        (first % self.members..)
            .take(to_usize(self.near))
            .flat_map(move |place| {
                // Copies side by side that reach beyond the last member go on in the row below.
                let row = row + place / geometry.members;
                let mut member = place % geometry.members;
                (0..geometry.far).map(move |far| {
                    if far > 0 {
                        member = geometry.next(member);
                    }
                    (to_usize(member), row + far * stride)
                })
            })
    }

    /// The member on which the next far copy of what lies on `member` is.
    fn next(&self, member: u64) -> u64 {
        let moved = member + self.near;
        // The last set has what does not divide evenly.
        let last = (self.members / self.set - 1) * self.set;
        match !self.members.is_multiple_of(self.set) && moved > last {
            true => last + (moved - last) % (self.members - last),
            false => member / self.set * self.set + moved % self.set,
        }
    }
}

/// RAID 10.
pub(crate) struct Raid10 {
    members: Vec<Member>,
    geometry: Geometry,
    stride: u64,
    length_bytes: u64,
}

impl Raid10 {
    /// Of `members`, of each of which `member_bytes` are used. `Err` names a member without which some chunk has no copy.
    pub(crate) fn new(
        members: Vec<Member>,
        geometry: Geometry,
        member_bytes: u64,
    ) -> Result<Self, GuestError> {
        let too_long = GuestError::TooLarge {
            what: "the length of an array",
            limit: u64::MAX,
        };
        let chunks = geometry.chunks(member_bytes).ok_or(too_long.clone())?;
        let length_bytes = chunks.checked_mul(geometry.chunk_bytes).ok_or(too_long)?;
        let stride = geometry.stride(chunks);
        // Which members hold a chunk repeats after as many chunks as there are members.
        for chunk in 0..geometry.members.min(chunks) {
            let is_there = |(member, _): (usize, u64)| {
                members
                    .get(member)
                    .is_some_and(|member| !member.is_missing())
            };
            if !geometry.copies(chunk, stride).any(is_there) {
                let lost: Vec<_> = geometry
                    .copies(chunk, stride)
                    .map(|(member, _)| member.to_string())
                    .collect();
                return Err(GuestError::missing(format!(
                    "every copy of some chunks: of members {} one",
                    lost.join(" and ")
                )));
            }
        }
        Ok(Self {
            members,
            geometry,
            stride,
            length_bytes,
        })
    }

    fn read_in_chunk(&self, chunk: u64, within: Range<u64>) -> Result<Segments, GuestError> {
        let copies: Vec<_> = self
            .geometry
            .copies(chunk, self.stride)
            .filter_map(|(member, row)| {
                let start = row.checked_mul(self.geometry.chunk_bytes)?;
                Some((self.members.get(member)?, start))
            })
            .collect();
        let mut gathered = Segments::new();
        let mut at = within.start;
        while at < within.end {
            let until = copies.iter().fold(within.end, |until, (member, start)| {
                member.same_until(start + at, start + until) - start
            });
            let mut good = None;
            for (member, start) in &copies {
                good = member.read(start + at, to_usize(until - at))?;
                if good.is_some() {
                    break;
                }
            }
            gathered.append(good.ok_or_else(|| {
                GuestError::missing(format!("a good copy of chunk {chunk} of an array"))
            })?);
            at = until;
        }
        Ok(gathered)
    }
}

impl Source for Raid10 {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let end = end_within(offset, length, self.length_bytes)?;
        let mut gathered = Segments::new();
        for (chunk, within) in units(offset..end, self.geometry.chunk_bytes) {
            gathered.append(self.read_in_chunk(chunk, within)?);
        }
        Ok(gathered)
    }
}

impl Layer for Raid10 {
    fn below(&self, range: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError> {
        let Geometry {
            members,
            near,
            far,
            is_offset,
            chunk_bytes,
            ..
        } = self.geometry;
        let range = range.start..range.end.min(self.length_bytes);
        if range.start >= range.end {
            return Ok(());
        }
        // Whole rows of chunks, on all members, and the same rows again where the far copies are.
        let first = range.start / chunk_bytes * near / members;
        let last = ((range.end - 1) / chunk_bytes * near + near - 1) / members;
        let spread = if is_offset { far } else { 1 };
        let places = if is_offset { 1 } else { far };
        for place in 0..places {
            let from = first * spread + place * self.stride;
            let to = (last + 1) * spread + place * self.stride;
            for member in &self.members {
                member.below(from * chunk_bytes..to * chunk_bytes, found)?;
            }
        }
        Ok(())
    }

    fn cost(&self) -> u64 {
        let dearest = self.members.iter().map(Member::cost).max();
        dearest.unwrap_or(1) * self.geometry.near * self.geometry.far
    }
}
