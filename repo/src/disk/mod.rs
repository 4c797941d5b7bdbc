//! The only place that opens, syncs, renames or removes files.
//!
//! Everything above works on a [`Disk`]: the system's own ([`SystemDisk`]), or the simulated one that loses what was
//! not synced. Paths are relative to the disk's root. All methods may be called from many threads at once.

mod aligned;
mod read_only;
mod simulated;
mod system;
mod watch;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use aligned::{AlignedBuffer, DIRECT_ALIGNMENT};
pub use read_only::ReadOnlyDisk;
pub use simulated::{Effect, Fault, Operation, SimulatedDisk};
pub use system::SystemDisk;
pub use watch::{ForeignChange, ForeignKind, KnownFiles, Noticed, Watch};

/// A folder on some storage, with the promises that a store needs.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Makes a folder and those above it, durably. One that is there already is fine.
    fn create_directory(&self, path: &Path) -> Result<(), DiskError>;

    /// Makes a new empty file; refuses if the name is taken. The name is durable after
    /// [`sync_directory`](Disk::sync_directory) of its folder.
    fn create(&self, path: &Path, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Opens a file that is there.
    fn open(
        &self,
        path: &Path,
        access: Access,
        caching: Caching,
    ) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Makes a file with this content in one durable step, or refuses if the name is taken. After a crash the file is
    /// there whole or not at all.
    fn publish(&self, path: &Path, content: &[u8]) -> Result<(), DiskError>;

    /// Like [`publish`](Disk::publish), taking the place of a file of that name in the same step.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), DiskError>;

    /// Reads a whole file, refusing one larger than `limit_bytes`.
    fn read(&self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, DiskError>;

    /// What a folder holds, sorted by name. Unfinished files of [`publish`](Disk::publish) are left out.
    fn list(&self, path: &Path) -> Result<Vec<DirectoryItem>, DiskError>;

    /// The names in a folder, as [`list`](Disk::list) has them: for folders with many files, whose lengths nobody asks
    /// for.
    fn names(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let items = self.list(path)?;
        Ok(items.into_iter().map(|item| item.name).collect())
    }

    /// Removes a file; durable after [`sync_directory`](Disk::sync_directory).
    fn remove(&self, path: &Path) -> Result<(), DiskError>;

    /// Asks the file system to let nobody change, rename or remove a file, or takes that back.
    fn set_immutable(&self, _path: &Path, _immutable: bool) -> Result<Protection, DiskError> {
        Ok(Protection::Unsupported)
    }

    /// Removes a folder and all in it.
    fn remove_directory(&self, path: &Path) -> Result<(), DiskError>;

    /// Removes what calls of [`publish`](Disk::publish) and [`replace`](Disk::replace) that were cut off have left in a
    /// folder and below it. Only for whoever holds the lock: the calls of others must not be cut off by this.
    fn remove_unfinished(&self, _path: &Path) {}

    /// Makes the names in a folder durable.
    fn sync_directory(&self, path: &Path) -> Result<(), DiskError>;

    /// Takes a lock that lasts as long as the value, or refuses at once if another process holds it.
    fn lock(&self, path: &Path) -> Result<Box<dyn Send + Sync>, DiskError>;

    /// Space of the storage.
    fn space(&self) -> Result<Space, DiskError>;

    /// Where the root lies on this machine, for things that manage files on their own (the index).
    fn local_root(&self) -> Option<&Path>;

    /// What was done to the files through this disk, if it takes note.
    fn known_files(&self) -> Option<&Arc<KnownFiles>> {
        None
    }
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug + 'static {
    /// Reads into `buffer` until it is full or the file ends; says how many bytes there were.
    ///
    /// With [`Caching::Direct`], offset, length and address are multiples of [`DIRECT_ALIGNMENT`].
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError>;

    /// Reads into one buffer after the other until all are full or the file ends; says how many bytes there were. Not
    /// for [`Caching::Direct`].
    fn read_vectored_at(
        &self,
        offset: u64,
        buffers: &mut [io::IoSliceMut<'_>],
    ) -> Result<usize, DiskError> {
        let mut done = 0;
        for buffer in buffers {
            let there = self.read_at(offset + done as u64, buffer)?;
            done += there;
            if there < buffer.len() {
                break;
            }
        }
        Ok(done)
    }

    /// Writes all slices one after the other.
    ///
    /// With [`Caching::Direct`], the rule of [`read_at`](DiskFile::read_at) holds for each.
    fn write_at(&self, offset: u64, slices: &[io::IoSlice<'_>]) -> Result<(), DiskError>;

    /// Returns when all that was written, and the length, is on stable storage. After a failure nothing is known of
    /// what was written since the last success: do not try again.
    fn sync(&self) -> Result<(), DiskError>;

    /// Starts writing what the kernel still holds for this range, without waiting. A hint.
    fn start_writeback(&self, offset: u64, length: u64);

    /// Drops what the kernel holds of this file and takes for written, so that reads show what is on the storage: after
    /// a failed sync, perhaps of an earlier process, that is not the same. To be called after [`sync`](DiskFile::sync).
    fn forget_cached(&self) {}

    /// The length.
    fn length(&self) -> Result<u64, DiskError>;

    /// Cuts or extends the file.
    fn set_length(&self, length: u64) -> Result<(), DiskError>;

    /// Frees the space of a range that nobody reads any more. A hint.
    fn punch(&self, offset: u64, length: u64);
}

/// Whether the kernel keeps a copy of what goes through a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// Through the page cache.
    Cached,
    /// Past it (`O_DIRECT`), where the file system can; else through it.
    Direct,
}

/// What an opened file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// What became of a request to protect a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// The file system does as asked.
    Done,
    /// It has no such attribute.
    Unsupported,
    /// This process may not: it takes root, or the capability `CAP_LINUX_IMMUTABLE`.
    NotPermitted,
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryItem {
    /// The name.
    pub name: String,
    /// Length of a file, 0 for a folder.
    pub length_bytes: u64,
    /// Whether it is a folder.
    pub is_directory: bool,
}

/// Space of the storage under a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What may still be taken.
    pub available_bytes: u64,
}

/// A call on a disk that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct DiskError {
    /// What was attempted.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// How it failed.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    pub(crate) fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether the cause is lack of space.
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    /// Whether the name was not there.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the name was there already.
    pub fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}
