//! What lies at the beginning of a physical volume: its label, and areas with the text of its group.

use std::ops::Range;

use crc_fast::{CrcAlgorithm, Digest};

use super::group::Group;
use super::text;
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place, Source};

/// What a physical volume says of itself.
#[derive(Debug)]
pub(crate) struct PhysicalVolume {
    /// Its name for itself: 32 letters and digits.
    pub id: String,
    /// Areas of metadata.
    areas: Vec<Range<u64>>,
}

impl PhysicalVolume {
    /// The label of `device`; `None` if there is none.
    pub(crate) fn find(device: &dyn Source) -> Result<Option<Self>, GuestError> {
        let length = device.length_bytes().min(LABEL_SECTORS * 512);
        let head = device.read(0, to_usize(length))?.to_vec();
        let mut fault = None;
        for (number, sector) in (0..).zip(head.chunks_exact(512)) {
            let view = View::new(sector, Place::PhysicalVolume);
            if !sector.starts_with(b"LABELONE") || view.slice(24, 8)? != b"LVM2 001" {
                continue;
            }
            match Self::read(&view, number) {
                Ok(found) => return Ok(Some(found)),
                Err(error) => {
                    fault.get_or_insert(error);
                }
            }
        }
        fault.map_or(Ok(None), Err)
    }

    fn read(view: &View<'_>, sector: u64) -> Result<Self, GuestError> {
        if view.u64(8)? != sector {
            return Err(view.corrupt("it says that it lies elsewhere"));
        }
        if checksum(view.slice(20, 492)?) != view.u32(16)? {
            return Err(view.corrupt("its checksum is wrong"));
        }
        let at = view.u32(20)? as usize;
        let id = name_for_itself(view.slice(at, 32)?)
            .ok_or_else(|| view.corrupt("its name for itself has other than letters and digits"))?;
        // Areas of data, then areas of metadata, each list with an empty one at its end.
        let (_, next) = places(view, at + 40)?;
        let (areas, _) = places(view, next)?;
        Ok(Self { id, areas })
    }

    /// The newest state of its group that it has; `None` if it has none. A damaged area is told, and the other asked.
    pub(crate) fn group(&self, device: &dyn Source) -> Result<Option<Group>, GuestError> {
        let mut best: Option<Group> = None;
        for area in &self.areas {
            match read_area(device, area) {
                Ok(Some(group))
                    if best
                        .as_ref()
                        .is_none_or(|best| group.sequence > best.sequence) =>
                {
                    best = Some(group);
                }
                Ok(_) => {}
                Err(error) if error.is_of_one_place() => {
                    tracing::warn!(%error, "an area of metadata of a physical volume is not used");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(best)
    }
}

/// Places from a list at `at`, and where the next list begins.
fn places(view: &View<'_>, mut at: usize) -> Result<(Vec<Range<u64>>, usize), GuestError> {
    let mut places = Vec::new();
    loop {
        let (offset, size) = (view.u64(at)?, view.u64(at + 8)?);
        at += 16;
        if offset == 0 {
            return Ok((places, at));
        }
        let end = offset.checked_add(size);
        places.push(offset..end.ok_or_else(|| view.corrupt("an area ends too far"))?);
    }
}

/// The text of the group in an area; `None` if there is none, or if the area is set to be left alone.
fn read_area(device: &dyn Source, area: &Range<u64>) -> Result<Option<Group>, GuestError> {
    let head = device.read(area.start, HEAD_BYTES)?.to_vec();
    let view = View::new(&head, Place::GroupMetadata);
    if view.slice(4, 16)? != MAGIC {
        return Err(view.corrupt("its magic number is missing"));
    }
    if checksum(view.slice(4, HEAD_BYTES - 4)?) != view.u32(0)? {
        return Err(view.corrupt("its checksum is wrong"));
    }
    if view.u32(20)? != 1 {
        return Err(GuestError::unsupported(
            "metadata of LVM2 in another version than 1",
        ));
    }
    let (start, size) = (view.u64(24)?, view.u64(32)?);
    let end = start.checked_add(size);
    if start != area.start
        || end.is_none_or(|end| end > device.length_bytes())
        || size <= HEAD_BYTES as u64
    {
        return Err(view.corrupt("it says that it lies elsewhere, or is of another length"));
    }
    let (offset, length) = (view.u64(40)?, view.u64(48)?);
    if offset == 0 || length == 0 || view.u32(60)? & IGNORED != 0 {
        return Ok(None);
    }
    if length > TEXT_MAX_BYTES {
        return Err(GuestError::TooLarge {
            what: "the text of a volume group",
            limit: TEXT_MAX_BYTES,
        });
    }
    if !(HEAD_BYTES as u64..size).contains(&offset) || length > size - HEAD_BYTES as u64 {
        return Err(view.corrupt("its text lies beyond it"));
    }
    // The area is a ring behind its head.
    let first = length.min(size - offset);
    let mut bytes = device.read(start + offset, to_usize(first))?.to_vec();
    if first < length {
        let rest = device.read(start + HEAD_BYTES as u64, to_usize(length - first))?;
        bytes.extend(rest.to_vec());
    }
    if checksum(&bytes) != view.u32(56)? {
        return Err(view.corrupt("the checksum of its text is wrong"));
    }
    Group::read(&text::parse(&bytes)?).map(Some)
}

/// A name for itself as it is kept on disk.
fn name_for_itself(bytes: &[u8]) -> Option<String> {
    let is_known = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#".contains(byte);
    bytes
        .iter()
        .all(is_known)
        .then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// A CRC-32 that begins as LVM2 wants it and is not inverted at the end.
fn checksum(bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32IsoHdlc, 0xF597_A6CF);
    digest.update(bytes);
    !u32::try_from(digest.finalize() & 0xFFFF_FFFF).expect("it was cut to 32 bits")
}

const LABEL_SECTORS: u64 = 4;
const HEAD_BYTES: usize = 512;
const MAGIC: &[u8] = b"\x20LVM2\x20x[5A%r0N*>";
const IGNORED: u32 = 1;
const TEXT_MAX_BYTES: u64 = 16 << 20;
