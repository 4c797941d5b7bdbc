//! A filesystem as a tree of files that protocols can serve.

use std::fmt;
use std::sync::{Arc, OnceLock};

use export::{
    Attributes, DirectoryEntry, ExportError, ExtendedAttribute, FileExport, FileId, FileKind,
    FileRead, Particulars, SpecialFile, Statistics, Timestamp,
};

use super::extended::of_linux;
use super::folder::Listing;
use super::node::{Attribute, Node, Value};
use super::record::{kind, reference};
use super::reparse::{Nature, Stub};
use super::{FIRST_USER, Ntfs, ROOT};
use crate::GuestError;
use crate::shown::{check_name, unreadable};

/// A tree that never changes. Names of objects are the numbers of their records; those of named streams have in their
/// upper bits which stream of the record it is.
pub(crate) struct NtfsTree {
    ntfs: Ntfs,
    free_bytes: OnceLock<u64>,
}

/// What an id names: a file or folder, or one of its named streams.
struct Object {
    node: Arc<Node>,
    /// Which of them, from 1 on; 0 for the object itself.
    stream: u64,
}

impl NtfsTree {
    pub(crate) fn new(ntfs: Ntfs) -> Self {
        match (ntfs.log_is_open(), ntfs.is_dirty()) {
            (Ok(false), Ok(false)) => {}
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "it is not known whether the volume was left in order");
            }
            (Ok(log), Ok(dirty)) => {
                tracing::warn!(
                    log,
                    dirty,
                    "the volume was in use: the newest changes may be in its log alone"
                );
            }
        }
        Self {
            ntfs,
            free_bytes: OnceLock::new(),
        }
    }

    fn object(&self, file: FileId) -> Result<Object, GuestError> {
        let (number, stream) = (file.0 & (STREAM_UNIT - 1), file.0 / STREAM_UNIT);
        if number < FIRST_USER && number != ROOT {
            return Err(GuestError::NotFound);
        }
        let object = Object {
            node: self.ntfs.node(number)?,
            stream,
        };
        if stream > 0 && object.stream().is_none() {
            return Err(GuestError::NotFound);
        }
        Ok(object)
    }

    /// The folder of an id; streams are none.
    fn folder(&self, file: FileId) -> Result<Arc<Node>, GuestError> {
        let object = self.object(file)?;
        if object.stream > 0 {
            return Err(GuestError::NotDirectory);
        }
        Ok(object.node)
    }

    fn find(&self, folder: &Node, name: &[u8]) -> Result<FileId, GuestError> {
        match name {
            b"." => return Ok(FileId(folder.number)),
            b".." => return self.ntfs.parent(folder).map(FileId),
            _ => {}
        }
        if let Some(node) = self.ntfs.find(folder, name)? {
            return Ok(FileId(node.number));
        }
        // As Windows names a stream. A name of a file has a colon only where Windows did not give it.
        let Some(colon) = name.iter().rposition(|byte| *byte == b':') else {
            return Err(GuestError::NotFound);
        };
        let (file, stream) = name.split_at(colon);
        let wanted = stream.get(1..).and_then(super::name::to_units);
        let wanted = wanted.ok_or(GuestError::NotFound)?;
        let node = self.ntfs.find(folder, file)?;
        let node = node.ok_or(GuestError::NotFound)?;
        let position = node.streams().position(|stream| stream.name == wanted);
        let position = position.ok_or(GuestError::NotFound)? as u64;
        Ok(FileId(node.number | ((position + 1) * STREAM_UNIT)))
    }

    /// The attributes of what a folder has; those of an empty file without rights where that is damaged, as the other names
    /// of the folder are still wanted. Reading that file fails.
    fn listed(&self, folder: &Node, link: u64) -> Result<Attributes, GuestError> {
        let found = self.ntfs.follow(folder, link);
        let found = found.and_then(|node| attributes(&Object { node, stream: 0 }));
        match found {
            Err(error) if error.is_of_one_place() => {
                let (number, _) = reference(link);
                tracing::debug!(number, %error, "a name leads to a damaged record");
                Ok(unreadable(FileId(number)))
            }
            other => other,
        }
    }

    fn list_from(
        &self,
        folder: &Node,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, GuestError> {
        let mut entries = Vec::new();
        let mut listing = Listing::after(&self.ntfs, folder, cookie.saturating_sub(COOKIES_FROM))?;
        while entries.len() < limit {
            let Some(found) = listing.next()? else {
                return Ok(entries);
            };
            entries.push(DirectoryEntry {
                file: FileId(reference(found.reference).0),
                attributes: self.listed(folder, found.reference)?,
                name: found.name,
                cookie: found.count + COOKIES_FROM,
            });
        }
        listing.keep();
        Ok(entries)
    }
}

impl FileExport for NtfsTree {
    fn root(&self) -> FileId {
        FileId(ROOT)
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        let free = *self
            .free_bytes
            .get_or_init(|| self.ntfs.free_bytes().unwrap_or(0));
        Ok(Statistics {
            total_bytes: self.ntfs.boot.clusters * self.ntfs.boot.cluster_bytes,
            free_bytes: free,
            available_bytes: free,
            total_files: self.ntfs.records(),
            free_files: 0,
        })
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        Ok(attributes(&self.object(file)?)?)
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        let folder = self.folder(directory)?;
        if folder.nature != Nature::Folder {
            return Err(ExportError::NotDirectory);
        }
        check_name(name, LOOKUP_MAX)?;
        Ok(self.find(&folder, name)?)
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        let object = self.object(file)?;
        let length = u64::from(length);
        let data = match object.stream() {
            Some(stream) => self.ntfs.read(object.node.number, stream, offset, length)?,
            None => self.ntfs.read_file(&object.node, offset, length)?,
        };
        let attributes = attributes(&object)?;
        Ok(FileRead {
            end: offset.saturating_add(data.len() as u64) >= attributes.size_bytes,
            data,
            attributes: Some(attributes),
        })
    }

    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        Ok(self.list_from(&*self.folder(directory)?, cookie, limit)?)
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        let object = self.object(file)?;
        match &object.node.nature {
            Nature::Link(target) if object.stream == 0 => Ok(target.clone()),
            _ => Err(ExportError::Invalid),
        }
    }

    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        let object = self.object(file)?;
        if object.stream > 0 {
            return Ok(Vec::new());
        }
        Ok(self.ntfs.carried(&object.node)?)
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        let object = self.object(file)?;
        let created = object.node.standard()?.u64(0).map_err(ExportError::from)?;
        Ok(Particulars {
            special: object.special(),
            created: Some(timestamp(created)),
        })
    }
}

impl fmt::Debug for NtfsTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NtfsTree")
            .field("boot", &self.ntfs.boot)
            .finish_non_exhaustive()
    }
}

impl Object {
    fn stream(&self) -> Option<&Attribute> {
        let place = usize::try_from(self.stream.checked_sub(1)?).ok()?;
        self.node.streams().nth(place)
    }

    fn special(&self) -> Option<SpecialFile> {
        match self.node.nature {
            Nature::Special(special) if self.stream == 0 => Some(special),
            _ => None,
        }
    }

    /// Kind, permissions, size and the space it takes.
    fn form(&self) -> (FileKind, u32, u64, u64) {
        if let Some(stream) = self.stream() {
            return (FileKind::File, MODE_FILE, stream.size_bytes(), used(stream));
        }
        let data = self.node.data();
        let size = data.map_or(0, Attribute::size_bytes);
        let space = data.map_or(0, used);
        match &self.node.nature {
            Nature::Folder => (FileKind::Directory, MODE_FOLDER, 0, 0),
            Nature::Link(target) => (FileKind::Symlink, MODE_LINK, target.len() as u64, space),
            Nature::Special(_) => (FileKind::File, MODE_FILE, 0, space),
            Nature::Stub(Stub::Packed(_)) => {
                let packed = self.node.find(kind::DATA, &super::packed::stream());
                (FileKind::File, MODE_FILE, size, packed.map_or(0, used))
            }
            Nature::File | Nature::Stub(_) => (FileKind::File, MODE_FILE, size, space),
        }
    }
}

fn used(attribute: &Attribute) -> u64 {
    match &attribute.value {
        // As Linux does, lest programs take the file for one hole.
        Value::Resident(bytes) => bytes.len().div_ceil(512) as u64 * 512,
        Value::Stored(stored) => stored.used_bytes,
    }
}

fn attributes(object: &Object) -> Result<Attributes, GuestError> {
    let node = &object.node;
    let (kind, mode, size_bytes, used_bytes) = object.form();
    let linux = of_linux(node)?;
    let standard = node.standard()?;
    let links = match kind {
        FileKind::Directory => 1,
        _ => node.names()?.iter().filter(|name| !name.is_short()).count(),
    };
    Ok(Attributes {
        file: FileId(node.number | (object.stream * STREAM_UNIT)),
        kind,
        mode: linux.mode.map_or(mode, |mode| mode & 0o7777),
        links: u32::try_from(links).unwrap_or(u32::MAX),
        uid: linux.uid.unwrap_or(0),
        gid: linux.gid.unwrap_or(0),
        size_bytes,
        used_bytes,
        modified: timestamp(standard.u64(8)?),
        changed: timestamp(standard.u64(16)?),
        accessed: timestamp(standard.u64(24)?),
    })
}

/// Windows counts tenths of a microsecond since 1601. Times before 1970 are shown as its first moment: the trait has none.
fn timestamp(ticks: u64) -> Timestamp {
    let since = ticks.checked_sub(TICKS_TO_1970);
    since.map_or(Timestamp::default(), |since| Timestamp {
        seconds: since / TICKS,
        nanoseconds: u32::try_from(since % TICKS * 100).expect("it is less than a second"),
    })
}

const TICKS: u64 = 10_000_000;
const TICKS_TO_1970: u64 = 11_644_473_600 * TICKS;
const STREAM_UNIT: u64 = 1 << 32;
const MODE_FOLDER: u32 = 0o555;
const MODE_FILE: u32 = 0o444;
const MODE_LINK: u32 = 0o777;
/// A name of a file and one of a stream, each of 255 units.
const LOOKUP_MAX: usize = 2 * 255 * 3 + 1;
/// Servers need the first ones.
const COOKIES_FROM: u64 = 2;
