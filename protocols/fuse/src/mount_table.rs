//! What the kernel says is mounted: `/proc/self/mountinfo`, described in proc(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `MAJOR:MINOR`, which no other mounted file system has.
    pub(crate) device: String,
    pub(crate) path: PathBuf,
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// What is on top at `path`, which has no links and no dots in it.
pub(crate) fn find(table: &[u8], path: &Path) -> Option<Entry> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .rfind(|entry| entry.path == path)
}

/// The table of this process.
pub(crate) fn read() -> std::io::Result<Vec<u8>> {
    std::fs::read("/proc/self/mountinfo")
}

fn parse(line: &[u8]) -> Option<Entry> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |index: usize| {
        let field = fields.get(index)?;
        Some(String::from_utf8_lossy(&unescape(field)).into_owned())
    };
    Some(Entry {
        device: text(2)?,
        path: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        kind: text(dash + 1)?,
        name: text(dash + 2)?,
    })
}

/// The kernel writes space, tab, line feed and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\').then(|| after.get(..3)).flatten();
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(value) = value {
            bytes.push(value);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_is_found_and_names_are_unescaped() {
        let table = b"22 1 0:20 / /proc rw - proc proc rw\n\
            30 1 0:31 / /a\\040b rw,nosuid shared:1 master:2 - fuse.x first rw\n\
            \n\
            31 30 0:32 / /a\\040b rw - fuse hold\\134fast rw\nbroken line\n33 1 0:1 / /short rw -";
        let entry = find(table, Path::new("/a b")).unwrap();
        assert_eq!(entry.device, "0:32");
        assert_eq!(
            (entry.kind.as_str(), entry.name.as_str()),
            ("fuse", "hold\\fast")
        );
        assert_eq!(find(table, Path::new("/a")), None);
        assert_eq!(find(table, Path::new("/short")), None);
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\999x"), b"\\999x");
    }

    #[test]
    fn the_table_of_this_process_has_proc() {
        let entry = find(&read().unwrap(), Path::new("/proc")).unwrap();
        assert_eq!(entry.kind, "proc");
    }
}
