//! What is remembered of the files from one run to the next, so that changes in between are found, too.
//!
//! A *record* has how every file was at one moment. Since then, the name of each file goes to a *log* before we change
//! it for the first time: such a file may be anything at the next start. What neither is as in the record nor stands in
//! the log was changed by somebody else. A crash loses nothing of a log, a power failure may; so a record is believed
//! only after a stop in good order, which leaves no log, or within one run of the machine.
//!
//! Lines of text: `holdfast watched 1 GENERATION BOOT`, then `INODE LENGTH SECONDS NANOSECONDS PATH` for each file,
//! then the BLAKE3 of all that. Logs are paths alone. Files with names that fit in no line are left out.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::known::Stamp;
use crate::clock::{Clock as _, SystemClock};
use crate::disk::{Disk as _, DiskError, SystemDisk};

/// The record of one repository, in a folder of its own.
#[derive(Debug)]
pub(super) struct Record {
    disk: SystemDisk,
    folder: PathBuf,
    generation: u64,
    log: Option<File>,
    /// What stands in the log.
    touched: HashSet<PathBuf>,
    before: Option<Before>,
}

/// What an earlier run knew.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) stamps: BTreeMap<PathBuf, Stamp>,
    /// Files that it changed afterwards, or this one did.
    pub(super) touched: HashSet<PathBuf>,
}

/// What an earlier run knew of one file.
#[derive(Debug)]
pub(super) struct Earlier {
    /// How the file was; `None` if there was none.
    pub(super) stamp: Option<Stamp>,
    /// How the superblock was.
    pub(super) superblock: Option<Stamp>,
}

/// How all files are, as it goes into a record.
#[derive(Debug)]
pub(super) struct Snapshot {
    generation: u64,
    text: Vec<u8>,
}

impl Record {
    /// Reads what an earlier run left in `folder` and begins a log. `None` if that cannot be done, which is logged:
    /// watching goes on without it.
    pub(super) fn open(folder: &Path) -> Option<Self> {
        let mut record = Self {
            disk: SystemDisk::new(folder),
            folder: folder.to_owned(),
            generation: 0,
            log: None,
            touched: HashSet::new(),
            before: None,
        };
        match record.read() {
            Ok(()) => Some(record),
            Err(error) => {
                tracing::warn!(%error, "changes while no daemon runs are not noticed");
                None
            }
        }
    }

    fn read(&mut self) -> Result<(), DiskError> {
        self.disk.create_directory(Path::new(""))?;
        let names = self.disk.names(Path::new(""))?;
        let logs: BTreeMap<u64, PathBuf> = names
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix(LOG)?.parse().ok()?, PathBuf::from(name))))
            .collect();
        let text = match self.disk.read(Path::new(RECORD), RECORD_BYTES_MAX) {
            Err(error) if error.is_missing() => None,
            other => Some(other?),
        };
        let parsed = text.map(|text| parse(&text));
        let newest = logs.keys().next_back().copied().unwrap_or(0);
        self.generation = newest;
        match parsed {
            None => {}
            Some(None) => tracing::warn!(
                folder = %self.folder.display(),
                "the record of the repository's files is damaged: changes while no daemon ran are not noticed"
            ),
            Some(Some((generation, boot, stamps))) => {
                self.generation = newest.max(generation);
                let later: Vec<_> = logs
                    .range(generation..)
                    .map(|(_, path)| path.clone())
                    .collect();
                if later.is_empty() || boot == SystemClock.uptime().boot {
                    let mut touched = HashSet::new();
                    for log in later {
                        let text = self.disk.read(&log, RECORD_BYTES_MAX)?;
                        let text = String::from_utf8_lossy(&text);
                        touched.extend(text.lines().map(PathBuf::from));
                    }
                    self.before = Some(Before { stamps, touched });
                } else {
                    tracing::info!(
                        "the machine went down without a stop of the daemon: what changed meanwhile is not noticed"
                    );
                }
            }
        }
        self.begin_log()
    }

    /// Says that a file is about to be changed by us.
    pub(super) fn touch(&mut self, path: &Path) {
        if self.touched.contains(path) {
            return;
        }
        if let (Some(log), Some(text)) = (&mut self.log, line(path))
            && let Err(error) = log.write_all(format!("{text}\n").as_bytes())
        {
            tracing::warn!(%error, "the record of the repository's files is given up");
            self.give_up();
        }
        self.touched.insert(path.to_owned());
    }

    /// What an earlier run knew of a file that nobody of us has changed since.
    pub(super) fn untouched(&self, path: &Path) -> Option<Earlier> {
        let before = self.before.as_ref()?;
        let is_touched = self.touched.contains(path) || before.touched.contains(path);
        (!is_touched).then(|| Earlier {
            stamp: before.stamps.get(path).copied(),
            superblock: before.stamps.get(Path::new("superblock")).copied(),
        })
    }

    /// What an earlier run knew, once.
    pub(super) fn take_before(&mut self) -> Option<Before> {
        let mut before = self.before.take()?;
        before.touched.extend(self.touched.iter().cloned());
        Some(before)
    }

    /// Whether so much was changed that a new record is due.
    pub(super) fn is_due(&self) -> bool {
        self.touched.len() >= TOUCHED_MAX
    }

    /// Takes how all files are for [`keep`](Self::keep), and begins a log behind it, in which those of `changing`
    /// stand already.
    pub(super) fn take<'a>(
        &mut self,
        files: impl Iterator<Item = (&'a PathBuf, Stamp)>,
        changing: impl Iterator<Item = &'a PathBuf>,
    ) -> Option<Snapshot> {
        self.log.as_ref()?;
        if let Err(error) = self.begin_log() {
            tracing::warn!(%error, "the record of the repository's files is given up");
            self.give_up();
            return None;
        }
        for path in changing {
            self.touch(path);
        }
        let boot = SystemClock.uptime().boot;
        let mut text = format!("{HEAD} {} {boot}\n", self.generation);
        for (path, stamp) in files {
            if let Some(path) = line(path) {
                let Stamp {
                    inode,
                    length,
                    modified: (seconds, nanoseconds),
                } = stamp;
                text.push_str(&format!(
                    "{inode} {length} {seconds} {nanoseconds} {path}\n"
                ));
            }
        }
        let hash = blake3::hash(text.as_bytes());
        text.push_str(&hash.to_hex());
        text.push('\n');
        Some(Snapshot {
            generation: self.generation,
            text: text.into_bytes(),
        })
    }

    /// Ends in good order: nothing is changed any more, and no log is left.
    pub(super) fn close(&mut self) {
        if self.log.take().is_some() {
            remove_logs(&self.disk, self.generation + 1);
        }
    }

    pub(super) fn disk(&self) -> SystemDisk {
        SystemDisk::new(&self.folder)
    }

    /// The next log, whose name is durable before anything is written to it.
    fn begin_log(&mut self) -> Result<(), DiskError> {
        self.generation += 1;
        let path = PathBuf::from(format!("{LOG}{}", self.generation));
        self.disk.publish(&path, b"")?;
        let full = self.folder.join(path);
        let log = File::options().append(true).open(&full);
        self.log = Some(log.map_err(|error| DiskError::new("open", &full, error))?);
        self.touched.clear();
        Ok(())
    }

    /// An old record without a log would tell of our own changes.
    fn give_up(&mut self) {
        self.log = None;
        drop(self.disk.remove(Path::new(RECORD)));
    }
}

impl Snapshot {
    /// Makes this the record, durably. Older logs are not needed any more.
    pub(super) fn keep(&self, disk: &SystemDisk) {
        match disk.replace(Path::new(RECORD), &self.text) {
            Ok(()) => remove_logs(disk, self.generation),
            Err(error) => {
                tracing::warn!(%error, "the record of the repository's files is not renewed")
            }
        }
    }
}

/// Removes the logs below a generation.
fn remove_logs(disk: &SystemDisk, below: u64) {
    let names = disk.names(Path::new("")).unwrap_or_default();
    for name in names {
        let number = name
            .strip_prefix(LOG)
            .and_then(|number| number.parse().ok());
        if number.is_some_and(|number: u64| number < below) {
            drop(disk.remove(Path::new(&name)));
        }
    }
    drop(disk.sync_directory(Path::new("")));
}

fn line(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| !text.contains(['\n', '\r']))
}

/// A record's generation, boot and files.
fn parse(text: &[u8]) -> Option<(u64, Uuid, BTreeMap<PathBuf, Stamp>)> {
    let text = std::str::from_utf8(text).ok()?;
    let (all, _) = text.split_at_checked(text.trim_end().rfind('\n')? + 1)?;
    let hash = text.get(all.len()..)?.trim_end();
    if blake3::hash(all.as_bytes()).to_hex().as_str() != hash {
        return None;
    }
    let mut lines = all.lines();
    let mut words = lines.next()?.strip_prefix(HEAD)?.trim_start().split(' ');
    let generation = words.next()?.parse().ok()?;
    let boot = words.next()?.parse().ok()?;
    let mut stamps = BTreeMap::new();
    for line in lines {
        let mut words = line.splitn(5, ' ');
        let mut number = || words.next()?.parse::<i64>().ok();
        let (inode, length) = (number()?, number()?);
        let modified = (number()?, number()?);
        let stamp = Stamp {
            inode: u64::try_from(inode).ok()?,
            length: u64::try_from(length).ok()?,
            modified,
        };
        stamps.insert(PathBuf::from(words.next()?), stamp);
    }
    Some((generation, boot, stamps))
}

const HEAD: &str = "holdfast watched 1";
const RECORD: &str = "record";
const LOG: &str = "log-";

/// Some millions of files.
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// Names in a log before a new record is made, so that little is unknown after a crash.
const TOUCHED_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(inode: u64) -> Stamp {
        Stamp {
            inode,
            length: 5,
            modified: (-1, 7),
        }
    }

    fn keep(record: &mut Record, files: &BTreeMap<PathBuf, Stamp>, changing: &[PathBuf]) {
        let files = files.iter().map(|(path, stamp)| (path, *stamp));
        let snapshot = record.take(files, changing.iter()).unwrap();
        snapshot.keep(&record.disk());
    }

    #[test]
    fn a_later_run_knows_the_files_and_which_of_them_were_changed() {
        let folder = tempfile::tempdir().unwrap();
        let files = BTreeMap::from([
            (PathBuf::from("packs/a b"), stamp(1)),
            (PathBuf::from("points/ü"), stamp(2)),
            (PathBuf::from("keys/no\nline"), stamp(3)),
        ]);
        let told = BTreeMap::from_iter(files.clone().into_iter().filter(|(_, one)| one.inode < 3));
        let mut record = Record::open(folder.path()).unwrap();
        assert_eq!(record.take_before(), None);
        record.touch(Path::new("packs/early"));
        keep(&mut record, &files, &[PathBuf::from("packs/c")]);
        record.touch(Path::new("packs/d"));
        drop(record);
        // Killed: the log says what it did.
        let mut record = Record::open(folder.path()).unwrap();
        record.touch(Path::new("packs/e"));
        let before = record.take_before().unwrap();
        assert_eq!(before.stamps, told);
        let touched = ["packs/c", "packs/d", "packs/e"].map(PathBuf::from);
        assert_eq!(before.touched, HashSet::from(touched));
        drop(record);
        // Killed before it made a record of its own: both logs count.
        let before = Record::open(folder.path()).unwrap().take_before().unwrap();
        assert_eq!(before.touched.len(), 3);
        let mut record = Record::open(folder.path()).unwrap();
        keep(&mut record, &files, &[]);
        record.close();
        let before = Record::open(folder.path()).unwrap().take_before().unwrap();
        assert_eq!(before.touched.len(), 0, "it ended in good order");
    }

    #[test]
    fn after_a_power_failure_nothing_is_believed_unless_all_was_closed() {
        let folder = tempfile::tempdir().unwrap();
        let files = BTreeMap::from([(PathBuf::from("packs/a"), stamp(1))]);
        let mut record = Record::open(folder.path()).unwrap();
        keep(&mut record, &files, &[]);
        let path = folder.path().join(RECORD);
        let rebooted = |text: String| {
            let boot = SystemClock.uptime().boot.to_string();
            let text = text.replace(&boot, &Uuid::nil().to_string());
            let (all, _) = text.split_at(text.trim_end().rfind('\n').unwrap() + 1);
            format!("{all}{}\n", blake3::hash(all.as_bytes()).to_hex())
        };
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, rebooted(text)).unwrap();
        drop(record);
        let mut record = Record::open(folder.path()).unwrap();
        assert_eq!(record.take_before(), None);
        keep(&mut record, &files, &[]);
        record.close();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, rebooted(text)).unwrap();
        assert!(Record::open(folder.path()).unwrap().take_before().is_some());
    }

    #[test]
    fn a_damaged_record_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let files = BTreeMap::from([(PathBuf::from("packs/a"), stamp(1))]);
        let mut record = Record::open(folder.path()).unwrap();
        keep(&mut record, &files, &[]);
        record.close();
        let text = std::fs::read(folder.path().join(RECORD)).unwrap();
        assert!(parse(&text).is_some());
        for place in 0..text.len() - 1 {
            let mut hurt = text.clone();
            hurt[place] ^= 1;
            assert_eq!(parse(&hurt), None, "byte {place}");
            assert_eq!(parse(&text[..place]), None, "cut at {place}");
        }
    }
}
