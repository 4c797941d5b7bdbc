//! `key=value` pairs (RFC 7143, 6.1 and 6.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A text that does not have the form that the standard gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A pair does not end with a zero byte.
    #[error("text does not end with a zero byte")]
    Unterminated,
    /// A pair has no `=`.
    #[error("text has a pair without \"=\"")]
    NoValue,
    /// The key is empty, too long, or has bytes that no key has.
    #[error("text has a key that is none")]
    Key,
    /// The value is not UTF-8.
    #[error("text has a value that is not UTF-8")]
    Value,
    /// There are more pairs than any negotiation needs.
    #[error("text has more than {PAIRS_MAX} pairs")]
    TooMany,
}

/// Takes a text apart.
///
/// # Errors
/// If it is not a sequence of pairs.
pub fn parse_text(bytes: &[u8]) -> Result<Vec<(&str, &str)>, Malformed> {
    let mut pairs = Vec::new();
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (pair, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        if pair.is_empty() {
            continue;
        }
        if pairs.len() == PAIRS_MAX {
            return Err(Malformed::TooMany);
        }
        let split = pair
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or(Malformed::NoValue)?;
        let (key, value) = pair.split_at(split);
        if key.is_empty() || key.len() > KEY_MAX || !key.iter().all(u8::is_ascii_graphic) {
            return Err(Malformed::Key);
        }
        let key = std::str::from_utf8(key).map_err(|_| Malformed::Key)?;
        let value = value.get(1..).unwrap_or_default();
        let value = std::str::from_utf8(value).map_err(|_| Malformed::Value)?;
        pairs.push((key, value));
    }
    if rest.is_empty() {
        Ok(pairs)
    } else {
        Err(Malformed::Unterminated)
    }
}

/// A text that is being put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(Vec<u8>);

impl Text {
    /// Appends a pair.
    pub fn push(&mut self, key: &str, value: impl AsRef<str>) {
        for part in [key, "=", value.as_ref(), "\0"] {
            self.0.extend_from_slice(part.as_bytes());
        }
    }

    /// Appends pairs that are bytes already.
    pub fn append(&mut self, mut pairs: Vec<u8>) {
        self.0.append(&mut pairs);
    }

    /// Bytes of all pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes of all pairs.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A number in decimal or hexadecimal notation.
pub fn decode_number(value: &str) -> Option<u64> {
    let digits = |text: &str, radix| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        plain
            .then(|| u64::from_str_radix(text, radix).ok())
            .flatten()
    };
    match value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"))
    {
        Some(hex) => digits(hex, 16),
        None => digits(value, 10),
    }
}

/// Bytes that stood in a text.
pub type BinaryValue = Vec<u8>;

/// Bytes in hexadecimal or base64 notation, at most `most` of them.
pub fn decode_binary(value: &str, most: usize) -> Option<BinaryValue> {
    let (notation, digits) = value.split_at_checked(2)?;
    let bytes = match notation {
        "0x" | "0X" if digits.len() <= most.checked_mul(2)? => decode_hex(digits)?,
        "0b" | "0B" if digits.len() <= most.checked_mul(2)?.checked_add(4)? => {
            STANDARD.decode(digits).ok()?
        }
        _ => return None,
    };
    (!bytes.is_empty() && bytes.len() <= most).then_some(bytes)
}

/// Bytes in hexadecimal notation.
pub fn encode_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).expect("four bits are one digit"));
        }
    }
    text
}

fn decode_hex(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    let mut digits = digits.bytes();
    let mut bytes = Vec::with_capacity(digits.len().div_ceil(2));
    if digits.len() % 2 == 1 {
        bytes.push(value(digits.next()?)?);
    }
    while let Some(high) = digits.next() {
        bytes.push(value(high)? << 4 | value(digits.next()?)?);
    }
    Some(bytes)
}

/// Longest key (6.1).
const KEY_MAX: usize = 63;
/// Most pairs of one text.
const PAIRS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_make_a_round_trip() {
        let mut text = Text::default();
        text.push("TargetName", "iqn.2026-01.example:disk");
        text.push("X-empty", "");
        text.push("CHAP_C", "0x00=ff");
        let bytes = text.into_bytes();
        let wanted = vec![
            ("TargetName", "iqn.2026-01.example:disk"),
            ("X-empty", ""),
            ("CHAP_C", "0x00=ff"),
        ];
        assert_eq!(parse_text(&bytes), Ok(wanted));
    }

    #[test]
    fn broken_texts_are_refused() {
        let check = |bytes: &[u8], wanted| assert_eq!(parse_text(bytes), Err(wanted), "{bytes:?}");
        check(b"a=b", Malformed::Unterminated);
        check(b"a\0", Malformed::NoValue);
        check(b"=b\0", Malformed::Key);
        check(b"a b=c\0", Malformed::Key);
        check(b"a=\xff\0", Malformed::Value);
        check(&b"k=v\0".repeat(129), Malformed::TooMany);
        check(&[&[b'k'; 64][..], b"=v\0"].concat(), Malformed::Key);
    }

    #[test]
    fn numbers_and_bytes_in_all_notations() {
        let numbers = [("0", 0), ("65536", 65536), ("0x10", 16), ("0X1f", 31)];
        for (text, number) in numbers {
            assert_eq!(decode_number(text), Some(number));
        }
        for text in ["", "-1", "+1", "0x", "ten", "1 ", "99999999999999999999"] {
            assert_eq!(decode_number(text), None, "{text}");
        }
        assert_eq!(decode_binary("0x00fF", 2), Some(vec![0, 255]));
        assert_eq!(decode_binary("0xfff", 2), Some(vec![15, 255]));
        assert_eq!(decode_binary("0bAP8=", 2), Some(vec![0, 255]));
        for text in [
            "",
            "0",
            "0x",
            "0xzz",
            "00ff",
            "0b!",
            "0x00ff00",
            "0bAP8A/w==",
        ] {
            assert_eq!(decode_binary(text, 2), None, "{text}");
        }
        assert_eq!(encode_hex(&[0, 171]), "0x00ab");
    }
}
