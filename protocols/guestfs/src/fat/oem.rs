//! Short names: eight characters and three, in a code page that the disk does not name.

use crate::unicode::shown;

/// A short name as Linux shows it: in lower case where the entry says so, and taken for code page 437, in which every
/// byte is a character.
pub(super) fn short_name(stored: &[u8; 11], case: u8) -> Vec<u8> {
    let mut stored = *stored;
    if let [first @ 0x05, ..] = &mut stored {
        *first = 0xE5;
    }
    let (base, ending) = stored.split_at(8);
    let mut name = part(base, case & LOWER_BASE != 0);
    let ending = part(ending, case & LOWER_ENDING != 0);
    if !ending.is_empty() {
        name.push('.');
        name.push_str(&ending);
    }
    shown(name.into_bytes())
}

fn part(stored: &[u8], is_lower: bool) -> String {
    let end = stored.iter().rposition(|byte| *byte != b' ');
    let stored = stored.get(..end.map_or(0, |at| at + 1)).unwrap_or_default();
    let characters = stored.iter().map(|byte| character(*byte));
    match is_lower {
        true => characters.map(lower).collect(),
        false => characters.collect(),
    }
}

/// A byte as code page 437 has it.
pub(super) fn character(byte: u8) -> char {
    match byte.checked_sub(0x80) {
        None => char::from(byte),
        Some(index) => UPPER_HALF.chars().nth(index.into()).unwrap_or('_'),
    }
}

fn lower(character: char) -> char {
    let mut lower = character.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        _ => character,
    }
}

/// What long names carry of the short one that they belong to.
pub(super) fn checksum(stored: &[u8; 11]) -> u8 {
    let sum = |sum: u8, byte: &u8| sum.rotate_right(1).wrapping_add(*byte);
    stored.iter().fold(0, sum)
}

const LOWER_BASE: u8 = 0x08;
const LOWER_ENDING: u8 = 0x10;

const UPPER_HALF: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»\
                          ░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                          αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{A0}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_shown_whatever_their_bytes() {
        let name = |stored: &[u8; 11], case| String::from_utf8(short_name(stored, case)).unwrap();
        assert_eq!(name(b"README  TXT", 0), "README.TXT");
        assert_eq!(name(b"README  TXT", 0x18), "readme.txt");
        assert_eq!(name(b"README  TXT", 0x08), "readme.TXT");
        assert_eq!(name(b"NOENDING   ", 0x10), "NOENDING");
        assert_eq!(name(b"A B     C  ", 0), "A B.C");
        assert_eq!(name(b"\x9AB\xE1G    \x8E  ", 0x18), "übßg.ä");
        assert_eq!(name(b"\x05X         ", 0), "σX");
        assert_eq!(name(b"A/B\0    \xFF  ", 0), "A_B_.\u{A0}");
        assert_eq!(UPPER_HALF.chars().count(), 128);
    }

    #[test]
    fn the_checksum_is_that_of_the_specification() {
        // As mtools writes it for a name of this form.
        assert_eq!(checksum(b"LONGNA~1TXT"), 0xF4);
    }
}
