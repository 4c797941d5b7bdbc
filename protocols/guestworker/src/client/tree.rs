//! The files of a volume, as a worker reads them.

use std::sync::Arc;

use export::{
    Attributes, DirectoryEntry, ExportError, ExtendedAttribute, FileExport, FileId, FileRead,
    Particulars, Segments, Statistics,
};

use quick_cache::sync::Cache;

use crate::reader::Refusal;
use crate::wire::{Ask, ENTRIES_MAX, Found, Malformed, NAME_BYTES_MAX, READ_BYTES_MAX, Wire};

use super::Inner;

/// A tree whose every answer comes from another process, and is looked at before it is believed. Attributes that came with
/// another answer are kept for a while, as nobody changes them.
pub(super) struct WorkerTree {
    worker: Arc<Inner>,
    volume: u32,
    root: FileId,
    known: Cache<FileId, Attributes>,
}

impl WorkerTree {
    pub(super) fn new(worker: Arc<Inner>, volume: u32, root: FileId) -> Self {
        Self {
            worker,
            volume,
            root,
            known: Cache::new(KNOWN_MAX),
        }
    }

    /// Keeps `attributes`, unless they may stand for damage, of which an answer of its own would tell.
    fn keep(&self, attributes: &Attributes) {
        if attributes.mode != 0 {
            self.known.insert(attributes.file, *attributes);
        }
    }

    fn call<T: Wire>(&self, ask: Ask) -> Result<T, ExportError> {
        self.call_checked(ask, |_| Ok(()))
    }

    fn call_checked<T: Wire>(
        &self,
        ask: Ask,
        check: impl Fn(&T) -> Result<(), Malformed>,
    ) -> Result<T, ExportError> {
        let answered = self.worker.call(self.volume, ask, check);
        answered.map_err(|refusal: Refusal| refusal.cause().clone())
    }
}

impl FileExport for WorkerTree {
    fn root(&self) -> FileId {
        self.root
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        self.call(Ask::Statistics)
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        if let Some(attributes) = self.known.get(&file) {
            return Ok(attributes);
        }
        let attributes = self.call(Ask::Attributes(file))?;
        self.keep(&attributes);
        Ok(attributes)
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(ExportError::NameTooLong);
        }
        let found: Found = self.call(Ask::Lookup(directory, name.to_vec()))?;
        if let Some(attributes) = &found.attributes {
            self.keep(attributes);
        }
        Ok(found.file)
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        let mut found = Segments::new();
        loop {
            let at = offset.saturating_add(found.len() as u64);
            let left = length.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            let asked = left.min(READ_BYTES_MAX);
            let ask = Ask::Read {
                file,
                offset: at,
                length: asked,
            };
            let read: FileRead = self.call_checked(ask, |read| check_read(read, asked))?;
            found.append(read.data);
            if read.end || asked == left {
                return Ok(FileRead {
                    data: found,
                    ..read_end(read.end, read.attributes)
                });
            }
        }
    }

    fn list(
        &self,
        directory: FileId,
        mut cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        let mut found = Vec::new();
        loop {
            let left = u32::try_from(limit - found.len()).unwrap_or(u32::MAX);
            let asked = left.min(ENTRIES_MAX);
            let ask = Ask::List {
                directory,
                cookie,
                limit: asked,
            };
            let check = |part: &Vec<DirectoryEntry>| check_list(part, cookie, asked);
            let part: Vec<DirectoryEntry> = self.call_checked(ask, check)?;
            let is_last = part.len() < asked as usize || asked == left;
            cookie = part.last().map_or(cookie, |last| last.cookie);
            part.iter().for_each(|entry| self.keep(&entry.attributes));
            found.extend(part);
            if is_last {
                return Ok(found);
            }
        }
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        self.call(Ask::Symlink(file))
    }

    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        self.call(Ask::ExtendedAttributes(file))
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        self.call(Ask::Particulars(file))
    }
}

fn read_end(end: bool, attributes: Option<Attributes>) -> FileRead {
    FileRead {
        data: Segments::new(),
        end,
        attributes,
    }
}

/// What is read is as long as was asked for, or less at the end.
pub(crate) fn check_read(read: &FileRead, asked: u32) -> Result<(), Malformed> {
    let asked = asked as usize;
    match read.data.len() == asked || read.end && read.data.len() < asked {
        true => Ok(()),
        false => Err(Malformed("a read of another length")),
    }
}

/// A listing goes forward, so that it ends.
pub(crate) fn check_list(
    part: &[DirectoryEntry],
    mut cookie: u64,
    asked: u32,
) -> Result<(), Malformed> {
    if part.len() > asked as usize {
        return Err(Malformed("more entries than were asked for"));
    }
    for entry in part {
        if entry.cookie <= cookie.max(2) {
            return Err(Malformed("a listing that does not go forward"));
        }
        cookie = entry.cookie;
    }
    Ok(())
}

/// Objects whose attributes are kept, of each volume.
const KNOWN_MAX: usize = 8192;
