//! A disk that nobody can write to, whatever is below it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Access, Caching, DirectoryItem, Disk, DiskError, DiskFile, Space};

/// Reads from another disk and refuses everything else.
#[derive(Debug)]
pub struct ReadOnlyDisk {
    below: Arc<dyn Disk>,
}

impl ReadOnlyDisk {
    /// Lets nothing be written to `below`.
    pub fn new(below: Arc<dyn Disk>) -> Self {
        Self { below }
    }
}

fn refuse<T>(action: &'static str, path: &Path) -> Result<T, DiskError> {
    Err(DiskError::new(
        action,
        path,
        io::Error::from(io::ErrorKind::ReadOnlyFilesystem),
    ))
}

impl Disk for ReadOnlyDisk {
    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        refuse("create the folder", path)
    }

    fn create(&self, path: &Path, _: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        refuse("create", path)
    }

    fn open(
        &self,
        path: &Path,
        access: Access,
        caching: Caching,
    ) -> Result<Arc<dyn DiskFile>, DiskError> {
        match access {
            Access::Read => self.below.open(path, access, caching),
            Access::ReadWrite => refuse("open for writing", path),
        }
    }

    fn publish(&self, path: &Path, _: &[u8]) -> Result<(), DiskError> {
        refuse("publish", path)
    }

    fn replace(&self, path: &Path, _: &[u8]) -> Result<(), DiskError> {
        refuse("replace", path)
    }

    fn read(&self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, DiskError> {
        self.below.read(path, limit_bytes)
    }

    fn list(&self, path: &Path) -> Result<Vec<DirectoryItem>, DiskError> {
        self.below.list(path)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        refuse("remove", path)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        refuse("remove the folder", path)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        refuse("sync the folder", path)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Send + Sync>, DiskError> {
        refuse("lock", path)
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.below.space()
    }

    fn local_root(&self) -> Option<&Path> {
        self.below.local_root()
    }
}
