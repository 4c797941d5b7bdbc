//! Notices what somebody else does to the files of a repository.
//!
//! The system tells which names something happened to (inotify). What happened is found by comparing the file with what
//! this process knows of it ([`KnownFiles`]), so that events of our own, late, merged or lost ones do no harm. Folders
//! are watched, not files, so that their number does not matter.
//!
//! What is told apart is inode, length and time of modification. Who puts the time back after a change of equal length
//! is found by verifying. Of overlays, which are written to all the time and prove what they have, only the names and
//! inodes are watched.
//!
//! Where it is wanted, how the files are is remembered in a [`record`], so that what others change between two runs is
//! found when the second begins.

mod known;
mod record;
mod watcher;

use std::fmt;
use std::path::{Component, Path, PathBuf};

pub use known::KnownFiles;
pub(super) use known::OwnChange;
pub use watcher::Watch;

pub(super) use super::system::TEMPORARY_PREFIX;

/// Something that this process did not do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignChange {
    /// The file, relative to the repository.
    pub path: PathBuf,
    /// What became of it.
    pub kind: ForeignKind,
    /// When that was noticed.
    pub noticed: Noticed,
}

/// When a change was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Noticed {
    /// As it happened.
    AtOnce,
    /// When watching began: it happened since an earlier run.
    AtStart,
}

/// What somebody else did to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForeignKind {
    /// It was not there before.
    Added,
    /// It is gone.
    Removed,
    /// Another file has its name.
    Replaced,
    /// It is shorter.
    Truncated,
    /// It was written to.
    Changed,
}

impl fmt::Display for ForeignKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::Truncated => "truncated",
            Self::Changed => "changed",
        })
    }
}

/// What of a file matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attention {
    None,
    /// That it is there, and the same file.
    Name,
    /// All of it.
    Content,
}

/// What of somebody else's change of this file matters.
fn attention(path: &Path) -> Attention {
    match path.components().next() {
        Some(Component::Normal(first)) if path == Path::new(first) => {
            match FILES.iter().any(|name| first == *name) {
                true => Attention::Content,
                false => Attention::None,
            }
        }
        Some(Component::Normal(first)) if first == OVERLAYS => Attention::Name,
        Some(Component::Normal(first)) if FOLDERS.iter().any(|name| first == *name) => {
            Attention::Content
        }
        _ => Attention::None,
    }
}

/// Folders whose files only the engine may touch, with those below.
const FOLDERS: [&str; 4] = ["keys", OVERLAYS, "packs", "points"];
const OVERLAYS: &str = "overlays";
/// The same for single files beside them.
const FILES: [&str; 2] = ["clock", "superblock"];
