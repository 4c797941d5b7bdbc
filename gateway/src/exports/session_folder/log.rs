//! The log of names and attributes: what makes them durable before an answer.
//!
//! One line for each change: 16 hexadecimal digits of the BLAKE3 of the rest, a space, a JSON object, a line feed. The
//! first line is the header. A last line that is not whole was never answered and is cut; any other is damage. When
//! most lines are history, the log is rewritten as one line for each object, in one durable step.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use export::FileId;
use repo::clock::UnixNanoseconds;
use repo::disk::{Disk as _, SystemDisk};
use serde::{Deserialize, Serialize};

use super::super::DiskFormat;
use super::node::Made;
use super::table::Table;

/// The open log.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
    /// Changes in the file.
    lines: usize,
    /// From so many lines on a rewrite is worth a try.
    rewrite_from: usize,
    /// A write or sync failed, so nothing is known of what is on disk: no more changes until a restart.
    poisoned: bool,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Change {
    /// First line: the format, and the first id that was never used.
    Header { version: u32, next: u64 },
    /// A new object.
    Create {
        file: u64,
        parent: u64,
        name: Name,
        kind: Kind,
        mode: u32,
        uid: u32,
        gid: u32,
        time: u64,
    },
    /// An object is gone.
    Remove { file: u64, time: u64 },
    /// An object has a new name; what had it before is gone.
    Rename {
        file: u64,
        parent: u64,
        name: Name,
        replaced: Option<u64>,
        time: u64,
    },
    /// An object's attributes, all of them.
    Attributes {
        file: u64,
        mode: u32,
        uid: u32,
        gid: u32,
        accessed: u64,
        modified: u64,
        time: u64,
    },
}

/// What a new object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Kind {
    File {
        verifier: Option<[u8; 8]>,
    },
    Directory,
    Symlink {
        target: Name,
    },
    Disk {
        number: usize,
        #[serde(default, skip_serializing_if = "DiskFormat::is_raw")]
        format: DiskFormat,
    },
}

/// Bytes as text: each byte is the character of its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Name(String);

impl Log {
    /// Opens the log in `folder` and replays it, or starts it.
    pub(super) fn open(folder: &Path, now: UnixNanoseconds) -> io::Result<(Self, Table)> {
        let path = folder.join(FILE);
        let disk = SystemDisk::new(folder);
        if !path.try_exists()? {
            let table = Table::new(now);
            let snapshot = table.snapshot();
            disk.replace(Path::new(FILE), &encode_all(&snapshot))
                .map_err(|error| error.source)?;
            return Ok((Self::append_to(path, snapshot.len())?, table));
        }
        let text = std::fs::read(&path)?;
        let (changes, whole_bytes) = decode_all(&text, &path)?;
        let mut table = Table::new(now);
        for change in &changes {
            table.apply(change);
        }
        if whole_bytes < text.len() {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(whole_bytes as u64)?;
            file.sync_all()?;
        }
        let mut log = Self::append_to(path, changes.len())?;
        log.shorten(&table);
        Ok((log, table))
    }

    /// Rewrites the log as the shortest one that gives `table`, which is what the log gives now, if most of it is
    /// history. Where that fails the log goes on as it was.
    pub(super) fn shorten(&mut self, table: &Table) {
        if self.poisoned || self.lines < self.rewrite_from {
            return;
        }
        let snapshot = table.snapshot();
        if self.lines < HISTORY * snapshot.len() {
            self.rewrite_from = HISTORY * snapshot.len();
            return;
        }
        if let Err(error) = self.rewrite(&snapshot) {
            tracing::warn!(log = %self.path.display(), %error, "a names log cannot be made shorter");
            self.rewrite_from = self.lines.saturating_mul(2);
        }
    }

    fn rewrite(&mut self, changes: &[Change]) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let replaced = SystemDisk::new(folder).replace(Path::new(FILE), &encode_all(changes));
        // Whatever was answered, what has the name now is the log. If it took the name and that may not last, nobody
        // knows which of the two a power failure leaves.
        let before = self.file.metadata()?.ino();
        let file = OpenOptions::new().append(true).open(&self.path)?;
        let is_new = file.metadata()?.ino() != before;
        self.poisoned = is_new && replaced.is_err();
        replaced.map_err(|error| error.source)?;
        self.file = file;
        self.lines = changes.len();
        self.rewrite_from = LINES_MIN.max(HISTORY * self.lines);
        Ok(())
    }

    /// Appends a change; it is durable when this returns.
    pub(super) fn append(&mut self, change: &Change) -> io::Result<()> {
        if self.poisoned {
            let text = format!(
                "{}: an earlier write failed; restart the daemon once the storage is sound",
                self.path.display()
            );
            return Err(io::Error::other(text));
        }
        let written = self
            .file
            .write_all(&encode(change))
            .and_then(|()| self.file.sync_data());
        self.poisoned = written.is_err();
        self.lines += 1;
        written
    }

    fn append_to(path: PathBuf, lines: usize) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).open(&path)?;
        Ok(Self {
            file,
            path,
            lines,
            rewrite_from: LINES_MIN,
            poisoned: false,
        })
    }
}

impl Kind {
    pub(super) fn of(made: &Made) -> Self {
        match made {
            Made::File { verifier } => Self::File {
                verifier: *verifier,
            },
            Made::Directory => Self::Directory,
            Made::Symlink(target) => Self::Symlink {
                target: Name::new(target),
            },
        }
    }
}

impl Name {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|&byte| char::from(byte)).collect())
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0
            .chars()
            .map(|character| u8::try_from(character).unwrap_or(b'?'))
            .collect()
    }
}

pub(super) fn file_id(number: u64) -> FileId {
    FileId(number)
}

fn encode(change: &Change) -> Vec<u8> {
    let text = serde_json::to_string(change).expect("a change is plain text");
    format!("{} {text}\n", checksum(text.as_bytes())).into_bytes()
}

fn encode_all(changes: &[Change]) -> Vec<u8> {
    changes.iter().flat_map(encode).collect()
}

/// The changes, and how many bytes of `text` they took: less than all if the last line is torn.
fn decode_all(text: &[u8], path: &Path) -> io::Result<(Vec<Change>, usize)> {
    let damaged = |line: usize, detail: &str| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is damaged in line {line}: {detail}", path.display()),
        )
    };
    let mut changes = Vec::new();
    let mut done = 0;
    for (number, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        match decode(line) {
            Ok(change) => changes.push(change),
            // A torn last line: its change was never answered.
            Err(_) if done + line.len() == text.len() && number > 0 => break,
            Err(detail) => return Err(damaged(number + 1, &detail)),
        }
        done += line.len();
    }
    match changes.first() {
        Some(Change::Header {
            version: OLDEST_VERSION..=VERSION,
            ..
        }) => Ok((changes, done)),
        Some(Change::Header { .. }) => Err(damaged(1, "it was written by a newer version")),
        _ => Err(damaged(1, "the header is missing")),
    }
}

fn decode(line: &[u8]) -> Result<Change, String> {
    let line = line.strip_suffix(b"\n").ok_or("the line has no end")?;
    let (sum, text) = line.split_at_checked(17).ok_or("the line is too short")?;
    if sum != format!("{} ", checksum(text)).as_bytes() {
        return Err("the checksum is wrong".to_owned());
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

fn checksum(text: &[u8]) -> String {
    let mut hexadecimal = blake3::hash(text).to_hex().to_string();
    hexadecimal.truncate(16);
    hexadecimal
}

const FILE: &str = "names.log";
/// A log below so many lines is short enough.
const LINES_MIN: usize = 64;
/// So many times what is needed is too long.
const HISTORY: usize = 4;
/// 2 may have disks in other formats than raw.
pub(super) const VERSION: u32 = 2;
const OLDEST_VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_bytes_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        let change = Change::Create {
            file: 17,
            parent: 16,
            name: Name::new(&all),
            kind: Kind::File {
                verifier: Some([255; 8]),
            },
            mode: 0o600,
            uid: 1,
            gid: 2,
            time: 3,
        };
        let line = encode(&change);
        let back = decode(&line).unwrap();
        assert_eq!(back, change);
        let Change::Create { name, .. } = back else {
            panic!("a create stays one")
        };
        assert_eq!(name.bytes(), all);
        for at in 0..line.len() {
            let mut hurt = line.clone();
            hurt[at] ^= 1;
            assert!(decode(&hurt).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_torn_tail_is_cut_and_a_torn_middle_is_damage() {
        let changes = [
            Change::Header {
                version: VERSION,
                next: 17,
            },
            Change::Remove { file: 3, time: 4 },
        ];
        let text = encode_all(&changes);
        let first = encode(&changes[0]).len();
        for cut in first..text.len() {
            let (whole, bytes) = decode_all(&text[..cut], Path::new("x")).unwrap();
            assert_eq!((whole.len(), bytes), (1, first), "cut at {cut}");
        }
        assert!(decode_all(&text[..first - 1], Path::new("x")).is_err());
        let mut hurt = encode_all(&[changes[0].clone(), changes[1].clone(), changes[1].clone()]);
        hurt[first + 20] ^= 1;
        let error = decode_all(&hurt, Path::new("names.log"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("names.log is damaged in line 2"), "{error}");
    }

    #[test]
    fn a_log_of_version_1_is_read() {
        let changes = [
            Change::Header {
                version: 1,
                next: 18,
            },
            Change::Create {
                file: 17,
                parent: 16,
                name: Name::new(b"disk-0.raw"),
                kind: Kind::Disk {
                    number: 0,
                    format: DiskFormat::Raw,
                },
                mode: 0o600,
                uid: 0,
                gid: 0,
                time: 3,
            },
        ];
        let text = encode_all(&changes);
        // As version 1 wrote it, without a format.
        assert!(String::from_utf8_lossy(&text).contains(r#""kind":{"disk":{"number":0}}"#));
        let (read, _) = decode_all(&text, Path::new("names.log")).unwrap();
        assert_eq!(read, changes);
        let newer = encode(&Change::Header {
            version: VERSION + 1,
            next: 1,
        });
        assert!(decode_all(&newer, Path::new("names.log")).is_err());
    }
}
