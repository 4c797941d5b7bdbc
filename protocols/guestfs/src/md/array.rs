//! Which members make an array, and how it is read.

use std::sync::Arc;

use super::superblock::{Role, Superblock};
use crate::layers::{
    Algorithm, Chain, Geometry, Layer, Member, Mirror, Parity, Raid10, Slice, Stripes, Trust,
    bounded, is_sound_chunk,
};
use crate::{GuestError, Source as _};

/// A device with the superblock of an array.
pub(crate) struct Found {
    pub superblock: Superblock,
    /// All of the device.
    pub layer: Arc<dyn Layer>,
    /// Where it is, for people.
    pub name: String,
}

/// Devices that say that they are of one array, the right one chosen for each place.
pub(crate) struct Array<'a> {
    /// What the member says that was written last.
    newest: &'a Superblock,
    /// By place; `None` where there is nobody.
    chosen: Vec<Option<&'a Found>>,
}

impl<'a> Array<'a> {
    /// `Err` if they contradict each other, or say that they are what cannot be read.
    pub(crate) fn of(found: &'a [Found]) -> Result<Self, GuestError> {
        let newest = found
            .iter()
            .map(|found| &found.superblock)
            .max_by_key(|superblock| superblock.events)
            .ok_or_else(|| GuestError::missing("every member"))?;
        if newest.members == 0 || newest.members > MEMBERS_MAX {
            return Err(GuestError::TooLarge {
                what: "the number of an array's members",
                limit: u64::from(MEMBERS_MAX),
            });
        }
        let is_journal =
            |found: &Found| found.superblock.role_of(found.superblock.number) == Role::Journal;
        let refused = match found.iter().any(is_journal) {
            true => Some("an array with a write journal"),
            false => newest.refused,
        };
        if let Some(feature) = refused {
            return Err(GuestError::unsupported(feature));
        }
        let mut chosen: Vec<Option<&Found>> = vec![None; newest.members as usize];
        for device in found {
            let own = &device.superblock;
            let Role::Member(place) = newest.role_of(own.number) else {
                continue;
            };
            // The kernel, too, lets one that missed the very last change in.
            if own.events.saturating_add(1) < newest.events || !agrees(own, newest) {
                tracing::warn!(member = %device.name, "a member is stale and not used");
                continue;
            }
            let Some(slot) = chosen.get_mut(place as usize) else {
                continue;
            };
            match slot {
                Some(other) if is_better(&other.superblock, own) => {}
                Some(other) if !is_better(own, &other.superblock) => {
                    return Err(GuestError::unsupported(format!(
                        "an array of which member {place} is there twice, as {} and as {}",
                        other.name, device.name
                    )));
                }
                _ => *slot = Some(device),
            }
        }
        Ok(Self { newest, chosen })
    }

    /// Whether all members are there and up to date.
    pub(crate) fn is_complete(&self) -> bool {
        let is_whole = |found: &Option<&Found>| {
            found.is_some_and(|found| found.superblock.recovered_bytes.is_none())
        };
        self.chosen.iter().all(is_whole)
    }

    /// The names of the members that are used.
    pub(crate) fn names(&self) -> Vec<String> {
        let used = self.chosen.iter().flatten();
        used.map(|found| found.name.clone()).collect()
    }

    /// What is not there of those members that it should have.
    pub(crate) fn missing(&self) -> Vec<String> {
        let places = self.chosen.iter().enumerate();
        let missing = places.filter_map(|(place, found)| match found {
            None => Some(format!("member {place}")),
            Some(found) if found.superblock.recovered_bytes.is_some() => Some(format!(
                "the rest of member {place}, which was being filled"
            )),
            Some(_) => None,
        });
        missing.collect()
    }

    /// What it is, for people.
    pub(crate) fn description(&self) -> String {
        let level = match self.newest.level {
            LINEAR => "linear array".to_owned(),
            level => format!("RAID {level} array"),
        };
        let absent = self.chosen.iter().filter(|found| found.is_none()).count();
        match absent {
            0 => level,
            absent => format!("{level}, {absent} of {} members missing", self.chosen.len()),
        }
    }

    /// The array.
    pub(crate) fn layer(&self) -> Result<Arc<dyn Layer>, GuestError> {
        let layer: Arc<dyn Layer> = match self.newest.level {
            LINEAR => Arc::new(Chain::new(self.all_members(self.newest.chunk_bytes)?)),
            0 => self.zones()?,
            _ => self.redundant()?,
        };
        bounded(layer)
    }

    /// The data of all members, each cut to whole chunks, for levels that cannot do without one.
    fn all_members(&self, chunk_bytes: u64) -> Result<Vec<Arc<dyn Layer>>, GuestError> {
        let absent: Vec<_> = (0..self.chosen.len())
            .filter(|place| self.chosen.get(*place).is_none_or(Option::is_none))
            .collect();
        if !absent.is_empty() {
            return Err(GuestError::missing(format!(
                "of {} members, each of which is needed, member {absent:?}",
                self.chosen.len()
            )));
        }
        let members = self.chosen.iter().flatten();
        let data = members.map(|found| {
            let data = &found.superblock.data;
            let length = data.end - data.start;
            let whole = length - length.checked_rem(chunk_bytes).unwrap_or(0);
            data_of(found, whole)
        });
        data.collect()
    }

    /// RAID 0 over members of any lengths: as far as the shortest reaches over all, then over those that are longer,
    /// and so on.
    fn zones(&self) -> Result<Arc<dyn Layer>, GuestError> {
        let chunk = self.newest.chunk_bytes;
        check_chunk(chunk)?;
        let members = self.all_members(chunk)?;
        let mut zones: Vec<Arc<dyn Layer>> = Vec::new();
        let (mut from, mut length_bytes) = (0, 0_u64);
        loop {
            let longer = members.iter().filter(|member| member.length_bytes() > from);
            let longer: Vec<_> = longer.cloned().collect();
            let Some(to) = longer.iter().map(|member| member.length_bytes()).min() else {
                break;
            };
            let parts = longer
                .iter()
                .filter_map(|member| Slice::new(Arc::clone(member), from..to))
                .map(|slice| Arc::new(slice) as Arc<dyn Layer>);
            let first = match (
                zones.is_empty(),
                self.newest.layout,
                self.newest.has_striped_layout,
            ) {
                (true, _, _) | (_, ALTERNATE, true) => 0,
                // In the original layout the turn goes on over the border, by the number of the chunk in the array.
                (_, ORIGINAL, true) => length_bytes / chunk,
                _ => {
                    return Err(GuestError::unsupported(
                        "a RAID 0 array of unequal members that does not say which of two layouts it has",
                    ));
                }
            };
            let zone = Stripes::new(parts.collect(), chunk, first)
                .ok_or_else(|| GuestError::unsupported("a RAID 0 array of such a length"))?;
            from = to;
            length_bytes = length_bytes.saturating_add(zone.length_bytes());
            zones.push(Arc::new(zone));
        }
        Ok(Arc::new(Chain::new(zones)))
    }

    fn redundant(&self) -> Result<Arc<dyn Layer>, GuestError> {
        let newest = self.newest;
        let members = self
            .chosen
            .iter()
            .map(|found| match found {
                None => Ok(Member::missing()),
                Some(found) => {
                    let data = data_of(found, newest.used_bytes)?;
                    let valid = found.superblock.recovered_bytes.unwrap_or(u64::MAX);
                    Ok(Member::partial(data, valid, found.superblock.lost_data()))
                }
            })
            .collect::<Result<_, GuestError>>()?;
        let trust = match newest.is_clean {
            true => Trust::Proven,
            false => Trust::Doubtful,
        };
        let level = u32::try_from(newest.level).unwrap_or(u32::MAX);
        redundant(
            level,
            newest.layout,
            newest.chunk_bytes,
            members,
            newest.used_bytes,
            trust,
        )
    }
}

/// An array of RAID 1, 4, 5, 6 or 10 of members of `member_bytes` each.
pub(crate) fn redundant(
    level: u32,
    layout: u32,
    chunk_bytes: u64,
    members: Vec<Member>,
    member_bytes: u64,
    trust: Trust,
) -> Result<Arc<dyn Layer>, GuestError> {
    let count = members.len() as u64;
    let unknown =
        || GuestError::unsupported(format!("RAID {level} in layout {layout:#x} of {count}"));
    Ok(match level {
        1 => {
            if members.iter().all(Member::is_missing) {
                return Err(GuestError::missing("every member of a mirror"));
            }
            let mut members = members;
            members.sort_by_key(|member| !member.is_in_sync());
            Arc::new(Mirror::new(members, member_bytes))
        }
        4..=6 => {
            check_chunk(chunk_bytes)?;
            let algorithm = Algorithm::new(level, layout, count).ok_or_else(unknown)?;
            Arc::new(Parity::new(
                members,
                algorithm,
                chunk_bytes,
                member_bytes,
                trust,
            )?)
        }
        10 => {
            check_chunk(chunk_bytes)?;
            let geometry = Geometry::new(layout, count, chunk_bytes).ok_or_else(unknown)?;
            Arc::new(Raid10::new(members, geometry, member_bytes)?)
        }
        _ => return Err(unknown()),
    })
}

/// The first `length` bytes of a member's data.
fn data_of(found: &Found, length: u64) -> Result<Arc<dyn Layer>, GuestError> {
    let start = found.superblock.data.start;
    let place = start..start.saturating_add(length);
    match Slice::new(Arc::clone(&found.layer), place) {
        Some(slice) => Ok(Arc::new(slice)),
        None => Err(GuestError::missing(format!(
            "the end of member {}, which is shorter than its superblock says,",
            found.name
        ))),
    }
}

fn check_chunk(bytes: u64) -> Result<(), GuestError> {
    match is_sound_chunk(bytes) {
        true => Ok(()),
        false => Err(GuestError::unsupported(format!("chunks of {bytes} bytes"))),
    }
}

fn agrees(own: &Superblock, newest: &Superblock) -> bool {
    own.level == newest.level
        && own.layout == newest.layout
        && own.chunk_bytes == newest.chunk_bytes
        && own.members == newest.members
        && own.used_bytes == newest.used_bytes
}

/// Whether `one` is to be read rather than `other`, which has the same place.
fn is_better(one: &Superblock, other: &Superblock) -> bool {
    let rank = |superblock: &Superblock| {
        (
            superblock.recovered_bytes.is_none(),
            !superblock.is_replacement,
        )
    };
    rank(one) > rank(other)
}

const LINEAR: i32 = -1;
const ORIGINAL: u32 = 1;
const ALTERNATE: u32 = 2;
const MEMBERS_MAX: u32 = 2048;
