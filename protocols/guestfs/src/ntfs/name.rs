//! Names: units of UTF-16 that need not be text, shown as bytes that need not be UTF-8.

use crate::{GuestError, Place};

/// UTF-8, where units that are half of a pair without the other are written as if they were characters (WTF-8), so that
/// no two names become one.
pub(super) fn to_bytes(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len());
    for unit in char::decode_utf16(units.iter().copied()) {
        match unit {
            Ok(character) => {
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Err(half) => {
                let [high, low] = half.unpaired_surrogate().to_be_bytes();
                let middle = (high & 0x0F) << 2 | low >> 6;
                bytes.extend([0xE0 | high >> 4, 0x80 | middle, 0x80 | (low & 0x3F)]);
            }
        }
    }
    bytes
}

/// The way back; `None` for bytes that no name is shown as.
pub(super) fn to_units(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (text, after) = match std::str::from_utf8(rest) {
            Ok(text) => (text, &[][..]),
            Err(error) => {
                let (text, after) = rest.split_at_checked(error.valid_up_to())?;
                (std::str::from_utf8(text).ok()?, after)
            }
        };
        units.extend(text.encode_utf16());
        rest = after;
        if let Some(([0xED, middle @ 0xA0..=0xBF, low @ 0x80..=0xBF], after)) =
            rest.split_first_chunk()
        {
            let unit = 0xD000 | u16::from(middle & 0x3F) << 6 | u16::from(low & 0x3F);
            units.push(unit);
            rest = after;
        } else if !rest.is_empty() {
            return None;
        }
    }
    Some(units)
}

/// A name that a folder can be shown to have.
pub(super) fn shown(units: &[u16], place: Place) -> Result<Vec<u8>, GuestError> {
    let unfit = |unit: &u16| *unit == 0 || *unit == u16::from(b'/');
    let dots = units.len() <= 2 && units.iter().all(|unit| *unit == u16::from(b'.'));
    if units.iter().any(unfit) || dots {
        return Err(GuestError::corrupt(place, "a name is none"));
    }
    Ok(to_bytes(units))
}

/// The volume's own table of capital letters, by which its folders are sorted.
#[derive(Debug)]
pub(super) struct Capitals(Vec<u16>);

impl Capitals {
    pub(super) fn new(table: Vec<u16>) -> Self {
        Self(table)
    }

    pub(super) fn of(&self, unit: u16) -> u16 {
        self.0.get(usize::from(unit)).copied().unwrap_or(unit)
    }

    pub(super) fn compare(&self, one: &[u16], other: &[u16]) -> std::cmp::Ordering {
        let capitals = |unit: &u16| self.of(*unit);
        one.iter().map(capitals).cmp(other.iter().map(capitals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_bytes_of_its_own() {
        let names: [&[u16]; 6] = [
            &[0x61, 0xD800],
            &[0xDC00, 0xD800, 0x62],
            &[0xD83D, 0xDE00],
            &[0xE000],
            &[0xDFFF],
            &[0x61, 0xD800, 0xD83D, 0xDE00],
        ];
        for name in names {
            assert_eq!(to_units(&to_bytes(name)).as_deref(), Some(name));
        }
        assert_eq!(to_bytes(&[0xD83D, 0xDE00]), "😀".as_bytes());
        assert_eq!(to_units(b"a\xFFb"), None);
        assert!(shown(&[0x2E], Place::Head).is_err());
        assert!(shown(&[0x61, 0x2F], Place::Head).is_err());
    }
}
