//! Chunks: where on devices the logical bytes of a filesystem lie.

use std::collections::BTreeMap;

use super::key::{KEY_BYTES, Key, kind};
use crate::bytes::View;
use crate::{GuestError, Place};

/// Logical bytes that lie on devices in one manner.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub logical: u64,
    pub length: u64,
    pub profile: Profile,
    stripe_bytes: u64,
    pub stripes: Vec<Stripe>,
}

/// A part of a device that belongs to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stripe {
    pub device: u64,
    pub offset: u64,
    pub device_name: [u8; 16],
}

/// How bytes are spread over the stripes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// Each stripe has all.
    Copies,
    /// Turn by turn over groups of stripes that are alike; groups of one have no copy.
    Turns { copies: u64 },
    /// Turn by turn, with so many stripes of parity in each row.
    Parity { stripes: u64 },
}

/// Logical bytes that lie one behind the other, and the ways to read them.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub length: u64,
    pub ways: Vec<Way>,
}

/// A way to read a run.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// As it lies there.
    Direct(Stripe),
    /// From the rest of its row.
    Rebuilt(Row),
}

/// What is needed to make bytes of a row from all others.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Stripes of data in their order, at the place of the bytes that are wanted; then those of parity.
    pub stripes: Vec<Stripe>,
    pub parities: usize,
    /// Which stripe of data is wanted.
    pub wanted: usize,
    /// How it is made.
    pub from: Parity,
}

/// Which stripes besides the wanted one are not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parity {
    /// The second parity.
    First,
    /// The first parity.
    Second,
    /// This stripe of data, for which both parities are used.
    Both { without: usize },
}

/// All chunks of a filesystem, by where they begin.
#[derive(Debug, Default)]
pub(super) struct Chunks(BTreeMap<u64, Chunk>);

impl Chunks {
    /// The chunks in the superblock, which lead to all others.
    pub(super) fn in_superblock(array: &[u8]) -> Result<Self, GuestError> {
        let view = View::new(array, Place::Superblock);
        let mut chunks = Self::default();
        let mut at = 0;
        while at < view.len() {
            let key = Key::decode(view, at)?;
            if key.kind != kind::CHUNK {
                return Err(view.corrupt("there is something else among its chunks"));
            }
            let rest = view.slice(at + KEY_BYTES, view.len() - at - KEY_BYTES)?;
            let chunk = Chunk::decode(key.offset, rest)?;
            at += KEY_BYTES + HEAD_BYTES + chunk.stripes.len() * STRIPE_BYTES;
            chunks.add(chunk)?;
        }
        Ok(chunks)
    }

    /// Adds a chunk, which replaces itself.
    pub(super) fn add(&mut self, chunk: Chunk) -> Result<(), GuestError> {
        let place = Place::Chunk(chunk.logical);
        let end = chunk.logical + chunk.length;
        let overlaps = match self.0.range(..end).next_back() {
            Some((start, before)) if *start != chunk.logical => {
                before.logical + before.length > chunk.logical
            }
            _ => false,
        };
        if overlaps {
            return Err(GuestError::corrupt(place, "it overlaps another one"));
        }
        if self.0.len() >= CHUNKS_MAX {
            return Err(GuestError::TooLarge {
                what: "the number of chunks",
                limit: CHUNKS_MAX as u64,
            });
        }
        self.0.insert(chunk.logical, chunk);
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.0.values()
    }

    pub(super) fn at(&self, logical: u64) -> Result<&Chunk, GuestError> {
        let before = self.0.range(..=logical).next_back();
        before
            .map(|(_, chunk)| chunk)
            .filter(|chunk| logical - chunk.logical < chunk.length)
            .ok_or_else(|| {
                GuestError::corrupt(Place::Chunk(logical), "nothing says where these bytes lie")
            })
    }

    /// The bytes from `logical` on that lie together.
    pub(super) fn run(&self, logical: u64) -> Result<Run, GuestError> {
        Ok(self.at(logical)?.run(logical))
    }
}

impl Chunk {
    pub(super) fn decode(logical: u64, bytes: &[u8]) -> Result<Self, GuestError> {
        let view = View::new(bytes, Place::Chunk(logical));
        let length = view.u64(0)?;
        let stripe_bytes = view.u64(16)?;
        let kind = view.u64(24)?;
        let count = usize::from(view.u16(44)?);
        if length == 0 || logical.checked_add(length).is_none() {
            return Err(view.corrupt("its length is out of bounds"));
        }
        if !stripe_bytes.is_power_of_two() || !(4096..=1 << 30).contains(&stripe_bytes) {
            return Err(view.corrupt("the length of its stripes is out of bounds"));
        }
        let stripe = |index: usize| -> Result<Stripe, GuestError> {
            let at = HEAD_BYTES + index * STRIPE_BYTES;
            let stripe = Stripe {
                device: view.u64(at)?,
                offset: view.u64(at + 8)?,
                device_name: view.array(at + 16)?,
            };
            match stripe.offset.checked_add(length) {
                Some(_) => Ok(stripe),
                None => Err(view.corrupt("a stripe is out of bounds")),
            }
        };
        let chunk = Self {
            logical,
            length,
            profile: profile(kind, u64::from(view.u16(46)?), view)?,
            stripe_bytes,
            stripes: (0..count).map(stripe).collect::<Result<_, _>>()?,
        };
        let count = count as u64;
        let sound = match chunk.profile {
            Profile::Copies => count > 0,
            Profile::Turns { copies } => count > 0 && count.is_multiple_of(copies),
            Profile::Parity { stripes } => count > stripes,
        };
        if !sound {
            return Err(view.corrupt("it has not as many stripes as its profile needs"));
        }
        Ok(chunk)
    }

    /// How many of its bytes lie on each of its stripes.
    pub(super) fn bytes_of_stripe(&self) -> u64 {
        let count = self.stripes.len() as u64;
        let shares = match self.profile {
            Profile::Copies => 1,
            Profile::Turns { copies } => count / copies,
            Profile::Parity { stripes } => count - stripes,
        };
        self.length.div_ceil(shares)
    }

    fn run(&self, logical: u64) -> Run {
        let inside = logical - self.logical;
        let (row_or_turn, skip) = (inside / self.stripe_bytes, inside % self.stripe_bytes);
        let length = (self.stripe_bytes - skip).min(self.length - inside);
        let count = self.stripes.len() as u64;
        match self.profile {
            Profile::Copies => Run {
                length: self.length - inside,
                ways: (0..count)
                    .map(|index| Way::Direct(self.place(index, inside)))
                    .collect(),
            },
            Profile::Turns { copies } => {
                let groups = count / copies;
                let first = row_or_turn % groups * copies;
                let at = row_or_turn / groups * self.stripe_bytes + skip;
                let ways = first..first + copies;
                Run {
                    length,
                    ways: ways
                        .map(|index| Way::Direct(self.place(index, at)))
                        .collect(),
                }
            }
            Profile::Parity { stripes } => {
                let data = count - stripes;
                let (row, wanted) = (row_or_turn / data, row_or_turn % data);
                let at = row * self.stripe_bytes + skip;
                let place = |number: u64| self.place((row + number) % count, at);
                let in_row: Vec<Stripe> = (0..count).map(place).collect();
                let rebuilt = |from: Parity| {
                    Way::Rebuilt(Row {
                        stripes: in_row.clone(),
                        parities: crate::bytes::to_usize(stripes),
                        wanted: crate::bytes::to_usize(wanted),
                        from,
                    })
                };
                let mut ways = vec![Way::Direct(place(wanted)), rebuilt(Parity::First)];
                if stripes == 2 {
                    ways.push(rebuilt(Parity::Second));
                    let others = (0..crate::bytes::to_usize(data))
                        .filter(|other| *other as u64 != wanted)
                        .map(|without| rebuilt(Parity::Both { without }));
                    ways.extend(others);
                }
                Run { length, ways }
            }
        }
    }

    /// The place `at` bytes into a stripe.
    fn place(&self, index: u64, at: u64) -> Stripe {
        let stripe = self
            .stripes
            .get(crate::bytes::to_usize(index))
            .expect("a chunk has as many stripes as its profile needs");
        Stripe {
            offset: stripe.offset.saturating_add(at),
            ..*stripe
        }
    }
}

fn profile(kind: u64, copies: u64, view: View<'_>) -> Result<Profile, GuestError> {
    if kind & !KINDS_KNOWN != 0 {
        return Err(GuestError::unsupported(format!("chunks of kind {kind:#x}")));
    }
    Ok(match kind & PROFILES {
        0 | DUP | RAID1 | RAID1C3 | RAID1C4 => Profile::Copies,
        RAID0 => Profile::Turns { copies: 1 },
        RAID10 if copies > 0 => Profile::Turns { copies },
        RAID5 => Profile::Parity { stripes: 1 },
        RAID6 => Profile::Parity { stripes: 2 },
        _ => return Err(view.corrupt("its profile makes no sense")),
    })
}

const RAID0: u64 = 1 << 3;
const RAID1: u64 = 1 << 4;
const DUP: u64 = 1 << 5;
const RAID10: u64 = 1 << 6;
const RAID5: u64 = 1 << 7;
const RAID6: u64 = 1 << 8;
const RAID1C3: u64 = 1 << 9;
const RAID1C4: u64 = 1 << 10;
const PROFILES: u64 = 0x7F8;
/// Data, system, metadata, and the profiles.
const KINDS_KNOWN: u64 = 0b111 | PROFILES;
const HEAD_BYTES: usize = 48;
const STRIPE_BYTES: usize = 32;
/// At a gigabyte each, a thousand terabytes.
const CHUNKS_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: u64, count: u16, copies: u16) -> Result<Chunk, GuestError> {
        let mut bytes = vec![0; HEAD_BYTES + usize::from(count) * STRIPE_BYTES];
        bytes[..8].copy_from_slice(&(1_u64 << 30).to_le_bytes());
        bytes[16..24].copy_from_slice(&65536_u64.to_le_bytes());
        bytes[24..32].copy_from_slice(&kind.to_le_bytes());
        bytes[44..46].copy_from_slice(&count.to_le_bytes());
        bytes[46..48].copy_from_slice(&copies.to_le_bytes());
        for index in 0..count {
            let at = HEAD_BYTES + usize::from(index) * STRIPE_BYTES;
            bytes[at..at + 2].copy_from_slice(&(index + 1).to_le_bytes());
        }
        Chunk::decode(1 << 40, &bytes)
    }

    fn direct(run: &Run) -> Vec<(u64, u64)> {
        let direct = |way: &Way| match way {
            Way::Direct(stripe) => Some((stripe.device, stripe.offset)),
            Way::Rebuilt(_) => None,
        };
        run.ways.iter().filter_map(direct).collect()
    }

    #[test]
    fn profiles_spread_bytes_as_linux_does() {
        let at = (1 << 40) + 5 * 65536 + 100;
        let run = chunk(1 | RAID1, 2, 1).unwrap().run(at);
        assert_eq!(direct(&run), [(1, 327_780), (2, 327_780)]);
        assert_eq!(run.length, (1 << 30) - 327_780);
        let run = chunk(1 | RAID0, 3, 1).unwrap().run(at);
        assert_eq!(direct(&run), [(3, 65536 + 100)]);
        assert_eq!(run.length, 65436);
        let run = chunk(1 | RAID10, 4, 2).unwrap().run(at);
        assert_eq!(direct(&run), [(3, 131_172), (4, 131_172)]);
        // Rows turn: the third of three begins with the third device.
        let run = chunk(1 | RAID5, 3, 1).unwrap().run(at);
        assert_eq!(direct(&run), [(1, 131_172)]);
        assert_eq!(run.ways.len(), 2);
        assert_eq!(chunk(1 | RAID6, 5, 1).unwrap().run(at).ways.len(), 5);
        assert!(chunk(1 | RAID6, 2, 1).is_err());
        assert!(chunk(1 | RAID10, 3, 2).is_err());
        assert!(chunk(1 | RAID10 | RAID5, 4, 2).is_err());
    }
}
