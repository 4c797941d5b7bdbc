//! Chunks in turn on several members: RAID 0, and striped logical volumes.

use std::ops::Range;
use std::sync::Arc;

use export::Segments;

use super::{Found, Layer, units};
use crate::bytes::to_usize;
use crate::source::end_within;
use crate::{GuestError, Source};

/// Chunks in turn on several members.
pub(crate) struct Stripes {
    members: Vec<Arc<dyn Layer>>,
    chunk_bytes: u64,
    first_member: u64,
    length_bytes: u64,
}

impl Stripes {
    /// As far as whole chunks of all members reach; the first chunk lies on member `first_member`, counted round.
    pub(crate) fn new(
        members: Vec<Arc<dyn Layer>>,
        chunk_bytes: u64,
        first_member: u64,
    ) -> Option<Self> {
        let shortest = members.iter().map(|member| member.length_bytes()).min()?;
        let rows = shortest / chunk_bytes;
        let length_bytes = (rows * chunk_bytes).checked_mul(members.len() as u64)?;
        Some(Self {
            members,
            chunk_bytes,
            first_member,
            length_bytes,
        })
    }

    /// The member and the place on it of a chunk.
    fn place(&self, chunk: u64) -> (&Arc<dyn Layer>, u64) {
        let count = self.members.len() as u64;
        let member = to_usize((self.first_member % count + chunk) % count);
        let member = self
            .members
            .get(member)
            .expect("it is less than their number");
        (member, chunk / count * self.chunk_bytes)
    }
}

impl Source for Stripes {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let end = end_within(offset, length, self.length_bytes)?;
        let mut gathered = Segments::new();
        for (chunk, within) in units(offset..end, self.chunk_bytes) {
            let (member, at) = self.place(chunk);
            gathered.append(member.read(at + within.start, to_usize(within.end - within.start))?);
        }
        Ok(gathered)
    }
}

impl Layer for Stripes {
    fn below(&self, range: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError> {
        let range = range.start..range.end.min(self.length_bytes);
        let row_bytes = self.chunk_bytes * self.members.len() as u64;
        if range.end.saturating_sub(range.start) < 2 * row_bytes {
            for (chunk, within) in units(range, self.chunk_bytes) {
                let (member, at) = self.place(chunk);
                member.below(at + within.start..at + within.end, found)?;
            }
            return Ok(());
        }
        // Whole rows at both ends are more than is asked for, by less than two.
        let rows = range.start / row_bytes..range.end.div_ceil(row_bytes);
        let place = rows.start * self.chunk_bytes..rows.end * self.chunk_bytes;
        for member in &self.members {
            member.below(place.clone(), found)?;
        }
        Ok(())
    }

    fn cost(&self) -> u64 {
        let costs = self.members.iter().map(|member| member.cost());
        costs.max().unwrap_or(1)
    }
}
