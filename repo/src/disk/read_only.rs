//! A disk that nobody can write to, whatever is below it.

use std::io;
use std::path::{Path, PathBuf};
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

/// A file that is only read; it leaves the page cache alone, too.
#[derive(Debug)]
struct ReadOnlyFile {
    below: Arc<dyn DiskFile>,
    path: PathBuf,
}

impl DiskFile for ReadOnlyFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.below.read_at(offset, buffer)
    }

    fn read_vectored_at(
        &self,
        offset: u64,
        buffers: &mut [io::IoSliceMut<'_>],
    ) -> Result<usize, DiskError> {
        self.below.read_vectored_at(offset, buffers)
    }

    fn write_at(&self, _: u64, _: &[io::IoSlice<'_>]) -> Result<(), DiskError> {
        refuse("write", &self.path)
    }

    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn start_writeback(&self, _: u64, _: u64) {}

    fn length(&self) -> Result<u64, DiskError> {
        self.below.length()
    }

    fn set_length(&self, _: u64) -> Result<(), DiskError> {
        refuse("set the length of", &self.path)
    }

    fn punch(&self, _: u64, _: u64) {}
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
            Access::Read => Ok(Arc::new(ReadOnlyFile {
                below: self.below.open(path, access, caching)?,
                path: path.to_owned(),
            })),
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

    fn names(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        self.below.names(path)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        refuse("remove", path)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        refuse("remove the folder", path)
    }

    /// Nothing was changed that could be made durable.
    fn sync_directory(&self, _: &Path) -> Result<(), DiskError> {
        Ok(())
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
