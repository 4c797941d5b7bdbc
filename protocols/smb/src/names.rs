//! Names that go into Samba's configuration and into a list of users. Whatever could mean something else there is refused.

use std::fmt;
use std::str::FromStr;

use crate::SmbError;

/// The name of a share. Case does not tell two apart.
#[derive(Debug, Clone)]
pub struct ShareName(String);

/// The name of a user of our own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserName(String);

impl ShareName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl UserName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShareName {
    type Err = SmbError;

    fn from_str(text: &str) -> Result<Self, SmbError> {
        let is_allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        let good = (1..=SHARE_BYTES_MAX).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && !text.ends_with('.')
            && text.bytes().all(is_allowed)
            && !SECTIONS.contains(&text.to_ascii_lowercase().as_str());
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(SmbError::BadShareName(text.to_owned())),
        }
    }
}

impl FromStr for UserName {
    type Err = SmbError;

    fn from_str(text: &str) -> Result<Self, SmbError> {
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let good = (1..=USER_BYTES_MAX).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(is_allowed)
            && !OTHER_USERS.contains(&text);
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(SmbError::BadUserName(text.to_owned())),
        }
    }
}

impl PartialEq for ShareName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for ShareName {}

impl PartialOrd for ShareName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ShareName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.folded().cmp(&other.folded())
    }
}

impl fmt::Display for ShareName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What Windows takes.
const SHARE_BYTES_MAX: usize = 80;
const USER_BYTES_MAX: usize = 32;

/// Sections that mean something to Samba, and shares that it has itself.
const SECTIONS: &[&str] = &[
    "global", "homes", "printers", "print", "ipc", "admin", "profiles", "netlogon", "sysvol",
];

/// Users whom the private list has besides ours.
const OTHER_USERS: &[&str] = &["root", "nobody", "guest"];

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn ordinary_names_are_taken() {
        for name in ["web01-3", "A.b_c-9", "homes~17", "1", &"x".repeat(80)] {
            name.parse::<ShareName>().unwrap();
        }
        for name in ["holdfast-17", "a", "a1-"] {
            name.parse::<UserName>().unwrap();
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in [
            "",
            "global",
            "Global",
            "HOMES",
            "printers",
            "ipc",
            "a]",
            "a\n[global]",
            "a\r",
            "a b",
            "%U",
            "a%S",
            "a$",
            "-x",
            ".",
            "..",
            ".x",
            "x.",
            "a/b",
            "a\\b",
            "é",
            "a\0b",
            "a;b",
            "a#b",
            "a=b",
            "a,b",
            "a\"b",
            "@x",
            "&x",
            "+x",
            &"x".repeat(81),
        ] {
            assert!(name.parse::<ShareName>().is_err(), "{name:?}");
        }
        for name in [
            "",
            "root",
            "nobody",
            "A",
            "a:b",
            "a\n",
            "a:x:0:0::/:/bin/sh",
            "a b",
            "1a",
            "-a",
            "a%U",
            "@a",
            "+a",
            "a,b",
            "a\\b",
            "a.b",
            &"x".repeat(33),
        ] {
            assert!(name.parse::<UserName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn case_does_not_tell_shares_apart() {
        let parse = |text: &str| text.parse::<ShareName>().unwrap();
        assert_eq!(parse("Web01"), parse("web01"));
        assert!(parse("a") < parse("B"));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_one_plain_word(text in any::<String>()) {
            let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b"[]%:;#=\\/\",@&+$".contains(&byte));
            if let Ok(name) = text.parse::<ShareName>() {
                assert!(plain(name.as_str()));
            }
            if let Ok(name) = text.parse::<UserName>() {
                assert!(plain(name.as_str()));
            }
        }
    }
}
