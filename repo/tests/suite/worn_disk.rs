//! A disk with bad sectors over a simulated one.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use repo::disk::{Access, Caching, DirectoryItem, Disk, DiskError, DiskFile, SimulatedDisk, Space};

/// Files and their ranges that cannot be read.
type BadRanges = Vec<(PathBuf, Range<u64>)>;

/// Reads of bad ranges fail until they are written again.
#[derive(Debug, Clone)]
pub(crate) struct WornDisk {
    below: SimulatedDisk,
    bad: Arc<Mutex<BadRanges>>,
}

impl WornDisk {
    pub(crate) fn new(below: SimulatedDisk) -> Self {
        Self {
            below,
            bad: Arc::default(),
        }
    }

    /// Makes a range of a file unreadable.
    pub(crate) fn wear(&self, path: &Path, range: Range<u64>) {
        self.bad.lock().unwrap().push((path.to_owned(), range));
    }

    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(WornFile {
            file,
            path: path.to_owned(),
            bad: Arc::clone(&self.bad),
        })
    }
}

impl Disk for WornDisk {
    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.below.create_directory(path)
    }

    fn create(&self, path: &Path, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        Ok(self.wrap(path, self.below.create(path, caching)?))
    }

    fn open(
        &self,
        path: &Path,
        access: Access,
        caching: Caching,
    ) -> Result<Arc<dyn DiskFile>, DiskError> {
        Ok(self.wrap(path, self.below.open(path, access, caching)?))
    }

    fn publish(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        self.below.publish(path, content)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        self.bad.lock().unwrap().retain(|(worn, _)| worn != path);
        self.below.replace(path, content)
    }

    fn read(&self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, DiskError> {
        self.below.read(path, limit_bytes)
    }

    fn list(&self, path: &Path) -> Result<Vec<DirectoryItem>, DiskError> {
        self.below.list(path)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.below.remove(path)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.below.remove_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.below.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Send + Sync>, DiskError> {
        self.below.lock(path)
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.below.space()
    }

    fn local_root(&self) -> Option<&Path> {
        None
    }
}

#[derive(Debug)]
struct WornFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    bad: Arc<Mutex<BadRanges>>,
}

impl DiskFile for WornFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let end = offset + buffer.len() as u64;
        let bad = self.bad.lock().unwrap();
        let met = bad
            .iter()
            .any(|(path, range)| *path == self.path && range.start < end && offset < range.end);
        if met {
            return Err(DiskError {
                action: "read",
                path: self.path.clone(),
                source: io::Error::other("input/output error"),
            });
        }
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let end = offset + length as u64;
        self.file.write_at(offset, slices)?;
        // What is written is given a spare sector.
        let mut bad = self.bad.lock().unwrap();
        let worn = std::mem::take(&mut *bad);
        for (path, range) in worn {
            if path != self.path {
                bad.push((path, range));
                continue;
            }
            for rest in [
                range.start..offset.min(range.end),
                end.max(range.start)..range.end,
            ] {
                if rest.start < rest.end {
                    bad.push((path.clone(), rest));
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync()
    }

    fn start_writeback(&self, offset: u64, length: u64) {
        self.file.start_writeback(offset, length);
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.file.length()
    }

    fn set_length(&self, length: u64) -> Result<(), DiskError> {
        self.file.set_length(length)
    }

    fn punch(&self, offset: u64, length: u64) {
        self.file.punch(offset, length);
    }
}
