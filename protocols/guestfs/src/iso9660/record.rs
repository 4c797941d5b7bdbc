//! Records of folders.

use ::bytes::Bytes;
use export::Timestamp;

use super::Iso;
use super::descriptor::SECTOR_BYTES;
use crate::bytes::View;
use crate::calendar::moment;
use crate::unicode::{name_of, shown};
use crate::{GuestError, Place};

/// Whose names are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Those of Rock Ridge, which begin behind so many bytes of each record's own.
    RockRidge {
        skip: usize,
    },
    Joliet,
    Plain,
}

/// A record.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Where on the disk it lies.
    pub at: u64,
    bytes: Bytes,
}

impl Record {
    /// The record at a place of the disk; `None` if there is none any more in its sector.
    pub(super) fn read(iso: &Iso, at: u64) -> Result<Option<Self>, GuestError> {
        let place = Place::Entry { offset_bytes: at };
        let room = SECTOR_BYTES - at % SECTOR_BYTES;
        let there = iso.pages.within_page(at, room)?;
        let Some(length) = there.first().copied().map(usize::from) else {
            return Err(GuestError::corrupt(
                place,
                "it lies behind the end of the disk",
            ));
        };
        if length == 0 {
            return Ok(None);
        }
        if length < NAME_AT || length > there.len() {
            return Err(GuestError::corrupt(place, "its length is impossible"));
        }
        let bytes = there.slice(..length);
        let record = Self { at, bytes };
        if record.name_end()? > length {
            return Err(GuestError::corrupt(place, "its name is longer than itself"));
        }
        Ok(Some(record))
    }

    pub(super) fn view(&self) -> View<'_> {
        View::new(&self.bytes, self.place())
    }

    pub(super) fn place(&self) -> Place {
        Place::Entry {
            offset_bytes: self.at,
        }
    }

    /// Where the next one begins, on the disk.
    pub(super) fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// Where the content begins, in blocks.
    pub(super) fn first_block(&self) -> Result<u64, GuestError> {
        Ok(u64::from(self.view().u32(2)?) + u64::from(self.view().u8(1)?))
    }

    pub(super) fn size_bytes(&self) -> Result<u64, GuestError> {
        self.view().u32(10).map(u64::from)
    }

    pub(super) fn has(&self, flag: u8) -> Result<bool, GuestError> {
        Ok(self.view().u8(25)? & flag != 0)
    }

    /// Whether the content lies in parts with gaps between them.
    pub(super) fn is_interleaved(&self) -> Result<bool, GuestError> {
        Ok(self.view().u8(26)? != 0 || self.view().u8(27)? != 0)
    }

    pub(super) fn recorded(&self) -> Result<Timestamp, GuestError> {
        Ok(short_time(self.view().array(18)?))
    }

    /// The name as stored.
    pub(super) fn stored_name(&self) -> Result<&[u8], GuestError> {
        let length = usize::from(self.view().u8(32)?);
        self.bytes
            .get(NAME_AT..NAME_AT + length)
            .ok_or(self.view().corrupt("its name is longer than itself"))
    }

    /// Whether it stands for its own folder, or for the one above.
    pub(super) fn is_own_or_above(&self) -> Result<bool, GuestError> {
        Ok(matches!(self.stored_name()?, OWN | ABOVE))
    }

    /// The name as it is shown if nothing else tells one.
    pub(super) fn name(&self, names: Names) -> Result<Vec<u8>, GuestError> {
        let stored = self.stored_name()?;
        Ok(match names {
            Names::Joliet => joliet_name(stored),
            _ => plain_name(stored),
        })
    }

    /// What lies behind the name.
    pub(super) fn system_use(&self) -> Result<&[u8], GuestError> {
        let end = self.name_end()?;
        let end = end + (end - NAME_AT + 1) % 2;
        Ok(self.bytes.get(end..).unwrap_or_default())
    }

    fn name_end(&self) -> Result<usize, GuestError> {
        Ok(NAME_AT + usize::from(self.view().u8(32)?))
    }
}

/// As Linux shows it: in lower case, without version 1 and what goes before it.
fn plain_name(stored: &[u8]) -> Vec<u8> {
    let stored = stored
        .strip_suffix(b".;1")
        .or(stored.strip_suffix(b";1"))
        .unwrap_or(stored);
    let name = stored.iter().map(|byte| match byte {
        b';' | b'/' => b'.',
        other => other.to_ascii_lowercase(),
    });
    shown(name.collect())
}

/// As Linux shows it: without version 1 and dots at the end.
fn joliet_name(stored: &[u8]) -> Vec<u8> {
    let units = stored.chunks_exact(2);
    let mut units: Vec<u16> = units
        .filter_map(|unit| unit.try_into().ok().map(u16::from_be_bytes))
        .collect();
    if units.len() > 2 && units.ends_with(&[b';'.into(), b'1'.into()]) {
        units.truncate(units.len() - 2);
    }
    while units.len() > 1 && units.last() == Some(&b'.'.into()) {
        units.pop();
    }
    name_of(units)
}

/// A time of seven bytes. The first moment of all for what is no date.
pub(super) fn short_time(bytes: [u8; 7]) -> Timestamp {
    let [year, month, day, hour, minute, second, zone] = bytes;
    let date = (1900 + u16::from(year), month, day);
    moment(date, (hour, minute, second), seconds_east(zone)).unwrap_or_default()
}

/// A time of sixteen digits and a zone.
pub(super) fn long_time(bytes: [u8; 17]) -> Timestamp {
    let number = |at: usize, digits: usize| -> Option<u16> {
        std::str::from_utf8(bytes.get(at..at + digits)?)
            .ok()?
            .parse()
            .ok()
    };
    let small = |at: usize| number(at, 2).and_then(|number| u8::try_from(number).ok());
    let moment = || {
        let date = (number(0, 4)?, small(4)?, small(6)?);
        let zone = *bytes.last()?;
        let mut moment = moment(
            date,
            (small(8)?, small(10)?, small(12)?),
            seconds_east(zone),
        )?;
        moment.nanoseconds = u32::from(small(14)?) * 10_000_000;
        Some(moment)
    };
    moment().unwrap_or_default()
}

/// A zone in quarters of an hour.
fn seconds_east(zone: u8) -> i64 {
    i64::from(zone.cast_signed()) * 900
}

impl Iso {
    /// Where a block lies.
    pub(super) fn block_at(&self, block: u64) -> u64 {
        block.saturating_mul(self.top.block_bytes)
    }

    /// The start of the next sector.
    pub(super) fn next_sector(at: u64) -> u64 {
        (at / SECTOR_BYTES + 1).saturating_mul(SECTOR_BYTES)
    }
}

const NAME_AT: usize = 33;
const OWN: &[u8] = &[0];
const ABOVE: &[u8] = &[1];

pub(super) mod flag {
    pub(crate) const FOLDER: u8 = 0x02;
    /// A file that belongs to the one of the same name.
    pub(crate) const ASSOCIATED: u8 = 0x04;
    /// More of it follows in the next record.
    pub(crate) const GOES_ON: u8 = 0x80;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_linux_shows_them() {
        let plain = |stored: &[u8]| String::from_utf8(plain_name(stored)).unwrap();
        assert_eq!(plain(b"README.TXT;1"), "readme.txt");
        assert_eq!(plain(b"README.;1"), "readme");
        assert_eq!(plain(b"README.TXT;2"), "readme.txt.2");
        assert_eq!(plain(b"FOLDER"), "folder");
        let units: Vec<u8> = "Ünï..;1"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        assert_eq!(joliet_name(&units), "Ünï".as_bytes());
    }

    #[test]
    fn times_have_a_zone() {
        let short = short_time([124, 2, 29, 13, 34, 56, 4]);
        assert_eq!(short.seconds, 1_709_210_096);
        let west = short_time([124, 2, 29, 8, 34, 56, 0xF0]);
        assert_eq!(west.seconds, 1_709_210_096);
        assert_eq!(short_time([0; 7]), Timestamp::default());
        let long = long_time(*b"2024022913345607\x04");
        assert_eq!(
            (long.seconds, long.nanoseconds),
            (1_709_210_096, 70_000_000)
        );
        assert_eq!(long_time(*b"0000000000000000\0"), Timestamp::default());
    }
}
