//! A filesystem as a tree of files that protocols can serve.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use export::{
    Attributes, DirectoryEntry, ExportError, ExtendedAttribute, FileExport, FileId, FileKind,
    FileRead, Particulars, Statistics,
};
use parking_lot::Mutex;

use super::Btrfs;
use super::folder::{NAME_MAX, Target};
use super::inode::Inode;
use super::key::object;
use super::names::Names;
use crate::GuestError;
use crate::shown::{check_name, unreadable};

/// A tree that never changes. Its root is the uppermost subvolume.
pub(crate) struct BtrfsTree {
    btrfs: Btrfs,
    names: Names,
    /// The folders of the empty places of subvolumes that were met.
    empty: Mutex<BTreeMap<Target, u64>>,
}

impl BtrfsTree {
    pub(crate) fn new(btrfs: Btrfs) -> Result<Self, GuestError> {
        let subvolumes = &btrfs.roots.subvolumes;
        if subvolumes.first().map(|first| first.items.tree) != Some(object::TOP_SUBVOLUME) {
            return Err(GuestError::corrupt(
                crate::Place::Tree(object::TOP_SUBVOLUME),
                "the uppermost subvolume is not there",
            ));
        }
        Ok(Self {
            names: Names::new(subvolumes.len()),
            btrfs,
            empty: Mutex::default(),
        })
    }

    fn inode(&self, file: FileId) -> Result<Inode, GuestError> {
        match self.names.target(file)? {
            Target::Object { subvolume, inode } => self.btrfs.inode(subvolume, inode),
            empty @ Target::Empty { within, .. } => {
                let folder = self.folder_of(empty)?;
                Ok(self.btrfs.inode(within, folder)?.as_empty_folder())
            }
        }
    }

    /// The folder that shows an empty place.
    fn folder_of(&self, empty: Target) -> Result<u64, GuestError> {
        let Target::Empty { within, subvolume } = empty else {
            return Err(GuestError::Invalid);
        };
        if let Some(folder) = self.empty.lock().get(&empty) {
            return Ok(*folder);
        }
        let folder = self.btrfs.folder_of_empty(within, subvolume)?;
        self.keep(empty, folder);
        Ok(folder)
    }

    fn keep(&self, target: Target, folder: u64) {
        let mut empty = self.empty.lock();
        if matches!(target, Target::Empty { .. }) && empty.len() < EMPTY_MAX {
            empty.insert(target, folder);
        }
    }

    fn is_empty_place(&self, file: FileId) -> Result<bool, GuestError> {
        Ok(matches!(self.names.target(file)?, Target::Empty { .. }))
    }

    fn find(&self, directory: FileId, name: &[u8]) -> Result<FileId, GuestError> {
        let target = self.names.target(directory)?;
        if let Target::Empty { within, .. } = target {
            let inode = self.folder_of(target)?;
            return match name {
                b"." => Ok(directory),
                b".." => self.names.file(Target::Object {
                    subvolume: within,
                    inode,
                }),
                _ => Err(GuestError::NotFound),
            };
        }
        let folder = self.inode(directory)?;
        let found = self.btrfs.find(&folder, name)?;
        self.keep(found, folder.number);
        self.names.file(found)
    }

    /// The attributes of an entry; those of an empty file without rights where the inode is damaged, as the other names of
    /// the folder are still wanted. Reading that file fails.
    fn listed(&self, file: FileId) -> Result<Attributes, GuestError> {
        match self.inode(file) {
            Ok(inode) => Ok(self.attributes_of(file, &inode)),
            Err(error) if error.is_of_one_place() => {
                tracing::debug!(file = file.0, %error, "a name leads to a damaged inode");
                Ok(unreadable(file))
            }
            Err(error) => Err(error),
        }
    }

    fn attributes_of(&self, file: FileId, inode: &Inode) -> Attributes {
        let has_size = inode.is_regular() || inode.kind() != FileKind::File;
        let sector = u64::from(self.btrfs.superblock.sector_bytes);
        Attributes {
            file,
            kind: inode.kind(),
            mode: inode.mode & 0o7777,
            links: inode.links,
            uid: inode.uid,
            gid: inode.gid,
            size_bytes: if has_size { inode.size_bytes } else { 0 },
            used_bytes: inode
                .stored_bytes
                .checked_next_multiple_of(sector)
                .unwrap_or(inode.stored_bytes),
            accessed: inode.accessed.into(),
            modified: inode.modified.into(),
            changed: inode.changed.into(),
        }
    }
}

impl FileExport for BtrfsTree {
    fn root(&self) -> FileId {
        self.names.root()
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        let superblock = &self.btrfs.superblock;
        let free = superblock.total_bytes.saturating_sub(superblock.used_bytes);
        Ok(Statistics {
            total_bytes: superblock.total_bytes,
            free_bytes: free,
            available_bytes: free,
            total_files: 0,
            free_files: 0,
        })
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        Ok(self.attributes_of(file, &self.inode(file)?))
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        check_name(name, NAME_MAX)?;
        Ok(self.find(directory, name)?)
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        let inode = self.inode(file)?;
        match inode.kind() {
            FileKind::File => {}
            FileKind::Directory => return Err(ExportError::IsDirectory),
            FileKind::Symlink => return Err(ExportError::Invalid),
        }
        let data = if inode.is_regular() {
            self.btrfs.read(&inode, offset, u64::from(length))?
        } else {
            export::Segments::new()
        };
        let attributes = self.attributes_of(file, &inode);
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
        let mut entries = Vec::new();
        if limit == 0 || self.is_empty_place(directory)? {
            return Ok(entries);
        }
        let folder = self.inode(directory)?;
        // The cookie is the least place at which the next entry can be.
        self.btrfs.entries(&folder, cookie, &mut |place, entry| {
            let target = self.btrfs.target(folder.subvolume, folder.number, entry)?;
            self.keep(target, folder.number);
            let file = self.names.file(target)?;
            let next = place.checked_add(1).filter(|next| *next > 2);
            entries.push(DirectoryEntry {
                file,
                name: entry.name.to_vec(),
                cookie: next.ok_or(GuestError::corrupt(
                    folder.place(),
                    "the place of an entry is out of bounds",
                ))?,
                attributes: self.listed(file)?,
            });
            Ok(if entries.len() >= limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(entries)
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        Ok(self.btrfs.link_target(&self.inode(file)?)?)
    }

    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        if self.is_empty_place(file)? {
            return Ok(Vec::new());
        }
        Ok(self.btrfs.extended_attributes(&self.inode(file)?)?)
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        let inode = self.inode(file)?;
        Ok(Particulars {
            special: inode.special()?,
            created: match self.is_empty_place(file)? {
                true => None,
                false => Some(inode.created.into()),
            },
        })
    }
}

impl fmt::Debug for BtrfsTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BtrfsTree")
            .field("superblock", &self.btrfs.superblock)
            .finish_non_exhaustive()
    }
}

/// Empty places of subvolumes that are kept in mind; others are looked for each time.
const EMPTY_MAX: usize = 1 << 16;
