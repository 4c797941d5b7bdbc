//! A filesystem as a tree of files that protocols can serve.

use std::fmt;
use std::ops::ControlFlow;

use export::{
    Attributes, DirectoryEntry, ExportError, ExtendedAttribute, FileExport, FileId, FileKind,
    FileRead, Particulars, Statistics, Timestamp,
};

use super::Ext;
use super::folder::Entry;
use super::inode::{Inode, Purpose, ROOT, flag};
use crate::GuestError;
use crate::names::{INDEX_FROM_BYTES, Learn, NameIndex};
use crate::shown::{check_name, unreadable};

/// A tree that never changes. Names of objects are the numbers of their inodes.
pub(crate) struct ExtTree {
    ext: Ext,
    names: NameIndex,
}

impl ExtTree {
    pub(crate) fn new(ext: Ext) -> Self {
        Self {
            ext,
            names: NameIndex::new(),
        }
    }

    fn inode(&self, file: FileId) -> Result<Inode, GuestError> {
        let number = u32::try_from(file.0).map_err(|_| GuestError::NotFound)?;
        self.ext.inode(number, Purpose::Named)
    }

    fn find(&self, folder: &Inode, name: &[u8]) -> Result<u32, GuestError> {
        match name {
            b"." => return Ok(folder.number),
            b".." => return self.ext.parent(folder),
            _ => {}
        }
        let places = if folder.size_bytes > INDEX_FROM_BYTES {
            let scan = |learn: Learn<'_>| {
                let mut tell = |entry: Entry<'_>| Ok(learn(entry.name, entry.start));
                self.ext.scan(folder, 0, &mut tell)
            };
            self.names.places(u64::from(folder.number), name, scan)?
        } else {
            None
        };
        let Some(places) = places else {
            return self
                .find_from(folder, 0, name, false)?
                .ok_or(GuestError::NotFound);
        };
        for start in places {
            if let Some(inode) = self.find_from(folder, start, name, true)? {
                return Ok(inode);
            }
        }
        Err(GuestError::NotFound)
    }

    /// Looks for a name from a place on, or only at the place.
    fn find_from(
        &self,
        folder: &Inode,
        start: u64,
        name: &[u8],
        only_there: bool,
    ) -> Result<Option<u32>, GuestError> {
        let mut found = None;
        self.ext.scan(folder, start, &mut |entry| {
            if entry.name == name {
                found = Some(entry.inode);
            }
            Ok(if found.is_some() || (only_there && entry.start >= start) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(found)
    }

    /// The attributes of an entry; those of an empty file without rights where the inode is damaged, as the other names of
    /// the folder are still wanted. Reading that file fails.
    fn listed(&self, number: u32) -> Result<Attributes, GuestError> {
        match self.ext.inode(number, Purpose::Named) {
            Ok(inode) => Ok(attributes(&inode)),
            Err(error) if error.is_of_one_place() => {
                tracing::debug!(number, %error, "a name leads to a damaged inode");
                Ok(unreadable(FileId(u64::from(number))))
            }
            Err(error) => Err(error),
        }
    }
}

impl FileExport for ExtTree {
    fn root(&self) -> FileId {
        FileId(u64::from(ROOT))
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        let superblock = self.ext.superblock();
        let bytes = |blocks: u64| blocks.saturating_mul(u64::from(superblock.block_bytes));
        let free = superblock.free_blocks.min(superblock.blocks);
        Ok(Statistics {
            total_bytes: bytes(superblock.blocks),
            free_bytes: bytes(free),
            available_bytes: bytes(free.saturating_sub(superblock.reserved_blocks)),
            total_files: u64::from(superblock.inodes),
            free_files: u64::from(superblock.free_inodes.min(superblock.inodes)),
        })
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        Ok(attributes(&self.inode(file)?))
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        let folder = self.inode(directory)?;
        if folder.kind() != FileKind::Directory {
            return Err(ExportError::NotDirectory);
        }
        check_name(name, NAME_MAX)?;
        Ok(FileId(u64::from(self.find(&folder, name)?)))
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        let inode = self.inode(file)?;
        match inode.kind() {
            FileKind::File => {}
            FileKind::Directory => return Err(ExportError::IsDirectory),
            FileKind::Symlink => return Err(ExportError::Invalid),
        }
        let data = if inode.is_regular() {
            self.ext.read(&inode, offset, u64::from(length))?
        } else {
            export::Segments::new()
        };
        let attributes = attributes(&inode);
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
        let folder = self.inode(directory)?;
        let mut entries = Vec::new();
        if limit == 0 {
            return Ok(entries);
        }
        self.ext.scan(&folder, cookie, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                entries.push(DirectoryEntry {
                    file: FileId(u64::from(entry.inode)),
                    name: entry.name.to_vec(),
                    cookie: entry.end,
                    attributes: self.listed(entry.inode)?,
                });
            }
            Ok(if entries.len() >= limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(entries)
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        Ok(self.ext.link_target(&self.inode(file)?)?)
    }

    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        Ok(self.ext.extended_attributes(&self.inode(file)?)?)
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        let inode = self.inode(file)?;
        Ok(Particulars {
            special: inode.special()?,
            created: inode.created.map(Timestamp::from),
        })
    }
}

impl fmt::Debug for ExtTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtTree")
            .field("superblock", self.ext.superblock())
            .finish_non_exhaustive()
    }
}

fn attributes(inode: &Inode) -> Attributes {
    let has_size = inode.is_regular() || inode.kind() != FileKind::File;
    // As Linux does, lest programs take the file for one hole.
    let inline_bytes = if inode.is_regular() && inode.has(flag::INLINE) {
        inode.size_bytes.div_ceil(512).saturating_mul(512)
    } else {
        0
    };
    Attributes {
        file: FileId(u64::from(inode.number)),
        kind: inode.kind(),
        mode: u32::from(inode.mode & 0o7777),
        links: u32::from(inode.links),
        uid: inode.uid,
        gid: inode.gid,
        size_bytes: if has_size { inode.size_bytes } else { 0 },
        used_bytes: inode.used_bytes.saturating_add(inline_bytes),
        accessed: inode.accessed.into(),
        modified: inode.modified.into(),
        changed: inode.changed.into(),
    }
}

const NAME_MAX: usize = 255;
