//! The table of clusters, and the chains in it.

use std::sync::Arc;

use super::Fat;
use super::boot::Width;
use crate::bytes::to_usize;
use crate::extents::Extents;
use crate::{GuestError, Place};

/// A chain of clusters, as far as it is sound.
#[derive(Debug)]
pub(super) struct Chain {
    pub extents: Extents,
    /// Why it does not go on, if not because it is at its end.
    pub fault: Option<GuestError>,
}

/// What the table says of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Free,
    To(u32),
    End,
    Bad,
}

impl Fat {
    /// The chain that begins with a cluster, from the first table that has all of it.
    pub(super) fn chain(&self, first: u32) -> Result<Arc<Chain>, GuestError> {
        if let Some(chain) = self.chains.get(&first) {
            return Ok(chain);
        }
        let mut best: Option<Chain> = None;
        for table in self.geometry.tables() {
            let chain = self.follow(table, first)?;
            let is_sound = chain.fault.is_none();
            let is_better = best.as_ref().is_none_or(|best| {
                is_sound || chain.extents.length_bytes() > best.extents.length_bytes()
            });
            if is_better {
                best = Some(chain);
            }
            if is_sound {
                break;
            }
        }
        let chain = best.expect("there is at least one table");
        if let Some(fault) = &chain.fault {
            tracing::debug!(first, %fault, "a chain of clusters is broken");
        }
        let chain = Arc::new(chain);
        self.chains.insert(first, Arc::clone(&chain));
        Ok(chain)
    }

    fn follow(&self, table: u8, first: u32) -> Result<Chain, GuestError> {
        let mut extents = Extents::default();
        let mut cluster = first;
        let mut count = 0;
        let fault = loop {
            let damage = |detail| Some(self.damage(first, detail));
            let Some(at) = self.geometry.place(cluster) else {
                break damage("it leads to a cluster that there is not");
            };
            let link = match self.link(table, cluster) {
                Err(error) if error.is_of_one_place() => break Some(error),
                other => other?,
            };
            match link {
                Link::Free => break damage("it leads to a cluster that is free"),
                Link::Bad => break damage("it leads to a cluster that is marked as bad"),
                Link::End | Link::To(_) => {}
            }
            if let Err(error) = extents.push(at, self.geometry.cluster_bytes) {
                break Some(error);
            }
            count += 1;
            match link {
                Link::To(next) if count <= self.geometry.clusters => cluster = next,
                _ => break None,
            }
        };
        if count > self.geometry.clusters || extents.overlaps_itself() {
            return Ok(Chain {
                extents: Extents::default(),
                fault: Some(self.damage(first, "it goes in circles")),
            });
        }
        Ok(Chain { extents, fault })
    }

    fn damage(&self, cluster: u32, detail: &'static str) -> GuestError {
        GuestError::corrupt(Place::Chain { cluster }, detail)
    }

    /// What a table says of a cluster that there is.
    pub(super) fn link(&self, table: u8, cluster: u32) -> Result<Link, GuestError> {
        let geometry = &self.geometry;
        let number = u64::from(cluster);
        let (at, length) = match geometry.width {
            Width::Twelve => (number + number / 2, 2),
            Width::Sixteen => (number * 2, 2),
            Width::ThirtyTwo => (number * 4, 4),
        };
        let at = geometry.table_at + u64::from(table) * geometry.table_bytes + at;
        let bytes = self.pages.read(at, length)?;
        Ok(Link::of(geometry.width, cluster, little(&bytes)))
    }
}

impl Link {
    /// From the bytes in which the entry of a cluster lies.
    pub(super) fn of(width: Width, cluster: u32, value: u32) -> Self {
        let (value, bad) = match width {
            Width::Twelve if cluster % 2 == 1 => (value >> 4, 0xFF7),
            Width::Twelve => (value & 0xFFF, 0xFF7),
            Width::Sixteen => (value, 0xFFF7),
            Width::ThirtyTwo => (value & 0x0FFF_FFFF, 0x0FFF_FFF7),
        };
        match value {
            0 => Self::Free,
            _ if value == bad => Self::Bad,
            _ if value > bad => Self::End,
            _ => Self::To(value),
        }
    }
}

/// The bytes of entry `index` of a part of a table that begins with an even entry.
pub(super) fn entry_bytes(width: Width, part: &[u8], index: u64) -> u32 {
    let (at, length) = match width {
        Width::Twelve => (index + index / 2, 2),
        Width::Sixteen => (index * 2, 2),
        Width::ThirtyTwo => (index * 4, 4),
    };
    let at = to_usize(at);
    little(part.get(at..at + length).unwrap_or_default())
}

fn little(bytes: &[u8]) -> u32 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// How many bytes of clusters a file of `size_bytes` takes.
pub(super) fn room_for(size_bytes: u64, cluster_bytes: u64) -> u64 {
    size_bytes
        .div_ceil(cluster_bytes)
        .saturating_mul(cluster_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_twelve_bits_share_bytes() {
        let part = [0x23, 0x61, 0x45, 0xF7, 0xFF, 0xFF];
        let links = (0..4_u32).map(|at| {
            Link::of(
                Width::Twelve,
                at,
                entry_bytes(Width::Twelve, &part, at.into()),
            )
        });
        let links: Vec<Link> = links.collect();
        assert_eq!(links[0], Link::To(0x123));
        assert_eq!(links[1], Link::To(0x456));
        assert_eq!(links[2..], [Link::Bad, Link::End]);
    }
}
