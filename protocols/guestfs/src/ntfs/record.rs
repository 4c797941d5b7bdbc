//! Records of the table of files, and what both they and blocks of indexes have: a number at the end of each sector by
//! which a write that was cut off shows.

use ::bytes::Bytes;

use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// Puts back what the numbers at the ends of sectors replaced. A number that is not the one of the record tells that it was
/// not written as a whole.
pub(super) fn mend(bytes: &mut [u8], magic: [u8; 4], place: Place) -> Result<(), GuestError> {
    let view = View::new(bytes, place);
    if view.array(0)? != magic {
        return Err(view.corrupt("the magic number is missing"));
    }
    let (at, count) = (usize::from(view.u16(4)?), usize::from(view.u16(6)?));
    if count != bytes.len() / STRIDE + 1 || at % 2 != 0 {
        return Err(view.corrupt("its update sequence has the wrong length"));
    }
    let sequence = view.slice(at, count * 2)?.to_vec();
    let (expected, saved) = sequence.split_at(2);
    for (sector, saved) in bytes.chunks_exact_mut(STRIDE).zip(saved.chunks_exact(2)) {
        let Some(end) = sector.get_mut(STRIDE - 2..) else {
            continue;
        };
        if end != expected {
            return Err(GuestError::corrupt(place, "it was not written as a whole"));
        }
        end.copy_from_slice(saved);
    }
    Ok(())
}

/// A record of the table of files.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub number: u64,
    pub sequence: u16,
    pub is_folder: bool,
    /// Of the record that this one continues; 0 for one that stands for itself.
    pub base: u64,
    bytes: Bytes,
}

/// An attribute as it lies in one record: all of it, or one part of its runs.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub kind: u32,
    pub instance: u16,
    pub flags: u16,
    pub name: Vec<u16>,
    pub form: Form,
}

#[derive(Debug, Clone)]
pub(super) enum Form {
    Resident(Bytes),
    Mapped(Mapped),
}

/// What is said of bytes that lie elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Mapped {
    pub first: u64,
    /// One behind the last of this part.
    pub end: u64,
    pub pairs: Bytes,
    pub unit_power: u8,
    pub allocated_bytes: u64,
    pub size_bytes: u64,
    pub valid_bytes: u64,
    /// Space that is really taken, where holes take none.
    pub packed_bytes: Option<u64>,
}

impl Record {
    /// `None` for a record that nobody uses.
    pub(super) fn decode(number: u64, mut bytes: Vec<u8>) -> Result<Option<Self>, GuestError> {
        let place = Place::Record(number);
        if bytes.iter().take(4).all(|byte| *byte == 0) {
            return Ok(None);
        }
        mend(&mut bytes, *b"FILE", place)?;
        let view = View::new(&bytes, place);
        let flags = view.u16(0x16)?;
        if flags & IN_USE == 0 {
            return Ok(None);
        }
        // Older ones do not say their number.
        if view.u16(4)? >= 0x30 && view.u32(0x2C)? != number_of(number) {
            return Err(view.corrupt("it is another record"));
        }
        let record = Self {
            number,
            sequence: view.u16(0x10)?,
            is_folder: flags & FOLDER != 0,
            base: view.u64(0x20)?,
            bytes: Bytes::new(),
        };
        Ok(Some(Self {
            bytes: Bytes::from(bytes),
            ..record
        }))
    }

    /// All that it has of attributes.
    pub(super) fn parts(&self) -> Result<Vec<Part>, GuestError> {
        let place = Place::Record(self.number);
        let view = View::new(&self.bytes, place);
        let used = usize::try_from(view.u32(0x18)?).unwrap_or(usize::MAX);
        let view = View::new(view.slice(0, used)?, place);
        let mut at = usize::from(view.u16(0x14)?);
        let mut parts = Vec::new();
        loop {
            let kind = view.u32(at)?;
            if kind == END {
                return Ok(parts);
            }
            let length = usize::try_from(view.u32(at + 4)?).unwrap_or(usize::MAX);
            if length < 16 || length % 8 != 0 {
                return Err(view.corrupt("an attribute has an impossible length"));
            }
            let attribute = View::new(view.slice(at, length)?, place);
            parts.push(self.part(kind, attribute, at)?);
            at += length;
        }
    }

    fn part(&self, kind: u32, view: View<'_>, start: usize) -> Result<Part, GuestError> {
        let name_length = usize::from(view.u8(9)?);
        let name = view.slice(usize::from(view.u16(10)?), name_length * 2)?;
        let form = match view.u8(8)? {
            0 => {
                let length = usize::try_from(view.u32(16)?).unwrap_or(usize::MAX);
                let at = usize::from(view.u16(20)?);
                view.slice(at, length)?;
                Form::Resident(self.bytes.slice(start + at..start + at + length))
            }
            1 => {
                let pairs = usize::from(view.u16(32)?);
                view.slice(pairs, 1)?;
                let first = view.u64(16)?;
                let flags = view.u16(12)?;
                let has_packed = first == 0 && flags & (COMPRESSED | SPARSE) != 0 && pairs >= 0x48;
                Form::Mapped(Mapped {
                    first,
                    end: view.u64(24)?.wrapping_add(1),
                    pairs: self.bytes.slice(start + pairs..start + view.len()),
                    unit_power: view.u8(34)?,
                    allocated_bytes: view.u64(40)?,
                    size_bytes: view.u64(48)?,
                    valid_bytes: view.u64(56)?,
                    packed_bytes: if has_packed {
                        Some(view.u64(64)?)
                    } else {
                        None
                    },
                })
            }
            _ => return Err(view.corrupt("an attribute is neither in the record nor elsewhere")),
        };
        Ok(Part {
            kind,
            instance: view.u16(14)?,
            flags: view.u16(12)?,
            name: units(name),
            form,
        })
    }
}

/// Number and sequence of what a reference leads to.
pub(super) fn reference(number: u64) -> (u64, u16) {
    let sequence = u16::try_from(number >> 48).expect("16 bits are left");
    (number & NUMBER_MASK, sequence)
}

/// Bytes as units of UTF-16.
pub(super) fn units(bytes: &[u8]) -> Vec<u16> {
    let pairs = bytes.as_chunks().0;
    pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect()
}

/// The lower half of a number, which is all that a record keeps.
fn number_of(number: u64) -> u32 {
    u32::try_from(number & 0xFFFF_FFFF).expect("32 bits are left")
}

/// How many records lie in `bytes`.
pub(super) fn count(bytes: u64, record_bytes: usize) -> u64 {
    bytes / record_bytes as u64
}

/// Kinds of attributes.
pub(super) mod kind {
    pub(crate) const STANDARD: u32 = 0x10;
    pub(crate) const LIST: u32 = 0x20;
    pub(crate) const NAME: u32 = 0x30;
    pub(crate) const SECURITY: u32 = 0x50;
    pub(crate) const LABEL: u32 = 0x60;
    pub(crate) const VOLUME: u32 = 0x70;
    pub(crate) const DATA: u32 = 0x80;
    pub(crate) const INDEX_ROOT: u32 = 0x90;
    pub(crate) const INDEX: u32 = 0xA0;
    pub(crate) const REPARSE: u32 = 0xC0;
    pub(crate) const EXTENDED: u32 = 0xE0;
}

pub(super) const COMPRESSED: u16 = 0x00FF;
pub(super) const ENCRYPTED: u16 = 0x4000;
pub(super) const SPARSE: u16 = 0x8000;

const IN_USE: u16 = 1;
const FOLDER: u16 = 2;
const END: u32 = 0xFFFF_FFFF;
const NUMBER_MASK: u64 = 0xFFFF_FFFF_FFFF;
/// Whatever size a sector has, each 512 bytes have their number.
const STRIDE: usize = 512;

/// What may lie in an attribute that is read whole.
pub(super) fn bounded(size: u64, limit: u64, what: &'static str) -> Result<usize, GuestError> {
    if size > limit {
        return Err(GuestError::TooLarge { what, limit });
    }
    Ok(to_usize(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_was_cut_off_shows() {
        let mut bytes = vec![0; 1024];
        bytes[..4].copy_from_slice(b"FILE");
        bytes[4..8].copy_from_slice(&[0x30, 0, 3, 0]);
        bytes[0x30..0x36].copy_from_slice(&[7, 0, 1, 2, 3, 4]);
        bytes[510..512].copy_from_slice(&[7, 0]);
        bytes[1022..].copy_from_slice(&[7, 0]);
        let mut torn = bytes.clone();
        mend(&mut bytes, *b"FILE", Place::Record(1)).unwrap();
        assert_eq!(
            (&bytes[510..512], &bytes[1022..]),
            (&[1, 2][..], &[3, 4][..])
        );
        torn[1022] = 6;
        assert!(mend(&mut torn, *b"FILE", Place::Record(1)).is_err());
    }
}
