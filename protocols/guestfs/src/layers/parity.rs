//! Chunks in turn on several members, with one or two of parity in every row: RAID 4, 5 and 6.

use std::ops::Range;

use export::Segments;

use super::{Found, Layer, Member, galois, units};
use crate::bytes::to_usize;
use crate::source::end_within;
use crate::{GuestError, Source};

/// Where parity and data of a row lie, by the number that Linux gives to the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Algorithm {
    number: u32,
    members: u64,
    /// Chunks of parity in a row.
    parities: u64,
}

/// One row: the member of each of its chunks of parity, and how the members of data count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    /// Of the sum.
    p: u64,
    /// Of the weighted sum.
    q: Option<u64>,
    /// The member of data chunk 0.
    first: u64,
    order: Order,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Data chunks follow each other from `first` on, round over so many members.
    Round(u64),
    /// In the order of members, leaving out those of parity.
    Skipping,
}

impl Algorithm {
    /// `None` if there is no such layout for so many members.
    pub(crate) fn new(level: u32, number: u32, members: u64) -> Option<Self> {
        let (parities, number) = match level {
            4 => (1, PARITY_LAST),
            5 => (1, number),
            6 => (2, number),
            _ => return None,
        };
        let is_known = match parities {
            1 => number <= PARITY_LAST,
            _ => matches!(number, 0..=5 | 8..=10 | 16..=20),
        };
        (is_known && members > parities).then_some(Self {
            number,
            members,
            parities,
        })
    }

    fn data(&self) -> u64 {
        self.members - self.parities
    }

    fn row(&self, row: u64) -> Row {
        match self.parities {
            1 => self.single(row, self.members, None),
            _ => self.double(row),
        }
    }

    /// One parity, rotating among the first `among` members.
    fn single(&self, row: u64, among: u64, q: Option<u64>) -> Row {
        let turn = row % among;
        let last = among - 1;
        let (p, order) = match self.number % 16 {
            0 => (last - turn, Order::Skipping),
            1 => (turn, Order::Skipping),
            2 => (last - turn, Order::Round(among)),
            3 => (turn, Order::Round(among)),
            4 => (0, Order::Skipping),
            _ => (last, Order::Skipping),
        };
        let first = match order {
            Order::Round(_) => (p + 1) % among,
            Order::Skipping => 0,
        };
        Row { p, q, first, order }
    }

    fn double(&self, row: u64) -> Row {
        let count = self.members;
        let (turn, last) = (row % count, count - 1);
        let beside = |p: u64| Row {
            p,
            q: Some((p + 1) % count),
            first: 0,
            order: Order::Skipping,
        };
        let round = |p: u64| Row {
            first: (p + 2) % count,
            order: Order::Round(count),
            ..beside(p)
        };
        match self.number {
            0 => beside(last - turn),
            1 | 8 => beside(turn),
            2 => round(last - turn),
            3 => round(turn),
            4 => beside(0),
            5 => beside(count - 2),
            9 => beside(last - (row + 1) % count),
            10 => {
                let p = last - turn;
                Row {
                    p,
                    q: Some((p + last) % count),
                    first: (p + 1) % count,
                    order: Order::Round(count),
                }
            }
            // The layouts of RAID 5 with the second parity on a member of its own.
            _ => self.single(row, last, Some(last)),
        }
    }

    /// The member of a data chunk.
    fn member(&self, row: &Row, index: u64) -> u64 {
        match row.order {
            Order::Round(among) => (row.first + index) % among,
            Order::Skipping => {
                let (low, high) = match row.q {
                    Some(q) => (row.p.min(q), row.p.max(q)),
                    None => (row.p, u64::MAX),
                };
                let mut member = index;
                member += u64::from(member >= low);
                member += u64::from(member >= high);
                member
            }
        }
    }

    /// The power of the generator with which each member's chunk counts in the second parity; parities have none.
    fn exponents(&self, row: &Row) -> Vec<Option<usize>> {
        let is_parity = |member: u64| member == row.p || Some(member) == row.q;
        let mut exponents = vec![None; to_usize(self.members)];
        // Layouts of DDF count members as they stand, the others count data from behind the second parity.
        let (begin, counts_all) = match self.number {
            8..=10 => (0, true),
            _ => (row.q.map_or(0, |q| (q + 1) % self.members), false),
        };
        let mut exponent = 0;
        for step in 0..self.members {
            let member = (begin + step) % self.members;
            if !is_parity(member)
                && let Some(slot) = exponents.get_mut(to_usize(member))
            {
                *slot = Some(exponent);
            }
            exponent += usize::from(counts_all || !is_parity(member));
        }
        exponents
    }
}

/// RAID 4, 5 or 6.
pub(crate) struct Parity {
    members: Vec<Member>,
    algorithm: Algorithm,
    chunk_bytes: u64,
    length_bytes: u64,
    trust: Trust,
}

/// Whether parity can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// All rows were complete when the array was last written.
    Proven,
    /// The array was being written, or not yet brought into agreement: some rows may have a parity that is not theirs.
    Doubtful,
}

impl Parity {
    /// Of `members`, of each of which `member_bytes` are used.
    pub(crate) fn new(
        members: Vec<Member>,
        algorithm: Algorithm,
        chunk_bytes: u64,
        member_bytes: u64,
        trust: Trust,
    ) -> Result<Self, GuestError> {
        let absent = (0..)
            .zip(&members)
            .filter(|(_, member)| member.is_missing());
        let absent: Vec<u64> = absent.map(|(number, _)| number).collect();
        if absent.len() as u64 > algorithm.parities {
            return Err(GuestError::missing(format!(
                "more than the {} that it can do without, members {absent:?},",
                algorithm.parities
            )));
        }
        let rows = member_bytes / chunk_bytes;
        let length_bytes =
            (rows * chunk_bytes)
                .checked_mul(algorithm.data())
                .ok_or(GuestError::TooLarge {
                    what: "the length of an array",
                    limit: u64::MAX,
                })?;
        Ok(Self {
            members,
            algorithm,
            chunk_bytes,
            length_bytes,
            trust,
        })
    }

    /// Bytes of data chunk `index` of a row.
    fn read_in_chunk(
        &self,
        row_number: u64,
        index: u64,
        within: Range<u64>,
    ) -> Result<Segments, GuestError> {
        let row = self.algorithm.row(row_number);
        let wanted = to_usize(self.algorithm.member(&row, index));
        let start = row_number * self.chunk_bytes;
        let mut gathered = Segments::new();
        let mut at = start + within.start;
        let end = start + within.end;
        while at < end {
            let until = self
                .members
                .iter()
                .fold(end, |until, member| member.same_until(at, until));
            let length = to_usize(until - at);
            let direct = match self.members.get(wanted) {
                Some(member) => member.read(at, length)?,
                None => None,
            };
            match direct {
                Some(read) => gathered.append(read),
                None => gathered.push(self.rebuild(&row, wanted, at, length)?.into()),
            }
            at = until;
        }
        Ok(gathered)
    }

    /// What `wanted` should have at a place, from all others.
    fn rebuild(
        &self,
        row: &Row,
        wanted: usize,
        at: u64,
        length: usize,
    ) -> Result<Vec<u8>, GuestError> {
        if self.trust == Trust::Doubtful {
            return Err(GuestError::missing(format!(
                "member {wanted} of an array that was not stopped cleanly, whose parity may not fit its data,"
            )));
        }
        let mut present = Vec::with_capacity(self.members.len());
        for (number, member) in self.members.iter().enumerate() {
            present.push(match number == wanted {
                true => None,
                false => member.read(at, length)?.map(|read| read.to_vec()),
            });
        }
        let (p, q) = (to_usize(row.p), row.q.map(to_usize));
        let lost: Vec<usize> = (0..present.len())
            .filter(|number| present.get(*number).is_none_or(Option::is_none))
            .collect();
        let others: Vec<usize> = lost
            .iter()
            .copied()
            .filter(|number| *number != wanted && *number != p && Some(*number) != q)
            .collect();
        let has_p = !lost.contains(&p);
        let has_q = q.is_some_and(|q| !lost.contains(&q));
        let exponents = self.algorithm.exponents(row);
        let sums = Sums {
            present: &present,
            exponents: &exponents,
            length,
        };
        match others.as_slice() {
            [] if has_p => Ok(sums.plain(p)),
            [] if has_q => Ok(sums.by_second(wanted, q.unwrap_or_default())),
            [other] if has_p && has_q => Ok(sums.by_both(wanted, *other, p, q.unwrap_or_default())),
            _ => Err(GuestError::missing(format!(
                "what rebuilds byte {at} of member {wanted}, as members {lost:?} lack it,"
            ))),
        }
    }
}

/// Sums over the members of a row.
struct Sums<'a> {
    present: &'a [Option<Vec<u8>>],
    exponents: &'a [Option<usize>],
    length: usize,
}

impl Sums<'_> {
    /// The sum of all data that is there and of the chunk of `parity`.
    fn plain(&self, parity: usize) -> Vec<u8> {
        let mut sum = vec![0; self.length];
        for (number, content) in self.present.iter().enumerate() {
            let counts = number == parity || self.exponent(number).is_some();
            if let Some(content) = content.as_ref().filter(|_| counts) {
                galois::add_multiple(&mut sum, content, 1);
            }
        }
        sum
    }

    /// The weighted sum of all data that is there, and of the second parity.
    fn weighted(&self, parity: usize) -> Vec<u8> {
        let mut sum = vec![0; self.length];
        for (number, content) in self.present.iter().enumerate() {
            let factor = match (number == parity, self.exponent(number)) {
                (true, _) => 1,
                (false, Some(exponent)) => galois::power(exponent),
                (false, None) => continue,
            };
            if let Some(content) = content {
                galois::add_multiple(&mut sum, content, factor);
            }
        }
        sum
    }

    fn by_second(&self, wanted: usize, parity: usize) -> Vec<u8> {
        let mut sum = self.weighted(parity);
        galois::scale(&mut sum, galois::inverse(self.weight(wanted)));
        sum
    }

    /// With `a + b` and `g^i a + g^j b` known, `a` is what `(g^i + g^j)` times it says.
    fn by_both(&self, wanted: usize, other: usize, p: usize, q: usize) -> Vec<u8> {
        let (own, others) = (self.weight(wanted), self.weight(other));
        let mut sum = self.weighted(q);
        galois::add_multiple(&mut sum, &self.plain(p), others);
        galois::scale(&mut sum, galois::inverse(own ^ others));
        sum
    }

    fn exponent(&self, number: usize) -> Option<usize> {
        self.exponents.get(number).copied().flatten()
    }

    fn weight(&self, number: usize) -> u8 {
        self.exponent(number).map_or(0, galois::power)
    }
}

impl Source for Parity {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let end = end_within(offset, length, self.length_bytes)?;
        let data = self.algorithm.data();
        let mut gathered = Segments::new();
        for (chunk, within) in units(offset..end, self.chunk_bytes) {
            gathered.append(self.read_in_chunk(chunk / data, chunk % data, within)?);
        }
        Ok(gathered)
    }
}

impl Layer for Parity {
    fn below(&self, range: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError> {
        let row_bytes = self.chunk_bytes * self.algorithm.data();
        let end = range.end.min(self.length_bytes);
        if range.start >= end {
            return Ok(());
        }
        // Whole rows, so that parity goes on fitting.
        let rows = range.start / row_bytes..end.div_ceil(row_bytes);
        let place = rows.start * self.chunk_bytes..rows.end * self.chunk_bytes;
        let mut members = self.members.iter();
        members.try_for_each(|member| member.below(place.clone(), found))
    }

    fn cost(&self) -> u64 {
        self.members.iter().map(Member::cost).sum()
    }
}

const PARITY_LAST: u32 = 5;
