//! The folder of all sessions: what NFS clients see at `/`.
//!
//! Ids hold the session's number above the object's own id, so that both stay unique.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use export::{
    Attributes, Caller, CreateMode, Created, DirectoryEntry, Durability, ExportError, FileExport,
    FileId, FileKind, FileRead, SetAttributes, Statistics, Written,
};
use repo::clock::UnixNanoseconds;

use super::Exports;
use super::directory::ServedSession;
use super::session_folder::timestamp;

/// All sessions as one tree. The folder itself cannot be changed; what lies in a session can.
#[derive(Debug)]
pub struct SessionsTree {
    exports: Weak<Exports>,
}

impl SessionsTree {
    /// The tree of what `exports` serves.
    pub(super) fn new(exports: Weak<Exports>) -> Self {
        Self { exports }
    }

    /// The session of an object and the object's id there.
    fn session(&self, file: FileId) -> Result<(Inside, FileId), ExportError> {
        let number = file.0 >> SESSION_SHIFT;
        let exports = self.exports.upgrade().ok_or(ExportError::ShuttingDown)?;
        let session = exports
            .session_by_number(number)
            .ok_or(ExportError::Stale)?;
        Ok((Inside { session }, FileId(file.0 & INNER_MASK)))
    }

    fn sessions(&self) -> Result<Vec<Inside>, ExportError> {
        let exports = self.exports.upgrade().ok_or(ExportError::ShuttingDown)?;
        let sessions = exports
            .sessions()
            .into_iter()
            .filter(|session| session.folder.is_some());
        Ok(sessions.map(|session| Inside { session }).collect())
    }

    fn own_attributes(&self) -> Attributes {
        let folders = self.sessions().map_or(0, |sessions| sessions.len());
        let changed = self
            .exports
            .upgrade()
            .map_or(UnixNanoseconds(0), |exports| exports.changed());
        let time = timestamp(changed);
        Attributes {
            file: ROOT,
            kind: FileKind::Directory,
            mode: 0o555,
            links: 2 + u32::try_from(folders).unwrap_or(u32::MAX - 2),
            uid: 0,
            gid: 0,
            size_bytes: 4096,
            used_bytes: 4096,
            accessed: time,
            modified: time,
            changed: time,
        }
    }
}

/// A session seen from above.
struct Inside {
    session: Arc<ServedSession>,
}

impl Inside {
    fn tree(&self) -> Result<&super::SessionFolder, ExportError> {
        self.session.folder.as_deref().ok_or(ExportError::Stale)
    }

    fn outer(&self, file: FileId) -> FileId {
        FileId(self.session.number << SESSION_SHIFT | file.0 & INNER_MASK)
    }

    fn attributes(&self, attributes: Attributes) -> Attributes {
        Attributes {
            file: self.outer(attributes.file),
            ..attributes
        }
    }

    fn created(&self, created: Created) -> Created {
        Created {
            file: self.outer(created.file),
            attributes: self.attributes(created.attributes),
        }
    }

    fn file_read(&self, read: FileRead) -> FileRead {
        FileRead {
            attributes: read
                .attributes
                .map(|attributes| self.attributes(attributes)),
            ..read
        }
    }

    fn written(&self, written: Written) -> Written {
        Written {
            attributes: self.attributes(written.attributes),
            ..written
        }
    }

    fn root_entry(&self) -> Result<DirectoryEntry, ExportError> {
        let tree = self.tree()?;
        let root = tree.root();
        Ok(DirectoryEntry {
            file: self.outer(root),
            name: self.session.name.clone().into_bytes(),
            cookie: self.session.number + COOKIES_BEFORE,
            attributes: self.attributes(tree.attributes(root)?),
        })
    }
}

impl FileExport for SessionsTree {
    fn root(&self) -> FileId {
        ROOT
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        match self.sessions()?.first() {
            Some(session) => session.tree()?.statistics(),
            None => Ok(Statistics {
                total_bytes: 0,
                free_bytes: 0,
                available_bytes: 0,
                total_files: 0,
                free_files: 0,
            }),
        }
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        if file == ROOT {
            return Ok(self.own_attributes());
        }
        let (session, inner) = self.session(file)?;
        Ok(session.attributes(session.tree()?.attributes(inner)?))
    }

    fn set_attributes(
        &self,
        caller: &Caller,
        file: FileId,
        change: &SetAttributes,
    ) -> Result<Attributes, ExportError> {
        if file == ROOT {
            return Err(ExportError::ReadOnly);
        }
        let (session, inner) = self.session(file)?;
        Ok(session.attributes(session.tree()?.set_attributes(caller, inner, change)?))
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        if directory == ROOT {
            if matches!(name, b"." | b"..") {
                return Ok(ROOT);
            }
            let found = self
                .sessions()?
                .into_iter()
                .find(|session| session.session.name.as_bytes() == name);
            let session = found.ok_or(ExportError::NotFound)?;
            return Ok(session.outer(session.tree()?.root()));
        }
        let (session, inner) = self.session(directory)?;
        let tree = session.tree()?;
        if inner == tree.root() && name == b".." {
            return Ok(ROOT);
        }
        Ok(session.outer(tree.lookup(inner, name)?))
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        if file == ROOT {
            return Err(ExportError::IsDirectory);
        }
        let (session, inner) = self.session(file)?;
        Ok(session.file_read(session.tree()?.read(inner, offset, length)?))
    }

    fn read_cached(
        &self,
        file: FileId,
        offset: u64,
        length: u32,
    ) -> Option<Result<FileRead, ExportError>> {
        let (session, inner) = self.session(file).ok()?;
        let read = session.tree().ok()?.read_cached(inner, offset, length)?;
        Some(read.map(|read| session.file_read(read)))
    }

    fn write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<Written, ExportError> {
        if file == ROOT {
            return Err(ExportError::IsDirectory);
        }
        let (session, inner) = self.session(file)?;
        Ok(session.written(session.tree()?.write(inner, offset, data, durability)?))
    }

    fn try_write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
    ) -> Option<Result<Written, ExportError>> {
        let (session, inner) = self.session(file).ok()?;
        let written = session.tree().ok()?.try_write(inner, offset, data)?;
        Some(written.map(|written| session.written(written)))
    }

    fn commit(&self, file: FileId) -> Result<Attributes, ExportError> {
        if file == ROOT {
            return Ok(self.own_attributes());
        }
        let (session, inner) = self.session(file)?;
        Ok(session.attributes(session.tree()?.commit(inner)?))
    }

    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        if directory == ROOT {
            let mut sessions = self.sessions()?;
            sessions.sort_by_key(|session| session.session.number);
            let after = sessions
                .iter()
                .filter(|session| session.session.number + COOKIES_BEFORE > cookie);
            return after.take(limit).map(Inside::root_entry).collect();
        }
        let (session, inner) = self.session(directory)?;
        let entries = session.tree()?.list(inner, cookie, limit)?;
        Ok(entries
            .into_iter()
            .map(|entry| DirectoryEntry {
                file: session.outer(entry.file),
                attributes: session.attributes(entry.attributes),
                ..entry
            })
            .collect())
    }

    fn create(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        mode: CreateMode,
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let (session, inner) = self.inside(directory)?;
        Ok(session.created(
            session
                .tree()?
                .create(caller, inner, name, mode, attributes)?,
        ))
    }

    fn create_directory(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let (session, inner) = self.inside(directory)?;
        Ok(session.created(
            session
                .tree()?
                .create_directory(caller, inner, name, attributes)?,
        ))
    }

    fn create_symlink(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        target: &[u8],
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let (session, inner) = self.inside(directory)?;
        Ok(session.created(
            session
                .tree()?
                .create_symlink(caller, inner, name, target, attributes)?,
        ))
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        let (session, inner) = self.session(file)?;
        session.tree()?.read_symlink(inner)
    }

    fn remove(&self, caller: &Caller, directory: FileId, name: &[u8]) -> Result<(), ExportError> {
        let (session, inner) = self.inside(directory)?;
        session.tree()?.remove(caller, inner, name)
    }

    fn remove_directory(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
    ) -> Result<(), ExportError> {
        let (session, inner) = self.inside(directory)?;
        session.tree()?.remove_directory(caller, inner, name)
    }

    fn rename(
        &self,
        caller: &Caller,
        from_directory: FileId,
        from: &[u8],
        to_directory: FileId,
        to: &[u8],
    ) -> Result<(), ExportError> {
        let (session, from_inner) = self.inside(from_directory)?;
        let (other, to_inner) = self.inside(to_directory)?;
        if session.session.number != other.session.number {
            return Err(ExportError::NotSupported);
        }
        session
            .tree()?
            .rename(caller, from_inner, from, to_inner, to)
    }
}

impl SessionsTree {
    /// Like `session`, for changes: the folder of sessions itself takes none.
    fn inside(&self, directory: FileId) -> Result<(Inside, FileId), ExportError> {
        if directory == ROOT {
            return Err(ExportError::ReadOnly);
        }
        self.session(directory)
    }
}

const ROOT: FileId = FileId(1);

/// Object ids count from 16 and upwards one by one: 2^40 are enough for ever.
const SESSION_SHIFT: u32 = 40;
const INNER_MASK: u64 = (1 << SESSION_SHIFT) - 1;

/// Cookies 0, 1 and 2 belong to the servers.
const COOKIES_BEFORE: u64 = 16;
