//! What FAT and exFAT have in common: times and attributes of DOS.

use export::{ExtendedAttribute, Timestamp};

use crate::calendar::moment;

/// Attributes of a file, by their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DosAttributes(pub u16);

impl DosAttributes {
    pub(crate) const READ_ONLY: u16 = 0x01;
    pub(crate) const VOLUME_LABEL: u16 = 0x08;
    pub(crate) const FOLDER: u16 = 0x10;
    const SHOWN: u16 = 0x27;

    pub(crate) fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }

    pub(crate) fn is_folder(self) -> bool {
        self.has(Self::FOLDER)
    }

    /// As Linux shows them: everyone may read and execute, the owner writes unless it is a file that is read-only.
    pub(crate) fn mode(self) -> u32 {
        if self.has(Self::READ_ONLY) && !self.is_folder() {
            0o555
        } else {
            0o755
        }
    }

    /// In the form in which Samba keeps them: read-only, hidden, system, archive.
    pub(crate) fn as_extended_attributes(self) -> Vec<ExtendedAttribute> {
        match self.0 & Self::SHOWN {
            0 => Vec::new(),
            shown => vec![ExtendedAttribute {
                name: b"user.DOSATTRIB".to_vec(),
                value: format!("{shown:#x}").into_bytes(),
            }],
        }
    }
}

/// The moment of a date, a time in steps of two seconds, hundredths to add, and how many seconds the clock was before
/// UTC. The first of 1980 for what is no date.
pub(crate) fn timestamp(date: u16, time: u16, hundredths: u8, east: i64) -> Timestamp {
    let part = |word: u16, shift: u16, bits: u16| {
        u8::try_from(word >> shift & ((1 << bits) - 1)).unwrap_or(u8::MAX)
    };
    let day = (
        1980 + (date >> 9),
        part(date, 5, 4).max(1),
        part(date, 0, 5).max(1),
    );
    let of_day = (
        part(time, 11, 5),
        part(time, 5, 6),
        part(time, 0, 5).saturating_mul(2),
    );
    let moment = moment(day, of_day, east).or_else(|| moment(day, (0, 0, 0), east));
    let mut moment = moment.unwrap_or(Timestamp {
        seconds: FIRST_SECOND,
        nanoseconds: 0,
    });
    let hundredths = u32::from(hundredths.min(199));
    moment.seconds += u64::from(hundredths / 100);
    moment.nanoseconds = hundredths % 100 * 10_000_000;
    moment
}

/// 1980-01-01 00:00:00 UTC.
const FIRST_SECOND: u64 = 315_532_800;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_1980() {
        let at = |date, time, hundredths, east| {
            let moment = timestamp(date, time, hundredths, east);
            (moment.seconds, moment.nanoseconds)
        };
        assert_eq!(at(0, 0, 0, 0), (FIRST_SECOND, 0));
        let date = (2024 - 1980) << 9 | 2 << 5 | 29;
        let time = 12 << 11 | 34 << 5 | 28;
        assert_eq!(at(date, time, 157, 0), (1_709_210_097, 570_000_000));
        assert_eq!(at(date, time, 0, 3600), (1_709_206_496, 0));
        assert_eq!(at(15 << 5 | 1, 0, 0, 0), (FIRST_SECOND, 0));
    }
}
