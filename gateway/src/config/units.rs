//! Sizes and durations with their units.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written with a unit: `"64MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A duration, written with a unit: `"30s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number without its unit, or with one that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error("`{0}` is not a size; write a whole number and a unit, one of B, KiB, MiB, GiB, TiB")]
    Size(String),
    /// Not a duration.
    #[error(
        "`{0}` is not a duration; write a whole number and a unit, one of ms, s, m, h, d, such as 30s"
    )]
    Span(String),
}

impl ByteSize {
    /// So many MiB.
    pub const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Span {
    /// So many seconds.
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// The duration.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refused = || UnitError::Size(text.to_owned());
        let (number, unit) = split(text).ok_or_else(refused)?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return Err(refused()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(refused)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refused = || UnitError::Span(text.to_owned());
        let (number, unit) = split(text).ok_or_else(refused)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refused()),
        };
        number
            .checked_mul(milliseconds)
            .map(|all| Self(Duration::from_millis(all)))
            .ok_or_else(refused)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40_u32), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in units {
            let tenths = (u128::from(self.0) * 10) >> shift;
            if tenths >= 10 {
                return write!(formatter, "{}.{} {unit}", tenths / 10, tenths % 10);
            }
        }
        write!(formatter, "{} B", self.0)
    }
}

impl Serialize for ByteSize {
    /// In the largest unit of which it is a whole number, so that it comes back as it was.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let units = [("TiB", 40_u32), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let whole = units
            .into_iter()
            .find(|(_, shift)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        let (unit, shift) = whole.unwrap_or(("B", 0));
        serializer.collect_str(&format_args!("{}{unit}", self.0 >> shift))
    }
}

impl Serialize for Span {
    /// In the largest unit of which it is a whole number, so that it comes back as it was.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let units = [
            ("d", 86_400_000),
            ("h", 3_600_000),
            ("m", 60_000),
            ("s", 1000),
        ];
        let whole = units
            .into_iter()
            .find(|(_, milliseconds)| all > 0 && all.is_multiple_of(*milliseconds));
        let (unit, milliseconds) = whole.unwrap_or(("ms", 1));
        serializer.collect_str(&format_args!("{}{unit}", all / milliseconds))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("512B", 512, "512 B"),
            ("64KiB", 65536, "64.0 KiB"),
            ("1536 MiB", 1536 << 20, "1.5 GiB"),
            ("3TiB", 3 << 40, "3.0 TiB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, shown));
        }
        for text in ["", "12", "MiB", "1.5GiB", "1MB", "-1B", "99999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!("2m".parse(), Ok(Span::seconds(120)));
        assert!("2 weeks".parse::<Span>().is_err());
    }

    #[test]
    fn units_are_written_as_they_are_read() {
        for text in ["0B", "512B", "65537B", "64KiB", "1536MiB", "3TiB"] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(serde_json::to_value(size).unwrap(), text);
        }
        for text in ["0ms", "1500ms", "30s", "90m", "5h", "90d"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(serde_json::to_value(span).unwrap(), text);
        }
    }
}
