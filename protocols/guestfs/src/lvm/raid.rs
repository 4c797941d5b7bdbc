//! The superblocks that the device mapper keeps for each member of a RAID logical volume.

use std::sync::Arc;

use crate::bytes::View;
use crate::layers::{Layer, Member, Trust};
use crate::{GuestError, Place, Source};

/// What one member's superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RaidSuperblock {
    pub members: u32,
    pub position: u32,
    pub events: u64,
    failed: Vec<u64>,
    pub recovered_bytes: u64,
    pub is_clean: bool,
    pub level: u32,
    pub layout: u32,
    pub chunk_bytes: u64,
    pub is_reshaped: bool,
}

impl RaidSuperblock {
    /// `None` if the member was never in use.
    pub(super) fn read(metadata: &dyn Source) -> Result<Option<Self>, GuestError> {
        let block = metadata.read(0, 512)?.to_vec();
        let view = View::new(&block, Place::RaidMetadata);
        if view.u32(0)? != MAGIC {
            return Ok(None);
        }
        let is_extended = view.u32(4)? & EXTENDED != 0;
        let mut failed = vec![view.u64(24)?];
        let mut is_reshaped = false;
        if is_extended {
            for word in 0..3 {
                failed.push(view.u64(120 + word * 8)?);
            }
            is_reshaped = view.u32(60)? & RESHAPING != 0;
        }
        Ok(Some(Self {
            members: view.u32(8)?,
            position: view.u32(12)?,
            events: view.u64(16)?,
            failed,
            recovered_bytes: view.u64(32)?.saturating_mul(512),
            is_clean: view.u64(40)? == u64::MAX,
            level: view.u32(48)?,
            layout: view.u32(52)?,
            chunk_bytes: u64::from(view.u32(56)?) * 512,
            is_reshaped,
        }))
    }

    /// Whether it says that a member has failed.
    pub(super) fn has_failed(&self, position: usize) -> bool {
        let word = self.failed.get(position / 64).copied().unwrap_or(0);
        word >> (position % 64) & 1 == 1
    }
}

/// Metadata and image of a member.
pub(super) type Leg = (Arc<dyn Layer>, Arc<dyn Layer>);

/// The members of a RAID volume of which `metadata` and `images` are there, and whether their parity can be believed.
///
/// A member that lacks either, that has failed or missed a change, is one that is missing.
pub(super) fn members(
    kind: &Kind,
    legs: Vec<Option<Leg>>,
) -> Result<(Vec<Member>, Trust), GuestError> {
    let mut known = Vec::with_capacity(legs.len());
    for leg in &legs {
        known.push(match leg {
            Some((metadata, _)) => RaidSuperblock::read(&**metadata)?,
            None => None,
        });
    }
    let newest = known.iter().flatten().max_by_key(|found| found.events);
    let Some(newest) = newest.cloned() else {
        // It was made and never used.
        let members = legs.into_iter().map(|leg| match leg {
            Some((_, image)) => Member::whole(image),
            None => Member::missing(),
        });
        return Ok((members.collect(), Trust::Doubtful));
    };
    if newest.is_reshaped || newest.members as usize != legs.len() {
        return Err(GuestError::unsupported(
            "a RAID volume that is being reshaped",
        ));
    }
    if newest.level != kind.level
        || kind.level > 1 && (newest.layout, newest.chunk_bytes) != (kind.layout, kind.chunk_bytes)
    {
        return Err(GuestError::unsupported(
            "a RAID volume whose members say that it has another layout",
        ));
    }
    let mut members = Vec::with_capacity(legs.len());
    for (position, (leg, known)) in legs.into_iter().zip(&known).enumerate() {
        members.push(match (leg, known) {
            (Some((_, image)), Some(own)) => {
                if own.position as usize != position {
                    return Err(GuestError::corrupt(
                        Place::RaidMetadata,
                        "it says that it is another member's",
                    ));
                }
                let is_stale =
                    own.events.saturating_add(1) < newest.events || newest.has_failed(position);
                let valid = if is_stale { 0 } else { own.recovered_bytes };
                Member::partial(image, valid, Vec::new())
            }
            (Some((_, image)), None) => Member::partial(image, 0, Vec::new()),
            (None, _) => Member::missing(),
        });
    }
    let trust = match newest.is_clean {
        true => Trust::Proven,
        false => Trust::Doubtful,
    };
    Ok((members, trust))
}

/// What a RAID volume is, in the terms of arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub level: u32,
    pub layout: u32,
    pub chunk_bytes: u64,
}

impl Kind {
    /// By the name of a kind of segments, with chunks of `chunk_bytes` and so many copies of each; `None` for others.
    pub(super) fn named(name: &str, chunk_bytes: u64, copies: u32) -> Option<Self> {
        let (level, layout) = match name {
            "raid1" => (1, 0),
            "raid4" => (5, 4),
            "raid5" | "raid5_ls" => (5, 2),
            "raid5_la" => (5, 0),
            "raid5_ra" => (5, 1),
            "raid5_rs" => (5, 3),
            "raid5_n" => (5, 5),
            "raid6" | "raid6_zr" => (6, 8),
            "raid6_nr" => (6, 9),
            "raid6_nc" => (6, 10),
            "raid6_la_6" => (6, 16),
            "raid6_ra_6" => (6, 17),
            "raid6_ls_6" => (6, 18),
            "raid6_rs_6" => (6, 19),
            "raid6_n_6" => (6, 5),
            "raid10" | "raid10_near" => (10, 1 << 8 | copies),
            _ => return None,
        };
        Some(Self {
            level,
            layout,
            chunk_bytes,
        })
    }

    /// What is used of each of `count` members of a volume of `bytes`.
    pub(super) fn member_bytes(&self, bytes: u64, count: u64) -> Option<u64> {
        let (times, parts) = match self.level {
            1 => (1, 1),
            5 => (1, count.checked_sub(1)?),
            6 => (1, count.checked_sub(2)?),
            _ => (u64::from(self.layout & 0xFF), count),
        };
        bytes.checked_mul(times)?.checked_div(parts)
    }
}

const MAGIC: u32 = 0x6452_6D44;
const EXTENDED: u32 = 1;
const RESHAPING: u32 = 1;
