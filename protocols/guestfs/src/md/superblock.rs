//! The superblocks of arrays' members, of version 0.90 and 1.0 to 1.2 (`docs/protocols/guestfs.md`).

use std::ops::Range;

use crate::bytes::{View, text, to_usize};
use crate::{Content, GuestError, Place, Source, Volume};

/// What a member says of itself and its array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub version: Version,
    /// Where it lies on the member.
    pub offset_bytes: u64,
    pub array: [u8; 16],
    /// The name that was given to the array, without the machine's.
    pub name: String,
    pub level: i32,
    pub layout: u32,
    pub chunk_bytes: u64,
    pub members: u32,
    /// What is used of each member, in levels where that is the same for all.
    pub used_bytes: u64,
    /// Where data lie on this member.
    pub data: Range<u64>,
    /// Grows with every change of the array's state.
    pub events: u64,
    /// Whether all of the array is in agreement.
    pub is_clean: bool,
    /// Which member this is, in the numbers of `roles`.
    pub number: u32,
    /// What each device that belongs to the array does in it.
    pub roles: Vec<Role>,
    /// Up to where this member has been brought up to date, if it has not been wholly.
    pub recovered_bytes: Option<u64>,
    /// Whether it is about to take the place of another.
    pub is_replacement: bool,
    /// Why the array cannot be read, whatever members there are.
    pub refused: Option<&'static str>,
    /// Whether the layout of RAID 0 is said.
    pub has_striped_layout: bool,
    /// What this member knows to have lost, in bytes from its beginning.
    pub lost: Vec<Range<u64>>,
}

/// Which form it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// 0.90, near the end.
    Old,
    /// 1.0, near the end.
    End,
    /// 1.1, at the beginning.
    Begin,
    /// 1.2, 4 KiB from the beginning.
    Behind,
}

/// What a device does in its array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is the member with this number.
    Member(u32),
    Spare,
    Faulty,
    Journal,
}

impl Superblock {
    /// The sound superblock of `member`, the newest if there are several; an error if there are only damaged ones.
    pub(crate) fn find(member: &dyn Source) -> Result<Option<Self>, GuestError> {
        let mut best: Option<(u64, Self)> = None;
        let mut fault = None;
        for version in [Version::Begin, Version::Behind, Version::End, Version::Old] {
            let Some(offset) = version.offset_bytes(member.length_bytes()) else {
                continue;
            };
            let read = match version {
                Version::Old => read_old(member, offset),
                _ => read_new(member, offset, version),
            };
            match read {
                Ok(Some((time, found)))
                    if best.as_ref().is_none_or(|(newest, _)| time > *newest) =>
                {
                    best = Some((time, found));
                }
                Ok(_) => {}
                Err(error) if error.is_of_one_place() => {
                    fault.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match (best, fault) {
            (Some((_, found)), _) => Ok(Some(found)),
            (None, Some(fault)) => Err(fault),
            (None, None) => Ok(None),
        }
    }

    /// Whether it is that of one of these partitions of the device that it was found on: in the old form, that of the last
    /// may seem to be the disk's.
    pub(crate) fn is_of_partition(&self, partitions: &[Volume]) -> bool {
        let covers = |partition: &Volume| {
            let start = partition.offset_bytes;
            let place = start..start.saturating_add(partition.length_bytes);
            partition.content == Content::Md && place.contains(&self.offset_bytes)
        };
        self.version == Version::Old && partitions.iter().any(covers)
    }

    /// The part of the member that the array can read.
    pub(crate) fn read_bytes(&self) -> Range<u64> {
        match self.level {
            ..=0 => self.data.clone(),
            _ => {
                let end = self.data.start.saturating_add(self.used_bytes);
                self.data.start..end.min(self.data.end)
            }
        }
    }

    /// What of its data this member knows to have lost.
    pub(crate) fn lost_data(&self) -> Vec<Range<u64>> {
        let start = self.data.start;
        let lost = self.lost.iter();
        lost.map(|lost| lost.start.saturating_sub(start)..lost.end.saturating_sub(start))
            .collect()
    }

    /// The role of the device that this superblock says it lies on.
    pub(crate) fn role_of(&self, number: u32) -> Role {
        let role = self.roles.get(number as usize);
        role.copied().unwrap_or(Role::Spare)
    }
}

impl Version {
    /// Where it lies on a device of `length` bytes.
    fn offset_bytes(self, length: u64) -> Option<u64> {
        let offset = match self {
            Self::Begin => 0,
            Self::Behind => 4096,
            Self::End => (length / 512).checked_sub(16)? / 8 * 4096,
            Self::Old => (length / OLD_RESERVED_BYTES * OLD_RESERVED_BYTES)
                .checked_sub(OLD_RESERVED_BYTES)?,
        };
        (offset + 4096 <= length).then_some(offset)
    }
}

fn read_new(
    member: &dyn Source,
    offset: u64,
    version: Version,
) -> Result<Option<(u64, Superblock)>, GuestError> {
    let block = member.read(offset, 4096)?.to_vec();
    let view = View::new(&block, Place::ArraySuperblock);
    if view.u32(0)? != MAGIC || view.u32(4)? != 1 {
        return Ok(None);
    }
    let devices = view.u32(220)?;
    if devices > (4096 - 256) / 2 {
        return Err(view.corrupt("it has more devices than there is room for"));
    }
    let length = 256 + devices as usize * 2;
    if new_checksum(view.slice(0, length)?) != view.u32(216)? {
        return Err(view.corrupt("its checksum is wrong"));
    }
    // One that is at the end of a partition is also near the end of the disk.
    if view.u64(144)?.checked_mul(512) != Some(offset) {
        return Ok(None);
    }
    let features = view.u32(8)?;
    let roles = (0..devices as usize)
        .map(|number| Ok(role(view.u16(256 + number * 2)?)))
        .collect::<Result<_, GuestError>>()?;
    let bytes = |at: usize| {
        let sectors = view.u64(at)?;
        sectors
            .checked_mul(512)
            .ok_or_else(|| view.corrupt("a number of sectors is too large"))
    };
    let data_start = bytes(128)?;
    let data_end = data_start
        .checked_add(bytes(136)?)
        .ok_or_else(|| view.corrupt("its data end too far"))?;
    let lost = match features & BAD_BLOCKS {
        0 => Vec::new(),
        _ => lost_blocks(member, &view, offset)?,
    };
    let full_name = text(view.slice(32, 32)?).unwrap_or_default();
    let found = Superblock {
        version,
        offset_bytes: offset,
        array: view.array(16)?,
        name: full_name
            .split_once(':')
            .map_or(full_name.as_str(), |(_, name)| name)
            .to_owned(),
        level: i32::from_le_bytes(view.array(72)?),
        layout: view.u32(76)?,
        chunk_bytes: u64::from(view.u32(88)?) * 512,
        members: view.u32(92)?,
        used_bytes: bytes(80)?,
        data: data_start..data_end,
        events: view.u64(200)?,
        is_clean: view.u64(208)? == u64::MAX,
        number: view.u32(160)?,
        roles,
        recovered_bytes: match features & RECOVERY_OFFSET {
            0 => None,
            _ => Some(bytes(152)?),
        },
        is_replacement: features & REPLACEMENT != 0,
        refused: refused(features),
        has_striped_layout: features & STRIPED_LAYOUT != 0,
        lost,
    };
    // The upper bits of the time are microseconds.
    Ok(Some((view.u64(192)? & 0xFF_FFFF_FFFF, found)))
}

fn role(number: u16) -> Role {
    match number {
        0xFFFF => Role::Spare,
        0xFFFE => Role::Faulty,
        0xFFFD => Role::Journal,
        member => Role::Member(u32::from(member)),
    }
}

fn refused(features: u32) -> Option<&'static str> {
    if features & RESHAPE != 0 {
        Some("an array that is being reshaped")
    } else if features & WITH_JOURNAL != 0 {
        Some("an array with a write journal")
    } else if features & !KNOWN != 0 {
        Some("an array with features that are not known here")
    } else {
        None
    }
}

/// Sectors that could not be written, from the log beside the superblock.
fn lost_blocks(
    member: &dyn Source,
    view: &View<'_>,
    offset: u64,
) -> Result<Vec<Range<u64>>, GuestError> {
    let shift = u32::from(view.u8(185)?);
    let length = u64::from(view.u16(186)?) * 512;
    let place = i64::from(i32::from_le_bytes(view.array(188)?)) * 512;
    let at = offset
        .checked_add_signed(place)
        .filter(|at| {
            at.checked_add(length)
                .is_some_and(|end| end <= member.length_bytes())
        })
        .ok_or_else(|| view.corrupt("its list of bad blocks lies beyond the member"))?;
    if shift > 32 || length > LIST_MAX_BYTES {
        return Err(view.corrupt("its list of bad blocks is out of bounds"));
    }
    let list = member.read(at, to_usize(length))?.to_vec();
    let entries = list.chunks_exact(8).map(|entry| {
        entry
            .try_into()
            .map(u64::from_le_bytes)
            .expect("a chunk has eight bytes")
    });
    let mut lost = Vec::new();
    for entry in entries.take_while(|entry| *entry != u64::MAX) {
        let unit = 512_u64 << shift;
        let range = (entry >> 10)
            .checked_mul(unit)
            .and_then(|start| Some(start..start.checked_add((entry & 0x3FF) * unit)?));
        lost.push(range.ok_or_else(|| view.corrupt("a bad block is too far"))?);
    }
    Ok(lost)
}

fn new_checksum(bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(4);
    let mut sum: u64 = (0..)
        .step_by(4)
        .zip(&mut words)
        .filter(|(at, _): &(u64, _)| *at != 216)
        .map(|(_, word)| u64::from(little(word)))
        .sum();
    sum += u64::from(little(words.remainder()));
    folded(sum)
}

fn old_checksum(bytes: &[u8]) -> u32 {
    let words = (0..).step_by(4).zip(bytes.chunks_exact(4));
    let counted = words.filter(|(at, _): &(u64, _)| *at != 152);
    folded(counted.map(|(_, word)| u64::from(little(word))).sum())
}

fn little(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn folded(sum: u64) -> u32 {
    let low = u32::try_from(sum & 0xFFFF_FFFF).expect("it was cut to 32 bits");
    let high = u32::try_from(sum >> 32).expect("a sum of some thousand words has 44 bits");
    low.wrapping_add(high)
}

fn read_old(member: &dyn Source, offset: u64) -> Result<Option<(u64, Superblock)>, GuestError> {
    let block = member.read(offset, 4096)?.to_vec();
    let view = View::new(&block, Place::ArraySuperblock);
    if view.u32(0)? != MAGIC || view.u32(4)? != 0 || !matches!(view.u32(8)?, 90 | 91) {
        return Ok(None);
    }
    if old_checksum(view.all()) != view.u32(152)? {
        return Err(view.corrupt("its checksum is wrong"));
    }
    let roles = (0..OLD_DEVICES)
        .map(|number| {
            let at = 512 + number * 128;
            let (member, state) = (view.u32(at + 12)?, view.u32(at + 16)?);
            Ok(match state & (OLD_FAULTY | OLD_IN_SYNC) {
                0 => Role::Spare,
                OLD_IN_SYNC => Role::Member(member),
                _ => Role::Faulty,
            })
        })
        .collect::<Result<_, GuestError>>()?;
    let mut array = [0; 16];
    for (part, at) in array.chunks_exact_mut(4).zip([20, 52, 56, 60]) {
        part.copy_from_slice(view.slice(at, 4)?);
    }
    let found = Superblock {
        version: Version::Old,
        offset_bytes: offset,
        array,
        name: view.u32(44)?.to_string(),
        level: i32::from_le_bytes(view.array(28)?),
        layout: view.u32(256)?,
        chunk_bytes: u64::from(view.u32(260)?),
        members: view.u32(40)?,
        used_bytes: u64::from(view.u32(32)?) * 1024,
        data: 0..offset,
        events: u64::from(view.u32(160)?) << 32 | u64::from(view.u32(156)?),
        is_clean: view.u32(132)? & 1 == 1,
        number: view.u32(3968)?,
        roles,
        recovered_bytes: None,
        is_replacement: false,
        refused: (view.u32(8)? == 91).then_some("an array that is being reshaped"),
        has_striped_layout: false,
        lost: Vec::new(),
    };
    Ok(Some((u64::from(view.u32(128)?), found)))
}

const MAGIC: u32 = 0xA92B_4EFC;
const OLD_RESERVED_BYTES: u64 = 64 << 10;
const OLD_DEVICES: usize = 27;
const OLD_FAULTY: u32 = 1;
const OLD_IN_SYNC: u32 = 4;

const RECOVERY_OFFSET: u32 = 2;
const RESHAPE: u32 = 4 | 32 | 64;
const BAD_BLOCKS: u32 = 8;
const REPLACEMENT: u32 = 16;
const WITH_JOURNAL: u32 = 512;
const STRIPED_LAYOUT: u32 = 4096;
/// Those above, a bitmap, recovery by it, clusters, and logs of partial parity.
const KNOWN: u32 = 0x1FFF;

const LIST_MAX_BYTES: u64 = 1 << 20;
