//! A filesystem as a tree of files that protocols can serve.

use std::fmt;
use std::ops::ControlFlow;

use export::{
    Attributes, DirectoryEntry, ExportError, ExtendedAttribute, FileExport, FileId, FileKind,
    FileRead, Particulars, Segments, Statistics, Timestamp,
};

use super::Xfs;
use super::inode::Inode;
use crate::GuestError;
use crate::shown::{check_name, unreadable};

/// A tree that never changes. Names of objects are the numbers of their inodes.
pub(crate) struct XfsTree {
    xfs: Xfs,
}

impl XfsTree {
    pub(crate) fn new(xfs: Xfs) -> Self {
        Self { xfs }
    }

    /// The attributes of an entry; those of an empty file without rights where the inode is damaged, as the other names of
    /// the folder are still wanted. Reading that file fails.
    fn listed(&self, number: u64) -> Result<Attributes, GuestError> {
        match self.xfs.inode(number) {
            Ok(inode) => Ok(self.attributes_of(&inode)),
            Err(error) if error.is_of_one_place() => {
                tracing::debug!(number, %error, "a name leads to a damaged inode");
                Ok(unreadable(FileId(number)))
            }
            Err(error) => Err(error),
        }
    }

    fn attributes_of(&self, inode: &Inode) -> Attributes {
        let has_size = inode.is_regular() || inode.kind() != FileKind::File;
        let blocks = self.xfs.pending.used_blocks(inode);
        Attributes {
            file: FileId(inode.number),
            kind: inode.kind(),
            mode: u32::from(inode.mode & 0o7777),
            links: inode.links,
            uid: inode.uid,
            gid: inode.gid,
            size_bytes: if has_size { inode.size_bytes } else { 0 },
            used_bytes: blocks.saturating_mul(u64::from(self.xfs.superblock.block_bytes)),
            accessed: inode.accessed.into(),
            modified: inode.modified.into(),
            changed: inode.changed.into(),
        }
    }
}

impl FileExport for XfsTree {
    fn root(&self) -> FileId {
        FileId(self.xfs.superblock.root_inode)
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        let counts = self.xfs.counts()?;
        let block = u64::from(self.xfs.superblock.block_bytes);
        let all = self.xfs.superblock.blocks;
        let log = match self.xfs.superblock.log_start {
            0 => 0,
            _ => u64::from(self.xfs.superblock.log_blocks),
        };
        let free = counts.free_blocks.min(all);
        Ok(Statistics {
            total_bytes: all.saturating_sub(log).saturating_mul(block),
            free_bytes: free.saturating_mul(block),
            available_bytes: free.saturating_mul(block),
            total_files: counts.inodes,
            free_files: counts.free_inodes.min(counts.inodes),
        })
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        Ok(self.attributes_of(&self.xfs.inode(file.0)?))
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        let folder = self.xfs.inode(directory.0)?;
        if folder.kind() != FileKind::Directory {
            return Err(ExportError::NotDirectory);
        }
        check_name(name, NAME_MAX)?;
        Ok(FileId(match name {
            b"." => folder.number,
            b".." => self.xfs.parent(&folder)?,
            _ => self.xfs.find(&folder, name)?,
        }))
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        let inode = self.xfs.inode(file.0)?;
        match inode.kind() {
            FileKind::File => {}
            FileKind::Directory => return Err(ExportError::IsDirectory),
            FileKind::Symlink => return Err(ExportError::Invalid),
        }
        let data = if inode.is_regular() {
            self.xfs.read(&inode, offset, u64::from(length))?
        } else {
            Segments::new()
        };
        let attributes = self.attributes_of(&inode);
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
        let folder = self.xfs.inode(directory.0)?;
        let mut entries = Vec::new();
        if limit == 0 {
            return Ok(entries);
        }
        self.xfs.scan(&folder, cookie, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                entries.push(DirectoryEntry {
                    file: FileId(entry.inode),
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
        Ok(self.xfs.link_target(&self.xfs.inode(file.0)?)?)
    }

    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        Ok(self.xfs.extended_attributes(&self.xfs.inode(file.0)?)?)
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        let inode = self.xfs.inode(file.0)?;
        Ok(Particulars {
            special: inode.special()?,
            created: inode.created.map(Timestamp::from),
        })
    }
}

impl fmt::Debug for XfsTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XfsTree")
            .field("superblock", &self.xfs.superblock)
            .finish_non_exhaustive()
    }
}

const NAME_MAX: usize = 255;
