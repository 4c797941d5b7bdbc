//! Logical unit numbers (SAM-5, 4.7), and which of them an initiator may see.

use std::collections::BTreeSet;

/// What a LUN field names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lun {
    /// A logical unit by its number.
    Unit(u16),
    /// The well-known logical unit that answers REPORT LUNS.
    ReportLuns,
    /// Nothing that this device could have.
    Unknown,
}

/// Which logical units of a target an initiator may see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LunMask {
    /// Every one.
    #[default]
    All,
    /// These.
    Only(BTreeSet<u16>),
}

/// Largest number that flat space addressing can write.
pub const LUN_MAX: u16 = 0x3fff;

/// The field of the well-known logical unit REPORT LUNS.
pub(crate) const REPORT_LUNS_FIELD: [u8; 8] = [0xc1, 0x01, 0, 0, 0, 0, 0, 0];

impl Lun {
    /// Reads a LUN field: peripheral device addressing on bus 0, flat space addressing, or the well-known unit.
    pub(crate) fn decode(field: [u8; 8]) -> Self {
        let [first, second, rest @ ..] = field;
        if field == REPORT_LUNS_FIELD {
            return Self::ReportLuns;
        }
        match first >> 6 {
            _ if rest != [0; 6] => Self::Unknown,
            0 if first == 0 => Self::Unit(u16::from(second)),
            1 => Self::Unit(u16::from_be_bytes([first & 0x3f, second])),
            _ => Self::Unknown,
        }
    }
}

/// Writes a LUN field: peripheral device addressing up to 255, flat space addressing beyond.
pub fn encode_lun(number: u16) -> [u8; 8] {
    let [high, low] = number.to_be_bytes();
    let first = if number > 0xff { 0x40 | high } else { 0 };
    [first, low, 0, 0, 0, 0, 0, 0]
}

impl LunMask {
    /// Whether `lun` may be seen.
    pub fn shows(&self, lun: u16) -> bool {
        match self {
            Self::All => true,
            Self::Only(luns) => luns.contains(&lun),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_from_their_fields() {
        for number in [0, 1, 255, 256, 1000, LUN_MAX] {
            assert_eq!(Lun::decode(encode_lun(number)), Lun::Unit(number));
        }
        assert_eq!(
            Lun::decode([0x40, 7, 0, 0, 0, 0, 0, 0]),
            Lun::Unit(7),
            "flat, too"
        );
        assert_eq!(Lun::decode(REPORT_LUNS_FIELD), Lun::ReportLuns);
        for field in [
            [1, 0, 0, 0, 0, 0, 0, 0],
            [0, 1, 0, 1, 0, 0, 0, 0],
            [0xff; 8],
        ] {
            assert_eq!(Lun::decode(field), Lun::Unknown);
        }
    }
}
