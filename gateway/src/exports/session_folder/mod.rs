//! The folder of a recovery session, as NFS shows it.
//!
//! It holds the session's disks as files of fixed size, and whatever small files, folders and links a hypervisor makes
//! beside them. What is made is kept in the daemon's state folder: names and attributes in a log that is durable before
//! the answer ([`log`]), content in one file for each object. Ids count upwards and are never used again.
//!
//! Locks, in the order in which they are taken: `taking` is shared by all calls that change something and held alone by
//! the one that closes the folder; `changes` is held by whoever changes names and attributes, while the log is synced;
//! the table itself is locked only for moments, so that nobody who merely looks waits for a disk.

mod changes;
mod content;
mod log;
mod node;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use export::{
    Attributes, BlockExport, Caller, CreateMode, Created, DirectoryEntry, Durability, ExportError,
    FileExport, FileId, FileRead, SetAttributes, Statistics, Written,
};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use repo::clock::{Clock, SystemClock, UnixNanoseconds};

use super::{DiskFile, DiskFormat};
use content::Content;
use log::Log;
pub(crate) use node::timestamp;
use node::{Body, DiskKey, Node};
use table::Table;

/// A session's folder of disks and small files.
pub struct SessionFolder {
    disks: Vec<(DiskKey, DiskFile)>,
    content: Content,
    table: RwLock<Table>,
    changes: Mutex<Log>,
    taking: RwLock<Taking>,
    clock: Arc<dyn Clock>,
    limits: FolderLimits,
    space: PathBuf,
}

/// Whether calls that change something are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taking {
    Changes,
    /// Only calls that look: the restore point itself is shown.
    Looks,
    /// Somebody else may have the files by now.
    Nothing,
}

/// A disk in the folder.
pub struct FolderDisk {
    /// Its number in the restore point.
    pub number: usize,
    /// Its form; the file has the name that belongs to it until somebody renames it.
    pub format: DiskFormat,
    /// The disk, in that form.
    pub export: Arc<dyn BlockExport>,
}

impl FolderDisk {
    fn key(&self) -> DiskKey {
        DiskKey {
            number: self.number,
            format: self.format,
        }
    }
}

/// How much a hypervisor may make in one folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderLimits {
    /// Files, folders and links.
    pub files: usize,
    /// Space of all files together.
    pub file_bytes: u64,
}

/// Whether the folder takes changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FolderAccess {
    /// Disks and folder may be written.
    ReadWrite,
    /// Nothing may be written.
    ReadOnly,
}

impl SessionFolder {
    /// Opens the folder kept under `path`, or makes it there. Free space is that of the file system under `space`.
    ///
    /// # Errors
    /// If what is kept there cannot be read or is damaged.
    pub fn open(
        path: &Path,
        space: &Path,
        disks: Vec<FolderDisk>,
        access: FolderAccess,
        limits: FolderLimits,
    ) -> io::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let content = Content::open(&path.join("files"))?;
        let (mut log, mut table) = Log::open(path, clock.now())?;
        content.adopt(&mut table)?;
        for disk in &disks {
            if table.disk(disk.key()).is_none() {
                if let Some(text) = disk.format.descriptor(disk.export.as_ref(), disk.number) {
                    let name = disk.format.file_name(disk.number);
                    make_file(&mut log, &mut table, &content, (&name, text), clock.now())?;
                }
                let change = table.new_disk(disk.key(), clock.now());
                log.append(&change)?;
                table.apply(&change);
            }
        }
        let now = clock.now();
        for disk in &disks {
            // Nobody knows when the disk was written last, so it counts as written now: clients drop what they cached.
            table.set_disk(disk.key(), disk.export.properties().size_bytes, now);
        }
        Ok(Self {
            disks: disks
                .into_iter()
                .map(|disk| (disk.key(), DiskFile::new(disk.export)))
                .collect(),
            content,
            table: RwLock::new(table),
            changes: Mutex::new(log),
            taking: RwLock::new(match access {
                FolderAccess::ReadWrite => Taking::Changes,
                FolderAccess::ReadOnly => Taking::Looks,
            }),
            clock,
            limits,
            space: space.to_owned(),
        })
    }

    /// Whether the folder refuses changes.
    pub fn is_read_only(&self) -> bool {
        *self.taking.read() == Taking::Looks
    }

    /// Lets the changes that are under way end, and takes no more: the folder may be opened anew after this.
    pub fn close(&self) {
        *self.taking.write() = Taking::Nothing;
    }

    fn node(&self, file: FileId) -> Result<Arc<Node>, ExportError> {
        self.table.read().node(file)
    }

    fn disk(&self, key: DiskKey) -> Result<&DiskFile, ExportError> {
        let mut disks = self.disks.iter();
        let found = disks.find(|(disk, _)| *disk == key);
        found.map(|(_, disk)| disk).ok_or(ExportError::Stale)
    }

    /// The right to change something, which keeps the folder from being closed.
    fn writing(&self) -> Result<Writing<'_>, ExportError> {
        check_writing(self.taking.read())
    }

    fn written(&self, node: &Node, end: u64, durability: Durability) -> Written {
        let attributes = node.wrote(end, self.clock.now());
        Written {
            durability,
            attributes,
        }
    }

    fn write_file(
        &self,
        node: &Node,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<Written, ExportError> {
        let length: u64 = data.iter().map(|piece| piece.len() as u64).sum();
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= FILE_BYTES_MAX)
            .ok_or(ExportError::TooLarge)?;
        let _order = node.lock_content();
        let (size, used) = node.extent();
        // Nothing written lies nowhere: a write of no bytes behind the end does not make the file longer.
        let end = if length == 0 { size } else { end };
        // What is written over bytes that have their space takes no more.
        let growth = if end <= size && used >= size {
            0
        } else {
            length
        };
        self.content.check_room(growth, self.limits.file_bytes)?;
        let after = self.content.write(node.file(), offset, data, durability)?;
        self.content.settle(used, after);
        node.state().used_bytes = after;
        Ok(self.written(node, end, durability))
    }
}

/// Makes a small file with a name and a content, unless it is there. What a crash left of it is completed.
fn make_file(
    log: &mut Log,
    table: &mut Table,
    content: &Content,
    (name, text): (&str, String),
    now: UnixNanoseconds,
) -> io::Result<()> {
    if table.lookup(table::ROOT, name.as_bytes()).is_err() {
        let kind = log::Kind::File { verifier: None };
        let change = table.new_file(name, kind, now);
        content
            .create(FileId(table.next()))
            .map_err(io::Error::other)?;
        log.append(&change)?;
        table.apply(&change);
    }
    let file = table.lookup(table::ROOT, name.as_bytes());
    let node = file.and_then(|file| table.node(file));
    let node = node.map_err(io::Error::other)?;
    let end = text.len() as u64;
    if node.size() != end && matches!(node.body(), Body::File { .. }) {
        let before = node.state().used_bytes;
        let used = content
            .write(node.file(), 0, &[Bytes::from(text)], Durability::Stable)
            .map_err(io::Error::other)?;
        content.settle(before, used);
        node.state().used_bytes = used;
        node.wrote(end, now);
    }
    Ok(())
}

type Writing<'a> = RwLockReadGuard<'a, Taking>;

fn check_writing(taking: Writing<'_>) -> Result<Writing<'_>, ExportError> {
    match *taking {
        Taking::Changes => Ok(taking),
        Taking::Looks => Err(ExportError::ReadOnly),
        Taking::Nothing => Err(ExportError::Stale),
    }
}

impl FileExport for SessionFolder {
    fn root(&self) -> FileId {
        table::ROOT
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        let space = rustix::fs::statvfs(&self.space).map_err(|error| ExportError::Storage {
            detail: format!("cannot ask for free space: {error}").into(),
        })?;
        let files = self.table.read().count();
        Ok(Statistics {
            total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
            free_bytes: space.f_bfree.saturating_mul(space.f_frsize),
            available_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            total_files: self.limits.files as u64,
            free_files: self.limits.files.saturating_sub(files) as u64,
        })
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        Ok(self.node(file)?.attributes())
    }

    fn set_attributes(
        &self,
        _: &Caller,
        file: FileId,
        change: &SetAttributes,
    ) -> Result<Attributes, ExportError> {
        let _writing = self.writing()?;
        self.change_attributes(file, change)
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        self.table.read().lookup(directory, name)
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        let node = self.node(file)?;
        let size = node.size();
        let wanted =
            u32::try_from(u64::from(length).min(size.saturating_sub(offset))).unwrap_or(length);
        let data = match node.body() {
            Body::Disk(key) => self.disk(*key)?.read(offset, wanted)?,
            Body::File { .. } => self.content.read(file, offset, wanted)?,
            Body::Directory(_) => return Err(ExportError::IsDirectory),
            Body::Symlink(_) => return Err(ExportError::Invalid),
        };
        let end = offset.saturating_add(data.len() as u64) >= size || data.len() < wanted as usize;
        Ok(FileRead {
            data,
            end,
            attributes: Some(node.attributes()),
        })
    }

    fn read_cached(
        &self,
        file: FileId,
        offset: u64,
        length: u32,
    ) -> Option<Result<FileRead, ExportError>> {
        let node = self.node(file).ok()?;
        let Body::Disk(key) = node.body() else {
            return None;
        };
        let size = node.size();
        let wanted =
            u32::try_from(u64::from(length).min(size.saturating_sub(offset))).unwrap_or(length);
        let data = self.disk(*key).ok()?.read_cached(offset, wanted)?;
        Some(data.map(|data| {
            let end = offset.saturating_add(data.len() as u64) >= size;
            FileRead {
                data,
                end,
                attributes: Some(node.attributes()),
            }
        }))
    }

    fn write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<Written, ExportError> {
        let _writing = self.writing()?;
        let node = self.node(file)?;
        match node.body() {
            Body::Disk(key) => {
                let end = self.disk(*key)?.write(offset, data, durability)?;
                Ok(self.written(&node, end, durability))
            }
            Body::File { .. } => self.write_file(&node, offset, data, durability),
            Body::Directory(_) => Err(ExportError::IsDirectory),
            Body::Symlink(_) => Err(ExportError::Invalid),
        }
    }

    fn try_write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
    ) -> Option<Result<Written, ExportError>> {
        let _writing = check_writing(self.taking.try_read()?).ok()?;
        let node = self.node(file).ok()?;
        let Body::Disk(key) = node.body() else {
            return None;
        };
        let end = self.disk(*key).ok()?.try_write(offset, data)?;
        Some(end.map(|end| self.written(&node, end, Durability::Unstable)))
    }

    fn commit(&self, file: FileId) -> Result<Attributes, ExportError> {
        let node = self.node(file)?;
        match node.body() {
            Body::Disk(key) => self.disk(*key)?.flush()?,
            Body::File { .. } => self.content.sync(file)?,
            Body::Directory(_) | Body::Symlink(_) => {}
        }
        Ok(node.attributes())
    }

    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        self.table.read().list(directory, cookie, limit)
    }

    fn create(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        mode: CreateMode,
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let _writing = self.writing()?;
        self.create_file(caller, directory, name, mode, attributes)
    }

    fn create_directory(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let _writing = self.writing()?;
        self.create_other(caller, directory, name, node::Made::Directory, attributes)
    }

    fn create_symlink(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        target: &[u8],
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let _writing = self.writing()?;
        if target.is_empty() || target.len() > SYMLINK_BYTES_MAX {
            return Err(ExportError::NameTooLong);
        }
        self.create_other(
            caller,
            directory,
            name,
            node::Made::Symlink(target.into()),
            attributes,
        )
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        match self.node(file)?.body() {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(ExportError::Invalid),
        }
    }

    fn remove(&self, _: &Caller, directory: FileId, name: &[u8]) -> Result<(), ExportError> {
        let _writing = self.writing()?;
        self.remove_name(directory, name, changes::Wanted::NotDirectory)
    }

    fn remove_directory(
        &self,
        _: &Caller,
        directory: FileId,
        name: &[u8],
    ) -> Result<(), ExportError> {
        let _writing = self.writing()?;
        self.remove_name(directory, name, changes::Wanted::Directory)
    }

    fn rename(
        &self,
        _: &Caller,
        from_directory: FileId,
        from: &[u8],
        to_directory: FileId,
        to: &[u8],
    ) -> Result<(), ExportError> {
        let _writing = self.writing()?;
        self.move_name((from_directory, from), (to_directory, to))
    }
}

impl fmt::Debug for SessionFolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SessionFolder")
            .field("content", &self.content)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FolderDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FolderDisk")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Longest file a hypervisor can make: what `off_t` holds.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Longest target of a link, as Linux has it.
const SYMLINK_BYTES_MAX: usize = 4095;
