//! What this process knows of the files in its folder, because it made them so.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{ForeignChange, ForeignKind, TEMPORARY_PREFIX};

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
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
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

    /// Says that a file is about to be changed by us, until the value is dropped. `None` where nobody watches.
    pub(in crate::disk) fn own(self: &Arc<Self>, full: &Path) -> Option<OwnChange> {
        let path = full.strip_prefix(&self.root).ok()?;
        if !super::is_watched(path) {
            return None;
        }
        let mut known = self.known.lock();
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
            let stamp = Stamp::of(&self.root.join(&path));
            let entry = known.files.entry(path).or_default();
            if entry.changing == 0 {
                entry.stamp = stamp;
            }
        }
        self.known.lock().complete = true;
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
        let now = Stamp::of(&root.join(path));
        if before == now {
            return None;
        }
        let kind = match (before, now) {
            (None, _) => ForeignKind::Added,
            (_, None) => ForeignKind::Removed,
            (Some(before), Some(now)) if before.inode != now.inode => ForeignKind::Replaced,
            (Some(before), Some(now)) if before.length > now.length => ForeignKind::Truncated,
            _ => ForeignKind::Changed,
        };
        match now {
            Some(_) => self.files.entry(path.to_owned()).or_default().stamp = now,
            None => drop(self.files.remove(path)),
        }
        Some(ForeignChange {
            path: path.to_owned(),
            kind,
        })
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
        let stamp = Stamp::of(&self.files.root.join(&self.path));
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
    fn of(full: &Path) -> Option<Self> {
        match fs::symlink_metadata(full) {
            Ok(metadata) if !metadata.is_dir() => Some(Self {
                inode: metadata.ino(),
                length: metadata.len(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
            }),
            _ => None,
        }
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
