//! Names that are stored as UTF-16.

/// A name as bytes that every protocol takes: UTF-8, in which halves of pairs without the other half are written as if
/// they were characters, so that no two names become one. Bytes that no name may have become `_`, and names that are
/// too long are cut.
pub(crate) fn name_of(units: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut name = Vec::new();
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(character) => {
                let mut buffer = [0; 4];
                name.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
            }
            Err(half) => name.extend(half_of_pair(half.unpaired_surrogate())),
        }
    }
    shown(name)
}

/// The units that [`name_of`] made a name of, if nothing was replaced or cut.
pub(crate) fn units_of(name: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        if let [0xED, second @ 0xA0..=0xBF, third, ..] = rest {
            units.push(0xD000 | u16::from(second & 0x3F) << 6 | u16::from(third & 0x3F));
            rest = rest.get(3..)?;
            continue;
        }
        let end = match std::str::from_utf8(rest) {
            Ok(_) => rest.len(),
            Err(error) if error.valid_up_to() > 0 => error.valid_up_to(),
            Err(_) => return None,
        };
        let (valid, more) = rest.split_at_checked(end)?;
        units.extend(std::str::from_utf8(valid).ok()?.encode_utf16());
        rest = more;
    }
    Some(units)
}

/// A name without bytes that no name may have, and no longer than a name may be: of a longer one the beginning, a
/// number made of the whole, and the ending.
pub(crate) fn shown(mut name: Vec<u8>) -> Vec<u8> {
    for byte in &mut name {
        if matches!(*byte, 0 | b'/') {
            *byte = b'_';
        }
    }
    if matches!(name.as_slice(), b"" | b"." | b"..") {
        return [name.as_slice(), b"_"].concat();
    }
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    let dot = name.iter().rposition(|byte| *byte == b'.');
    let ending = dot.and_then(|dot| name.get(dot..)).unwrap_or_default();
    let ending = if ending.len() > ENDING_BYTES_MAX {
        b""
    } else {
        ending
    };
    let number = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &name);
    let number = format!("~{number:08x}");
    let mut end = NAME_BYTES_MAX - number.len() - ending.len();
    while name.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
        end -= 1;
    }
    let beginning = name.get(..end).unwrap_or_default();
    [beginning, number.as_bytes(), ending].concat()
}

/// Half of a pair, written as UTF-8 would write a character of this number.
fn half_of_pair(unit: u16) -> [u8; 3] {
    let [high, low] = unit.to_be_bytes();
    [
        0xE0 | high >> 4,
        0x80 | (high & 0xF) << 2 | low >> 6,
        0x80 | low & 0x3F,
    ]
}

/// Longest name that protocols carry.
const NAME_BYTES_MAX: usize = 255;
const ENDING_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_units_make_a_name_and_come_back() {
        for units in [
            "plain.txt".encode_utf16().collect::<Vec<u16>>(),
            "übung 🗎 日本".encode_utf16().collect(),
            vec![0xD83D, 0x61, 0xDE00, 0xDE00],
        ] {
            let name = name_of(units.iter().copied());
            assert_eq!(units_of(&name).unwrap(), units);
        }
        assert_eq!(name_of([0x61, 0, 0x2F]), b"a__");
        assert_eq!(name_of([0x2E, 0x2E]), b".._");
        assert_eq!(name_of([]), b"_");
        assert!(units_of(&[0xFF]).is_none());
    }

    #[test]
    fn long_names_are_cut_between_characters_and_stay_distinct() {
        let long = |last: u16| {
            let mut units = vec![0x65E5; 250];
            units.extend([last, 0x2E, 0x74]);
            name_of(units)
        };
        let name = long(0x41);
        assert!(name.len() <= 255 && name.len() > 250, "{}", name.len());
        assert!(std::str::from_utf8(&name).unwrap().ends_with(".t"));
        assert_ne!(name, long(0x42));
    }
}
