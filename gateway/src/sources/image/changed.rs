//! Lists of changed extents, as a hypervisor or a snapshot tool gives them.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;

/// What changed on a disk, merged and in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedExtents {
    ranges: Vec<Range<u64>>,
}

/// A list that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChangedError {
    /// The file cannot be read.
    #[error("cannot read the list of changed extents {}: {source}", path.display())]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// How it failed.
        #[source]
        source: std::io::Error,
    },
    /// A line or object that is no extent.
    #[error(
        "{0} of the list of changed extents is no extent; write lines `OFFSET LENGTH` in bytes, or JSON [{{\"offset\": 0, \"length\": 512}}]"
    )]
    Malformed(String),
    /// An extent outside of the disk.
    #[error(
        "the list of changed extents names {length} bytes at {offset}, but the disk has {size_bytes}; is it the list of another disk?"
    )]
    Outside {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// The disk's.
        size_bytes: u64,
    },
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Entry {
    offset: u64,
    length: u64,
    /// As `qemu-img map --output=json` has it for what does not need to be read; taken as changed all the same.
    #[serde(default, rename = "zero")]
    _zero: bool,
}

impl ChangedExtents {
    /// Reads a list for a disk of `size_bytes`.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn load(path: &Path, size_bytes: u64) -> Result<Self, ChangedError> {
        let text = std::fs::read_to_string(path).map_err(|source| ChangedError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, size_bytes)
    }

    /// Reads a list from text. Extents are widened to whole sectors, sorted and merged.
    ///
    /// # Errors
    /// If it cannot be understood, or names what the disk does not have.
    pub fn parse(text: &str, size_bytes: u64) -> Result<Self, ChangedError> {
        let entries = if text.trim_start().starts_with('[') {
            parse_json(text)?
        } else {
            parse_lines(text)?
        };
        let mut ranges = Vec::with_capacity(entries.len());
        for Entry { offset, length, .. } in entries {
            let end = offset.checked_add(length).filter(|&end| end <= size_bytes);
            let end = end.ok_or(ChangedError::Outside {
                offset,
                length,
                size_bytes,
            })?;
            if length > 0 {
                ranges.push(offset - offset % 512..end.next_multiple_of(512).min(size_bytes));
            }
        }
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Ok(Self { ranges: merged })
    }

    /// The extents in order.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Bytes of all together.
    pub fn bytes(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }
}

fn parse_json(text: &str) -> Result<Vec<Entry>, ChangedError> {
    serde_json::from_str(text)
        .map_err(|error| ChangedError::Malformed(format!("line {}", error.line())))
}

fn parse_lines(text: &str) -> Result<Vec<Entry>, ChangedError> {
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let fields: Vec<&str> = line
            .split([' ', '\t', ','])
            .filter(|field| !field.is_empty())
            .collect();
        let entry = match fields.as_slice() {
            [] => continue,
            [offset, length] => number_of(offset).zip(number_of(length)),
            _ => None,
        };
        let (offset, length) =
            entry.ok_or_else(|| ChangedError::Malformed(format!("line {}", number + 1)))?;
        entries.push(Entry {
            offset,
            length,
            _zero: false,
        });
    }
    Ok(entries)
}

fn number_of(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(u64, u64)]) {
        let extents = ChangedExtents::parse(text, 1 << 20).unwrap();
        let found: Vec<_> = extents
            .ranges()
            .iter()
            .map(|range| (range.start, range.end))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn lists_are_widened_sorted_and_merged() {
        check(
            "4096 512\n0 1\n# comment\n\n512,512",
            &[(0, 1024), (4096, 4608)],
        );
        check("0x1000 0x200", &[(4096, 4608)]);
        check(
            "[{\"offset\": 8192, \"length\": 100}, {\"offset\": 0, \"length\": 0}]",
            &[(8192, 8704)],
        );
        check("", &[]);
        let all = ChangedExtents::parse("0 1048576", 1 << 20).unwrap();
        assert_eq!(all.bytes(), 1 << 20);
    }

    #[test]
    fn bad_lists_are_refused_with_their_line() {
        for (text, word) in [
            ("0 512\nten 512", "line 2"),
            ("0 512 1", "line 1"),
            ("[{\"offset\": -1}]", "line 1"),
            ("1048576 512", "another disk"),
            ("18446744073709551615 2", "another disk"),
        ] {
            let error = ChangedExtents::parse(text, 1 << 20)
                .unwrap_err()
                .to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
