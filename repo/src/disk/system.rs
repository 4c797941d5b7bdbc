//! A folder of the system's own file systems.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{Advice, CWD, FallocateFlags, FlockOperation, IFlags, Mode, OFlags};
use rustix::io::Errno;

use super::watch::{KnownFiles, OwnChange};
use super::{Access, Caching, DirectoryItem, Disk, DiskError, DiskFile, Protection, Space};

/// A folder on this machine.
#[derive(Debug)]
pub struct SystemDisk {
    root: PathBuf,
    temporary_names: AtomicU64,
    /// Folders known to be durable in the folders above them.
    durable: Mutex<HashSet<PathBuf>>,
    /// What we did to the files, for those who watch what others do.
    known: Option<Arc<KnownFiles>>,
}

impl SystemDisk {
    /// Uses the folder `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            // A relative path means the folder that it means now.
            root: std::path::absolute(&root).unwrap_or(root),
            temporary_names: AtomicU64::new(0),
            durable: Mutex::default(),
            known: None,
        }
    }

    /// The same, and takes note of every change that goes through it, so that changes of others can be told apart.
    pub fn watched(root: impl Into<PathBuf>) -> Self {
        let mut disk = Self::new(root);
        disk.known = Some(KnownFiles::new(&disk.root));
        disk
    }

    /// Announces a change of ours.
    fn own(&self, full: &Path) -> Option<OwnChange> {
        self.known.as_ref().and_then(|known| known.own(full))
    }

    fn full(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Makes a folder and those above it, each durable in the one above. One that is there may have been made just
    /// before a crash, so it is synced once, too; what lies above the root is taken as it is.
    fn create_durably(&self, full: &Path) -> Result<(), DiskError> {
        if self.durable.lock().contains(full) || (full.is_dir() && !full.starts_with(&self.root)) {
            return Ok(());
        }
        if let Some(parent) = full.parent() {
            self.create_durably(parent)?;
        }
        match fs::create_dir(full) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(DiskError::new("create the folder", full, error));
            }
            _ => sync_parent(full)?,
        }
        self.durable.lock().insert(full.to_owned());
        Ok(())
    }

    /// Writes `content` to a synced file with a name that nobody uses.
    fn write_temporary(&self, full: &Path, content: &[u8]) -> Result<PathBuf, DiskError> {
        let (temporary, mut file) = self.create_temporary(full)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        if let Err(error) = written {
            drop(fs::remove_file(&temporary));
            return Err(DiskError::new("write", full, error));
        }
        Ok(temporary)
    }

    /// Makes a file beside `full`. A name that is taken is not touched: a process that had our number and was killed may
    /// have left it, and what it published may have the same inode.
    fn create_temporary(&self, full: &Path) -> Result<(PathBuf, File), DiskError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        loop {
            let number = self.temporary_names.fetch_add(1, Ordering::Relaxed);
            let name = format!("{TEMPORARY_PREFIX}{}-{number}", std::process::id());
            let temporary = full.with_file_name(name);
            match rustix::fs::openat(CWD, &temporary, flags, Mode::from(0o600)) {
                Ok(file) => return Ok((temporary, File::from(file))),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(DiskError::new("write", full, error)),
            }
        }
    }
}

impl Disk for SystemDisk {
    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.create_durably(&self.full(path))
    }

    fn create(&self, path: &Path, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let full = self.full(path);
        let _own = self.own(&full);
        open_file("create", full, flags, caching, self.known.clone())
    }

    fn open(
        &self,
        path: &Path,
        access: Access,
        caching: Caching,
    ) -> Result<Arc<dyn DiskFile>, DiskError> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        open_file("open", self.full(path), flags, caching, self.known.clone())
    }

    fn publish(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        let full = self.full(path);
        let _own = self.own(&full);
        let temporary = self.write_temporary(&full, content)?;
        let linked = fs::hard_link(&temporary, &full);
        drop(fs::remove_file(&temporary));
        linked.map_err(|error| DiskError::new("publish", &full, error))?;
        sync_parent(&full)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        let full = self.full(path);
        let _own = self.own(&full);
        let temporary = self.write_temporary(&full, content)?;
        if let Err(error) = rustix::fs::renameat(CWD, &temporary, CWD, &full) {
            drop(fs::remove_file(&temporary));
            return Err(DiskError::new("replace", &full, error));
        }
        sync_parent(&full)
    }

    fn read(&self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, DiskError> {
        let full = self.full(path);
        let error = |error| DiskError::new("read", &full, error);
        let file = File::open(&full).map_err(error)?;
        let mut content = Vec::new();
        file.take(limit_bytes + 1)
            .read_to_end(&mut content)
            .map_err(error)?;
        if content.len() as u64 > limit_bytes {
            return Err(error(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than {limit_bytes} bytes"),
            )));
        }
        Ok(content)
    }

    fn list(&self, path: &Path) -> Result<Vec<DirectoryItem>, DiskError> {
        let full = self.full(path);
        let error = |error| DiskError::new("list", &full, error);
        let mut items = Vec::new();
        for entry in fs::read_dir(&full).map_err(error)? {
            let entry = entry.map_err(error)?;
            let metadata = match entry.metadata() {
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(error)?,
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(TEMPORARY_PREFIX) {
                continue;
            }
            let is_directory = metadata.is_dir();
            let length_bytes = if is_directory { 0 } else { metadata.len() };
            items.push(DirectoryItem {
                name,
                length_bytes,
                is_directory,
            });
        }
        items.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(items)
    }

    fn names(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let full = self.full(path);
        let error = |error| DiskError::new("list", &full, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&full).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        names.retain(|name| !name.starts_with(TEMPORARY_PREFIX));
        names.sort();
        Ok(names)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let full = self.full(path);
        let _own = self.own(&full);
        fs::remove_file(&full).map_err(|error| DiskError::new("remove", &full, error))
    }

    fn remove_unfinished(&self, path: &Path) {
        let Ok(entries) = fs::read_dir(self.full(path)) else {
            return;
        };
        for entry in entries.flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let name = entry.file_name();
            if is_folder {
                self.remove_unfinished(&path.join(name));
            } else if name
                .as_encoded_bytes()
                .starts_with(TEMPORARY_PREFIX.as_bytes())
            {
                match fs::remove_file(entry.path()) {
                    Ok(()) => {
                        tracing::info!(path = %entry.path().display(), "removed an unfinished file")
                    }
                    // What was published from it may be protected by now, and this with it: one inode.
                    Err(error) => {
                        tracing::debug!(path = %entry.path().display(), %error, "an unfinished file stays");
                    }
                }
            }
        }
    }

    fn set_immutable(&self, path: &Path, immutable: bool) -> Result<Protection, DiskError> {
        let full = self.full(path);
        let error = |error: Errno| DiskError::new("set the attributes of", &full, error);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(CWD, &full, flags, Mode::empty()).map_err(error)?;
        let before = match rustix::fs::ioctl_getflags(&file) {
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return Ok(Protection::Unsupported);
            }
            other => other.map_err(error)?,
        };
        let mut after = before;
        after.set(IFlags::IMMUTABLE, immutable);
        if after == before {
            return Ok(Protection::Done);
        }
        match rustix::fs::ioctl_setflags(&file, after) {
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                Ok(Protection::Unsupported)
            }
            Err(Errno::PERM | Errno::ACCESS) => Ok(Protection::NotPermitted),
            other => other.map(|()| Protection::Done).map_err(error),
        }
    }

    fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        let full = self.full(path);
        let _own = self.known.as_ref().map(|known| known.own_below(&full));
        self.durable
            .lock()
            .retain(|folder| !folder.starts_with(&full));
        fs::remove_dir_all(&full).map_err(|error| DiskError::new("remove the folder", &full, error))
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        let full = self.full(path);
        File::open(&full)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| DiskError::new("sync the folder", &full, error))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Send + Sync>, DiskError> {
        let full = self.full(path);
        let error = |error: Errno| DiskError::new("lock", &full, error);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::open(&full, flags, Mode::from(0o600)).map_err(error)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(error)?;
        Ok(Box::new(file))
    }

    fn space(&self) -> Result<Space, DiskError> {
        let statistics = rustix::fs::statvfs(&self.root)
            .map_err(|error| DiskError::new("measure", &self.root, error))?;
        Ok(Space {
            total_bytes: statistics.f_blocks * statistics.f_frsize,
            available_bytes: statistics.f_bavail * statistics.f_frsize,
        })
    }

    fn local_root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn known_files(&self) -> Option<&Arc<KnownFiles>> {
        self.known.as_ref()
    }
}

#[derive(Debug)]
struct SystemFile {
    file: File,
    path: PathBuf,
    known: Option<Arc<KnownFiles>>,
}

impl SystemFile {
    /// Announces a change of ours.
    fn own(&self) -> Option<OwnChange> {
        self.known
            .as_ref()
            .and_then(|known| known.own_content(&self.path))
    }
}

impl DiskFile for SystemFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A direct read that goes on from an unaligned end of file.
                Err(_) if done > 0 && !done.is_multiple_of(super::DIRECT_ALIGNMENT) => break,
                Err(error) => return Err(DiskError::new("read", &self.path, error)),
            }
        }
        Ok(done)
    }

    fn read_vectored_at(
        &self,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Result<usize, DiskError> {
        let mut done = 0;
        let mut rest = buffers;
        while !rest.is_empty() {
            let count = rest.len().min(VECTOR_MAX);
            let batch = rest.get_mut(..count).unwrap_or_default();
            match rustix::io::preadv(&self.file, batch, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    IoSliceMut::advance_slices(&mut rest, count);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(DiskError::new("read", &self.path, error)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, mut offset: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError> {
        let _own = self.own();
        let mut rest: Vec<IoSlice<'_>> = slices.to_vec();
        let mut rest = rest.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let batch = rest.get(..rest.len().min(VECTOR_MAX)).unwrap_or_default();
            match rustix::io::pwritev(&self.file, batch, offset) {
                Ok(0) => {
                    return Err(DiskError::new(
                        "write",
                        &self.path,
                        io::ErrorKind::WriteZero,
                    ));
                }
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut rest, count);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(DiskError::new("write", &self.path, error)),
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        rustix::fs::fdatasync(&self.file).map_err(|error| DiskError::new("sync", &self.path, error))
    }

    fn start_writeback(&self, _offset: u64, _length: u64) {
        // `sync_file_range` has no safe wrapper; the kernel's own flusher starts after a few seconds anyway.
    }

    fn forget_cached(&self) {
        if let Err(error) = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed) {
            tracing::debug!(path = %self.path.display(), %error, "a file stays in the page cache");
        }
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.file
            .metadata()
            .map(|metadata| metadata.len())
            .map_err(|error| DiskError::new("measure", &self.path, error))
    }

    fn set_length(&self, length: u64) -> Result<(), DiskError> {
        let _own = self.own();
        self.file
            .set_len(length)
            .map_err(|error| DiskError::new("set the length of", &self.path, error))
    }

    fn punch(&self, offset: u64, length: u64) {
        let _own = self.own();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = rustix::fs::fallocate(&self.file, flags, offset, length) {
            tracing::debug!(path = %self.path.display(), %error, "a range keeps its space");
        }
    }
}

fn open_file(
    action: &'static str,
    full: PathBuf,
    flags: OFlags,
    caching: Caching,
    known: Option<Arc<KnownFiles>>,
) -> Result<Arc<dyn DiskFile>, DiskError> {
    let flags = flags | OFlags::CLOEXEC;
    let mode = Mode::from(0o600);
    let opened = match caching {
        Caching::Cached => rustix::fs::openat(CWD, &full, flags, mode),
        Caching::Direct => match rustix::fs::openat(CWD, &full, flags | OFlags::DIRECT, mode) {
            Err(Errno::INVAL) => {
                // The file system cannot; with O_EXCL the refused call may have left the name behind.
                rustix::fs::openat(CWD, &full, flags.difference(OFlags::EXCL), mode)
            }
            other => other,
        },
    };
    let file = opened.map_err(|error| DiskError::new(action, &full, error))?;
    Ok(Arc::new(SystemFile {
        file: File::from(file),
        path: full,
        known,
    }))
}

fn sync_parent(full: &Path) -> Result<(), DiskError> {
    let parent = full.parent().unwrap_or(Path::new("/"));
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(|error| DiskError::new("sync the folder", parent, error))
}

/// Files that [`Disk::publish`] has not finished.
pub(super) const TEMPORARY_PREFIX: &str = ".tmp-";

/// Slices that one system call takes (`IOV_MAX`).
const VECTOR_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_refuses_a_taken_name_and_leaves_it_whole() {
        let folder = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(folder.path());
        disk.publish(Path::new("a"), b"first").unwrap();
        assert!(
            disk.publish(Path::new("a"), b"second")
                .unwrap_err()
                .is_taken()
        );
        assert_eq!(disk.read(Path::new("a"), 100).unwrap(), b"first");
        disk.replace(Path::new("a"), b"third").unwrap();
        assert_eq!(disk.read(Path::new("a"), 100).unwrap(), b"third");
        assert_eq!(disk.list(Path::new("")).unwrap().len(), 1);
        assert!(disk.read(Path::new("a"), 4).is_err());
    }

    #[test]
    fn what_a_killed_process_of_the_same_number_published_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(folder.path());
        disk.publish(Path::new("a"), b"first").unwrap();
        // It was killed between the link and the removal of the name it had first.
        let left = format!("{TEMPORARY_PREFIX}{}-0", std::process::id());
        fs::hard_link(folder.path().join("a"), folder.path().join(left)).unwrap();
        let next = SystemDisk::new(folder.path());
        next.publish(Path::new("b"), b"second").unwrap();
        next.replace(Path::new("c"), b"third").unwrap();
        assert_eq!(next.read(Path::new("a"), 100).unwrap(), b"first");
        assert_eq!(next.read(Path::new("b"), 100).unwrap(), b"second");
        assert_eq!(next.read(Path::new("c"), 100).unwrap(), b"third");
    }

    #[test]
    fn what_killed_processes_left_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(folder.path());
        disk.create_directory(Path::new("a/b")).unwrap();
        disk.publish(Path::new("a/b/kept"), b"kept").unwrap();
        for left in ["a/b/.tmp-77-0", "a/.tmp-77-1"] {
            fs::hard_link(folder.path().join("a/b/kept"), folder.path().join(left)).unwrap();
        }
        fs::write(folder.path().join(".tmp-elsewhere"), b"not below").unwrap();
        disk.remove_unfinished(Path::new("a"));
        let names = |path: &str| -> Vec<_> {
            let entries = fs::read_dir(folder.path().join(path)).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(names("a/b"), ["kept"]);
        assert_eq!(names("a"), ["b"]);
        assert_eq!(names("").len(), 2);
        assert_eq!(disk.read(Path::new("a/b/kept"), 10).unwrap(), b"kept");
    }

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(folder.path());
        let held = disk.lock(Path::new("lock")).unwrap();
        assert!(disk.lock(Path::new("lock")).is_err());
        drop(held);
        assert!(disk.lock(Path::new("lock")).is_ok());
    }

    #[test]
    fn vectors_longer_than_the_system_takes_are_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(folder.path());
        let file = disk.create(Path::new("long"), Caching::Cached).unwrap();
        let bytes: Vec<u8> = (0..3000_u32).map(|number| (number % 251) as u8).collect();
        let slices: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
        file.write_at(0, &slices).unwrap();
        assert_eq!(disk.read(Path::new("long"), 10_000).unwrap(), bytes);
        let mut parts = vec![[0; 2]; 2000];
        let mut buffers: Vec<_> = parts.iter_mut().map(|part| IoSliceMut::new(part)).collect();
        let there = file.read_vectored_at(500, &mut buffers).unwrap();
        assert_eq!(there, 2500, "the file ends there");
        assert_eq!(parts.concat()[..2500], bytes[500..]);
    }
}
