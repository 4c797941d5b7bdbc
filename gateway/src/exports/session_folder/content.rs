//! Content of the small files: one file of the host for each, named by id.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use export::{Durability, ExportError, FileId, Segments};
use repo::clock::UnixNanoseconds;

use super::node::Body;
use super::table::Table;

/// The folder of contents, and the bytes in it.
#[derive(Debug)]
pub(super) struct Content {
    folder: PathBuf,
    used_bytes: AtomicU64,
}

impl Content {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            used_bytes: AtomicU64::new(0),
        })
    }

    /// Takes lengths and times of the files that the table names, and removes those that it does not name: they were
    /// made but never answered, or removed and not yet gone.
    pub(super) fn adopt(&self, table: &mut Table) -> io::Result<()> {
        for node in table.nodes() {
            if matches!(node.body(), Body::File { .. }) {
                let metadata = std::fs::metadata(self.path(node.file()))?;
                let modified = metadata
                    .modified()?
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                let modified =
                    UnixNanoseconds(u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX));
                let mut state = node.state();
                state.size_bytes = metadata.len();
                state.modified = modified;
                state.changed = state.changed.max(modified);
                state.used_bytes = allocated(&metadata);
                self.used_bytes
                    .fetch_add(state.used_bytes, Ordering::Relaxed);
            }
        }
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| u64::from_str_radix(name, 16).ok());
            let known = id.is_some_and(|id| {
                table
                    .node(FileId(id))
                    .is_ok_and(|node| matches!(node.body(), Body::File { .. }))
            });
            if !known {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes an empty content, durably.
    pub(super) fn create(&self, file: FileId) -> Result<(), ExportError> {
        let make = || -> io::Result<()> {
            // One that a failed create left behind is as good as new.
            let made = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(self.path(file))?;
            made.sync_all()?;
            File::open(&self.folder)?.sync_all()
        };
        make().map_err(|error| self.failed("create", file, &error))
    }

    /// Removes a content that no name leads to, and that took `used_bytes`.
    pub(super) fn remove(&self, file: FileId, used_bytes: u64) {
        self.settle(used_bytes, 0);
        if let Err(error) = std::fs::remove_file(self.path(file)) {
            tracing::warn!(file = file.0, %error, "a removed file's content stays until the next start");
        }
    }

    pub(super) fn read(
        &self,
        file: FileId,
        offset: u64,
        length: u32,
    ) -> Result<Segments, ExportError> {
        let open =
            File::open(self.path(file)).map_err(|error| self.failed("open", file, &error))?;
        let mut buffer = BytesMut::zeroed(length as usize);
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match open.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("read", file, &error)),
            }
        }
        buffer.truncate(filled);
        Ok(buffer.freeze().into())
    }

    /// Writes, and says how much space the content takes then.
    pub(super) fn write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<u64, ExportError> {
        let write = || -> io::Result<u64> {
            let open = OpenOptions::new().write(true).open(self.path(file))?;
            let mut at = offset;
            for piece in data {
                open.write_all_at(piece, at)?;
                at += piece.len() as u64;
            }
            if durability == Durability::Stable {
                open.sync_all()?;
            }
            Ok(allocated(&open.metadata()?))
        };
        write().map_err(|error| self.failed("write", file, &error))
    }

    pub(super) fn sync(&self, file: FileId) -> Result<(), ExportError> {
        File::open(self.path(file))
            .and_then(|open| open.sync_all())
            .map_err(|error| self.failed("sync", file, &error))
    }

    /// Cuts or extends, durably, and says how much space the content takes then.
    pub(super) fn set_length(&self, file: FileId, length: u64) -> Result<u64, ExportError> {
        let set = || -> io::Result<u64> {
            let open = OpenOptions::new().write(true).open(self.path(file))?;
            open.set_len(length)?;
            open.sync_all()?;
            Ok(allocated(&open.metadata()?))
        };
        set().map_err(|error| self.failed("set the length of", file, &error))
    }

    /// Sets the time of the last change, which is kept with the content.
    pub(super) fn set_modified(
        &self,
        file: FileId,
        time: UnixNanoseconds,
    ) -> Result<(), ExportError> {
        let time = std::time::UNIX_EPOCH + Duration::from_nanos(time.0);
        let set = || -> io::Result<()> {
            let open = OpenOptions::new().write(true).open(self.path(file))?;
            open.set_modified(time)?;
            open.sync_all()
        };
        set().map_err(|error| self.failed("set the time of", file, &error))
    }

    /// Refuses what would take more space than `limit`. Writes that run side by side may pass it by their own length.
    pub(super) fn check_room(&self, growth: u64, limit: u64) -> Result<(), ExportError> {
        let used = self.used_bytes.load(Ordering::Relaxed);
        if growth == 0 || used.checked_add(growth).is_some_and(|sum| sum <= limit) {
            return Ok(());
        }
        let detail =
            format!("the session's small files take {used} of {limit} bytes (recovery.file_bytes)");
        Err(ExportError::NoSpace {
            detail: detail.into(),
        })
    }

    /// Notes that a content that took `before` bytes takes `after` now.
    pub(super) fn settle(&self, before: u64, after: u64) {
        if after >= before {
            self.used_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    fn path(&self, file: FileId) -> PathBuf {
        self.folder.join(format!("{:016x}", file.0))
    }

    fn failed(&self, action: &str, file: FileId, error: &io::Error) -> ExportError {
        let detail = format!("cannot {action} {}: {error}", self.path(file).display()).into();
        match error.kind() {
            io::ErrorKind::NotFound => ExportError::Stale,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ExportError::NoSpace { detail }
            }
            io::ErrorKind::FileTooLarge => ExportError::TooLarge,
            _ => ExportError::Storage { detail },
        }
    }
}

/// Space of a file of the host, which counts in units of 512 bytes.
fn allocated(metadata: &std::fs::Metadata) -> u64 {
    metadata.blocks().saturating_mul(512)
}
