//! Disks that lie, and stand-ins for a repository that does, to see that the laboratory finds what follows.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repo::clock::{Clock, ManualClock, UnixNanoseconds, Uptime};
use repo::disk::{Access, Caching, DirectoryItem, Disk, DiskError, DiskFile, SimulatedDisk, Space};

use crate::rot::packs_on;

/// What is not done although somebody says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// It does everything.
    None,
    /// Packs are never synced.
    PackSync,
    /// Journals are never synced.
    JournalSync,
    /// The names of packs are never synced.
    PackFolderSync,
    /// Manifests have their name before their content is durable.
    PublishBeforeSync,
    /// The old file goes before the new one has its name.
    ReplaceInTwoSteps,
    /// A failed sync is answered with success.
    FailedSync,
    /// A failed write is answered with success.
    FailedWrite,
    /// A failed publication is answered with success.
    FailedPublication,
    /// Removed manifests stay.
    Removal,
    /// Reads of packs give zeroes in place of some pages.
    Zeroes,
    /// Removed packs stay.
    PackRemoval,
    /// With a pack goes another one.
    RemovesTooMuch,
    /// Tombstones are empty.
    EmptyTombstone,
    /// Stars and locks are not kept.
    MarkPublication,
    /// What is written back into packs is not.
    Mending,
    /// Whoever goes by this clock goes by what it is set to.
    UptimeThatIsSet,
    /// More bits flip than parity makes good.
    RotBeyondParity,
    /// What is lost shows as zeroes.
    ZeroesForLoss,
    /// A verification does not say what is lost.
    UnnamedLoss,
}

impl Lie {
    pub(crate) const ALL: &[Self] = &[
        Self::PackSync,
        Self::JournalSync,
        Self::PackFolderSync,
        Self::PublishBeforeSync,
        Self::ReplaceInTwoSteps,
        Self::FailedSync,
        Self::FailedWrite,
        Self::FailedPublication,
        Self::Removal,
        Self::Zeroes,
        Self::PackRemoval,
        Self::RemovesTooMuch,
        Self::EmptyTombstone,
        Self::MarkPublication,
        Self::Mending,
        Self::UptimeThatIsSet,
        Self::RotBeyondParity,
        Self::ZeroesForLoss,
        Self::UnnamedLoss,
    ];

    /// The disk, telling this lie.
    pub(crate) fn told_by(self, disk: &SimulatedDisk) -> Arc<dyn Disk> {
        match self {
            Self::None => Arc::new(disk.clone()),
            lie => Arc::new(LyingDisk {
                disk: disk.clone(),
                lie,
            }),
        }
    }

    /// The clock, telling this lie.
    pub(crate) fn told_by_clock(self, clock: &Arc<ManualClock>) -> Arc<dyn Clock> {
        let clock = Arc::clone(clock);
        match self {
            Self::UptimeThatIsSet => Arc::new(LyingClock(clock)),
            _ => clock,
        }
    }
}

#[derive(Debug)]
struct LyingDisk {
    disk: SimulatedDisk,
    lie: Lie,
}

#[derive(Debug)]
struct LyingFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    lie: Lie,
}

impl LyingDisk {
    fn file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(LyingFile {
            file,
            path: path.to_owned(),
            lie: self.lie,
        })
    }

    fn remove_another(&self, path: &Path) -> Result<(), DiskError> {
        let packs = packs_on(&self.disk);
        match packs.iter().find(|pack| pack.path != path) {
            Some(other) => self.disk.remove(&other.path),
            None => Ok(()),
        }
    }

    fn put_unsynced(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        let file = self.disk.create(path, Caching::Cached)?;
        file.write_at(0, &[IoSlice::new(content)])?;
        self.disk
            .sync_directory(path.parent().unwrap_or(Path::new("")))
    }
}

impl Disk for LyingDisk {
    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.create_directory(path)
    }

    fn create(&self, path: &Path, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        Ok(self.file(path, self.disk.create(path, caching)?))
    }

    fn open(
        &self,
        path: &Path,
        access: Access,
        caching: Caching,
    ) -> Result<Arc<dyn DiskFile>, DiskError> {
        Ok(self.file(path, self.disk.open(path, access, caching)?))
    }

    fn publish(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        match self.lie {
            Lie::PublishBeforeSync if path.starts_with("points") => {
                self.put_unsynced(path, content)
            }
            Lie::EmptyTombstone if named(path, ".expired") => self.disk.publish(path, b""),
            Lie::MarkPublication if named(path, ".star") || named(path, ".lock.") => Ok(()),
            Lie::FailedPublication => match self.disk.publish(path, content) {
                Err(error) if !error.is_taken() => Ok(()),
                other => other,
            },
            _ => self.disk.publish(path, content),
        }
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        if self.lie == Lie::ReplaceInTwoSteps {
            match self.disk.remove(path) {
                Err(error) if !error.is_missing() => return Err(error),
                _ => return self.put_unsynced(path, content),
            }
        }
        self.disk.replace(path, content)
    }

    fn read(&self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, DiskError> {
        self.disk.read(path, limit_bytes)
    }

    fn list(&self, path: &Path) -> Result<Vec<DirectoryItem>, DiskError> {
        self.disk.list(path)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        match self.lie {
            Lie::Removal if path.starts_with("points") => return Ok(()),
            Lie::PackRemoval if is_pack(path) => return Ok(()),
            Lie::RemovesTooMuch if is_pack(path) => self.remove_another(path)?,
            _ => {}
        }
        self.disk.remove(path)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.remove_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        if self.lie == Lie::PackFolderSync && path.starts_with("packs") {
            return Ok(());
        }
        self.disk.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Send + Sync>, DiskError> {
        self.disk.lock(path)
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.disk.space()
    }

    fn local_root(&self) -> Option<&Path> {
        None
    }
}

/// A clock whose time since the start is what it was set to.
#[derive(Debug)]
struct LyingClock(Arc<ManualClock>);

impl Clock for LyingClock {
    fn now(&self) -> UnixNanoseconds {
        self.0.now()
    }

    fn uptime(&self) -> Uptime {
        Uptime {
            nanoseconds: self.0.now().0,
            ..self.0.uptime()
        }
    }
}

fn is_pack(path: &Path) -> bool {
    path.starts_with("packs") && path.file_name().is_some_and(|name| name.len() == 17)
}

fn named(path: &Path, part: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains(part) && !name.contains(".released")
}

impl DiskFile for LyingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let count = self.file.read_at(offset, buffer)?;
        if self.lie == Lie::Zeroes
            && self.path.starts_with("packs")
            && offset.is_multiple_of(20_480)
        {
            buffer[..count].fill(0);
        }
        Ok(count)
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.lie == Lie::Mending
            && is_pack(&self.path)
            && offset + length as u64 <= self.file.length()?
        {
            return Ok(());
        }
        match self.file.write_at(offset, slices) {
            Err(_) if self.lie == Lie::FailedWrite => Ok(()),
            other => other,
        }
    }

    fn sync(&self) -> Result<(), DiskError> {
        let skipped = match self.lie {
            Lie::PackSync => self.path.starts_with("packs"),
            Lie::JournalSync => self.path.starts_with("overlays"),
            _ => false,
        };
        if skipped {
            return Ok(());
        }
        match self.file.sync() {
            Err(_) if self.lie == Lie::FailedSync => Ok(()),
            other => other,
        }
    }

    fn start_writeback(&self, offset: u64, length: u64) {
        self.file.start_writeback(offset, length);
    }

    fn forget_cached(&self) {
        self.file.forget_cached();
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
