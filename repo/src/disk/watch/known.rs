//! What this process knows of the files in its folder, because it made them so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::record::Record;
use super::{Attention, ForeignChange, ForeignKind, Noticed, TEMPORARY_PREFIX, attention};

/// The files below a folder as they should be.
///
/// Every call that changes one is announced and noted, so that whatever differs was done by somebody else. Paths are
/// relative to the folder.
#[derive(Debug)]
pub struct KnownFiles {
    root: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    files: BTreeMap<PathBuf, Entry>,
    /// Whether everything that is there was noted, so that a file without an entry is not ours.
    complete: bool,
    /// Seen in passing, before a change of our own would have covered it.
    found: Vec<ForeignChange>,
    /// What the next run will know.
    record: Option<Record>,
}

#[derive(Debug, Default)]
struct Entry {
    /// How the file is; `None` if there is none.
    stamp: Option<Stamp>,
    /// Changes of our own under way. While there are any, nothing is known.
    changing: u32,
}

/// By which one content of a file is told from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    pub(super) length: u64,
    pub(super) modified: (i64, i64),
}

/// A change of our own under way.
#[derive(Debug)]
pub(in crate::disk) struct OwnChange {
    files: Arc<KnownFiles>,
    path: PathBuf,
}

impl KnownFiles {
    /// Knows nothing yet.
    pub(in crate::disk) fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self {
            root: root.to_owned(),
            known: Mutex::default(),
        })
    }

    /// The folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Remembers from now on in `folder` what is changed, and takes up what an earlier run remembered there.
    pub(crate) fn remember_in(&self, folder: &Path) {
        self.known.lock().record = Record::open(folder);
    }

    /// The last word of a run: nothing is changed through the disk any more.
    pub(crate) fn close(&self) {
        if self.known.lock().complete {
            self.remember();
            if let Some(record) = &mut self.known.lock().record {
                record.close();
            }
        }
    }

    /// Makes a new record, so that little is unknown to the next run.
    pub(super) fn remember(&self) {
        let (snapshot, disk) = {
            let mut known = self.known.lock();
            let Known { files, record, .. } = &mut *known;
            let Some(record) = record else { return };
            let still = files.iter().filter(|(_, entry)| entry.changing == 0);
            let stamps = still.filter_map(|(path, entry)| Some((path, entry.stamp?)));
            let changing = files.iter().filter(|(_, entry)| entry.changing > 0);
            let taken = record.take(stamps, changing.map(|(path, _)| path));
            (taken, record.disk())
        };
        // Not under the lock, for which every write of the engine waits.
        if let Some(snapshot) = snapshot {
            snapshot.keep(&disk);
        }
    }

    /// Whether enough was changed since the last record.
    pub(super) fn is_record_due(&self) -> bool {
        self.known
            .lock()
            .record
            .as_ref()
            .is_some_and(Record::is_due)
    }

    /// Says that the content of a file is about to be changed by us, until the value is dropped. `None` where nobody
    /// cares.
    pub(in crate::disk) fn own_content(self: &Arc<Self>, full: &Path) -> Option<OwnChange> {
        let path = full.strip_prefix(&self.root).ok()?;
        match attention(path) {
            Attention::Content => self.own(full),
            Attention::Name | Attention::None => None,
        }
    }

    /// Says that a file is about to be made, replaced, changed or removed by us, until the value is dropped. `None`
    /// where nobody watches.
    pub(in crate::disk) fn own(self: &Arc<Self>, full: &Path) -> Option<OwnChange> {
        let path = full.strip_prefix(&self.root).ok()?;
        if attention(path) == Attention::None {
            return None;
        }
        let mut known = self.known.lock();
        if !known.complete {
            let change = known.compare_before_own_change(&self.root, path);
            known.found.extend(change);
        }
        if let Some(record) = &mut known.record {
            record.touch(path);
        }
        let is_free = known
            .files
            .get(path)
            .is_none_or(|entry| entry.changing == 0);
        if known.complete && is_free {
            let change = known.compare(&self.root, path);
            known.found.extend(change);
        }
        known.files.entry(path.to_owned()).or_default().changing += 1;
        drop(known);
        Some(OwnChange {
            files: Arc::clone(self),
            path: path.to_owned(),
        })
    }

    /// The same for all files below a folder.
    pub(in crate::disk) fn own_below(self: &Arc<Self>, full: &Path) -> Vec<OwnChange> {
        let Ok(folder) = full.strip_prefix(&self.root) else {
            return Vec::new();
        };
        let inside = self.known.lock().below(folder);
        inside
            .iter()
            .filter_map(|path| self.own(&self.root.join(path)))
            .collect()
    }

    /// Notes all files that are there, as they are.
    pub(super) fn learn(&self, paths: impl Iterator<Item = PathBuf>) {
        for path in paths {
            let mut known = self.known.lock();
            let stamp = Stamp::of(&self.root, &path);
            let entry = known.files.entry(path).or_default();
            if entry.changing == 0 {
                entry.stamp = stamp;
            }
        }
        let mut known = self.known.lock();
        known.complete = true;
        let changes = known.compare_with_earlier_run();
        known.found.extend(changes);
    }

    /// Compares one file with what is known of it, and knows it as it is from now on.
    pub(super) fn check(&self, path: &Path) {
        let mut known = self.known.lock();
        let change = known.compare(&self.root, path);
        known.found.extend(change);
    }

    /// The files below `folder` that should be there.
    pub(super) fn expected(&self, folder: &Path) -> Vec<PathBuf> {
        self.known.lock().below(folder)
    }

    /// What was found since the last call.
    pub(super) fn take_found(&self) -> Vec<ForeignChange> {
        std::mem::take(&mut self.known.lock().found)
    }
}

impl Known {
    fn compare(&mut self, root: &Path, path: &Path) -> Option<ForeignChange> {
        let entry = self.files.get(path);
        if entry.is_some_and(|entry| entry.changing > 0) {
            return None;
        }
        let before = entry.and_then(|entry| entry.stamp);
        let now = Stamp::of(root, path);
        let kind = kind_of(before, now)?;
        match now {
            Some(_) => self.files.entry(path.to_owned()).or_default().stamp = now,
            None => drop(self.files.remove(path)),
        }
        Some(ForeignChange {
            path: path.to_owned(),
            kind,
            noticed: Noticed::AtOnce,
        })
    }

    /// What became of one file since an earlier run, asked before we change it for the first time: afterwards nobody
    /// could tell.
    fn compare_before_own_change(&mut self, root: &Path, path: &Path) -> Option<ForeignChange> {
        let before = self.record.as_ref()?.untouched(path)?;
        let is_copy = inode(before.superblock) != inode(Stamp::of(root, Path::new(SUPERBLOCK)));
        let fair = |stamp: Stamp| stamp.compared(is_copy);
        Some(ForeignChange {
            path: path.to_owned(),
            kind: kind_of(before.stamp.map(fair), Stamp::of(root, path).map(fair))?,
            noticed: Noticed::AtStart,
        })
    }

    /// What was changed since an earlier run, and neither by that nor by us.
    fn compare_with_earlier_run(&mut self) -> Vec<ForeignChange> {
        let Some(before) = self.record.as_mut().and_then(Record::take_before) else {
            return Vec::new();
        };
        let now = |path: &Path| self.files.get(path).and_then(|entry| entry.stamp);
        let superblock = Path::new(SUPERBLOCK);
        let is_copy = inode(before.stamps.get(superblock).copied()) != inode(now(superblock));
        let fair = |stamp: Stamp| stamp.compared(is_copy);
        let names: BTreeSet<_> = before.stamps.keys().chain(self.files.keys()).collect();
        let others = names
            .into_iter()
            .filter(|path| !before.touched.contains(*path));
        let changes = others.filter_map(|path| {
            let earlier = before.stamps.get(path).copied().map(fair);
            Some(ForeignChange {
                path: path.clone(),
                kind: kind_of(earlier, now(path).map(fair))?,
                noticed: Noticed::AtStart,
            })
        });
        changes.collect()
    }

    fn below(&self, folder: &Path) -> Vec<PathBuf> {
        self.files
            .range(folder.to_owned()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(folder))
            .cloned()
            .collect()
    }
}

impl Drop for OwnChange {
    fn drop(&mut self) {
        let mut known = self.files.known.lock();
        let stamp = Stamp::of(&self.files.root, &self.path);
        let Some(entry) = known.files.get_mut(&self.path) else {
            return;
        };
        entry.changing -= 1;
        entry.stamp = stamp;
        if entry.changing == 0 && stamp.is_none() {
            known.files.remove(&self.path);
        }
    }
}

impl Stamp {
    /// What of it can be compared.
    fn compared(self, is_copy: bool) -> Self {
        match is_copy {
            true => Self {
                inode: 0,
                modified: (0, 0),
                ..self
            },
            false => self,
        }
    }

    fn of(root: &Path, path: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(root.join(path)).ok()?;
        let stamp = Self {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        };
        match attention(path) {
            _ if metadata.is_dir() => None,
            Attention::Content => Some(stamp),
            Attention::Name | Attention::None => Some(Self {
                length: 0,
                modified: (0, 0),
                ..stamp
            }),
        }
    }
}

/// Never changes. Where it is another file than before, all of the folder is a copy, which has the names and lengths.
const SUPERBLOCK: &str = "superblock";

fn inode(stamp: Option<Stamp>) -> Option<u64> {
    stamp.map(|stamp| stamp.inode)
}

/// What became of a file, if something did.
fn kind_of(before: Option<Stamp>, now: Option<Stamp>) -> Option<ForeignKind> {
    match (before, now) {
        (before, now) if before == now => None,
        (None, _) => Some(ForeignKind::Added),
        (_, None) => Some(ForeignKind::Removed),
        (Some(before), Some(now)) if before.inode != now.inode => Some(ForeignKind::Replaced),
        (Some(before), Some(now)) if before.length > now.length => Some(ForeignKind::Truncated),
        _ => Some(ForeignKind::Changed),
    }
}

/// All files below `folder`, which need not be there, and the folders themselves. Unfinished files are left out.
pub(super) fn walk(root: &Path, folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        let entries = match fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(error) => {
                // What was just removed shows as files that are gone.
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(folder = %folder.display(), %error, "cannot look into a watched folder");
                }
                continue;
            }
        };
        for entry in entries.flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(TEMPORARY_PREFIX)
            {
                continue;
            }
            let path = folder.join(entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(path),
                _ => files.push(path),
            }
        }
        folders.push(folder);
    }
    (files, folders)
}
