//! Settings of parity and of the verification that runs by itself.

use std::str::FromStr;

use repo::ParityShare;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ByteSize, Span};

/// The verification that runs by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyConfig {
    /// In so long every pack is proven once, and mended if need be; 0: never by itself.
    pub period: Span,
    /// Bytes of packs that it reads in a second at most; 0: as many as the disk gives.
    pub rate: ByteSize,
}

impl Default for VerifyConfig {
    fn default() -> Self {
        Self {
            period: Span::seconds(30 * 86_400),
            rate: ByteSize::mebibytes(100),
        }
    }
}

/// How much parity a pack gets: `"2%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share(pub ParityShare);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "`{text}` is not a share; write a number up to 50 with at most one decimal, and %, such as 2%"
            )
        };
        let number = text.trim().strip_suffix('%').ok_or_else(refused)?;
        let (whole, tenths) = number
            .trim()
            .split_once('.')
            .unwrap_or((number.trim(), "0"));
        let whole: u32 = whole.parse().map_err(|_| refused())?;
        let tenths: u32 = match tenths.len() {
            1 => tenths.parse().map_err(|_| refused())?,
            _ => return Err(refused()),
        };
        match whole.checked_mul(10).map(|whole| whole + tenths) {
            Some(permille) if permille <= 500 => Ok(Self(ParityShare::permille(permille))),
            _ => Err(refused()),
        }
    }
}

impl Serialize for Share {
    /// As it is read.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let permille = self.0.as_permille();
        serializer.collect_str(&match permille % 10 {
            0 => format!("{}%", permille / 10),
            tenths => format!("{}.{tenths}%", permille / 10),
        })
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_in_tenths_of_a_percent() {
        for (text, permille) in [
            ("2%", 20),
            ("0%", 0),
            ("0.5%", 5),
            (" 12.5 %", 125),
            ("50%", 500),
        ] {
            let share: Share = text.parse().unwrap();
            assert_eq!(share.0.as_permille(), permille, "{text}");
            let shown = serde_json::to_string(&share).unwrap();
            assert_eq!(
                serde_json::from_str::<Share>(&shown).unwrap(),
                share,
                "{shown}"
            );
        }
        for text in ["2", "", "%", "51%", "0.55%", "-1%", "two%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
