//! The table by which names are compared.

use std::borrow::Cow;

use super::ExFat;
use crate::bytes::to_usize;
use crate::unicode::{name_of, units_of};
use crate::{GuestError, Place};

/// For each unit of UTF-16, the one in upper case; what is not in it is its own.
#[derive(Debug, Clone)]
pub(super) struct UpCase(Vec<u16>);

impl UpCase {
    /// Where the filesystem's own table cannot be read.
    pub(super) fn ascii() -> Self {
        let upper = |unit: u8| u16::from(unit.to_ascii_uppercase());
        Self((0..128).map(upper).collect())
    }

    /// From the words of a table, in which a word of all ones and a number stand for so many that are their own.
    fn decode(words: impl Iterator<Item = u16>) -> Option<Self> {
        let mut units = Vec::new();
        let mut skips = false;
        for word in words {
            let index = units.len();
            if skips {
                let end = index + usize::from(word);
                units.extend((index..end.min(UNITS)).filter_map(|unit| u16::try_from(unit).ok()));
            } else if word != SKIP {
                units.push(word);
            }
            skips = word == SKIP && !skips && index < UNITS - 1;
            if units.len() > UNITS {
                return None;
            }
        }
        Some(Self(units))
    }

    fn upper(&self, unit: u16) -> u16 {
        self.0.get(usize::from(unit)).copied().unwrap_or(unit)
    }

    /// What is equal for names that are the same.
    pub(super) fn fold<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        if name.is_ascii() && !name.iter().any(u8::is_ascii_lowercase) {
            return Cow::Borrowed(name);
        }
        match units_of(name) {
            Some(units) => Cow::Owned(name_of(units.into_iter().map(|unit| self.upper(unit)))),
            None => Cow::Borrowed(name),
        }
    }
}

impl ExFat {
    pub(super) fn read_upcase(&self) -> Result<UpCase, GuestError> {
        let damage = |detail| GuestError::corrupt(Place::UpCase, detail);
        let (stream, sum) = self.system.upcase.ok_or(damage("there is none"))?;
        if stream.length_bytes > TABLE_BYTES_MAX {
            return Err(damage("it is too long"));
        }
        let extents = self.extents(&stream)?;
        let source = &**self.pages.source();
        let table = extents
            .read(source, 0, stream.length_bytes, Place::UpCase)?
            .to_vec();
        debug_assert!(table.len() == to_usize(stream.length_bytes));
        let found = table.iter().fold(0, |sum: u32, byte| {
            sum.rotate_right(1).wrapping_add((*byte).into())
        });
        if found != sum {
            return Err(damage("the checksum is wrong"));
        }
        let words = table.chunks_exact(2);
        let words = words.filter_map(|word| word.try_into().ok().map(u16::from_le_bytes));
        UpCase::decode(words).ok_or(damage("it has more entries than there are units"))
    }
}

const UNITS: usize = 1 << 16;
const SKIP: u16 = 0xFFFF;
const TABLE_BYTES_MAX: u64 = 2 * UNITS as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_with_what_they_leave_out() {
        let table = UpCase::decode([0, 1, SKIP, 95, 0x41, 0x42, SKIP, 0x9E].into_iter()).unwrap();
        assert_eq!(table.upper(0x61), 0x41);
        assert_eq!(table.upper(0x62), 0x42);
        assert_eq!(table.upper(0x63), 0x63);
        assert_eq!(table.upper(0x5A), 0x5A);
        assert_eq!(*table.fold("ab\u{e9}".as_bytes()), *"AB\u{e9}".as_bytes());
        assert!(UpCase::decode([SKIP, 0xFFFE, 0, 0, 1].into_iter()).is_none());
    }
}
