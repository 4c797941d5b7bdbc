//! The tree of some disks: each as a file of every format, and what lies on each as folders.
//!
//! ```text
//! disk-0.raw  disk-0.qcow2  disk-0.vmdk  ...      the disk as files
//! disk-0/p1/etc/hostname                          what lies in its first partition
//! disk-0/p2.txt                                   why the second is not shown
//! volumes/vg0-root/etc/hostname                   what lies in what is put together from several disks, if there is any
//! ```
//!
//! Filesystems are opened when somebody looks into the folder that they are in. They are never written.

use std::sync::Arc;

use bytes::Bytes;
use export::{
    Attributes, BlockExport, Caller, DirectoryEntry, Durability, ExportError, ExtendedAttribute,
    FileExport, FileId, FileKind, FileRead, Particulars, Segments, SetAttributes, Statistics,
    Timestamp, Written,
};
use guestworker::WorkerOptions;

use super::guest::Guest;
use super::ids::{ASSEMBLED, Id, Inside, ROOT};
use super::volumes::{Found, Shown};
use crate::exports::{DiskFile, DiskFormat};

/// A disk to look into.
pub(crate) struct BrowsedDisk {
    /// Its number in the restore point.
    pub(crate) number: usize,
    /// The disk.
    pub(crate) disk: Arc<dyn BlockExport>,
}

/// Disks as one tree. Files of disks can be written if the disks can; there are no other changes.
pub(crate) struct DiskTree {
    files: Vec<ShownFile>,
    folders: Vec<DiskFolder>,
    guest: Guest,
    time: Timestamp,
}

/// A file in the top folder.
struct ShownFile {
    name: String,
    body: Body,
}

enum Body {
    Disk(DiskFile),
    Text(Bytes),
}

/// The folder of a disk.
struct DiskFolder {
    number: usize,
    size_bytes: u64,
}

/// What an id leads to.
enum Node<'a> {
    Top,
    File(&'a ShownFile),
    /// The folder of a disk, or of what is put together from all.
    Folder(usize),
    /// A text in such a folder.
    Reason(Bytes),
    /// Something in a filesystem: where, and its tree.
    Inside(Inside, Arc<dyn FileExport>),
}

impl DiskTree {
    /// Shows `disks`, which are all of a guest in their order, in those of `formats` that can hold them; `time` stands at
    /// everything that has no time of its own. A worker with `options` reads what lies on them.
    pub(crate) fn new(
        disks: Vec<BrowsedDisk>,
        formats: &[DiskFormat],
        time: Timestamp,
        options: WorkerOptions,
    ) -> Self {
        let guest = disks.iter().map(|browsed| Arc::clone(&browsed.disk));
        let guest = Guest::new(guest.collect(), options);
        let mut files = Vec::new();
        let mut folders = Vec::new();
        for BrowsedDisk { number, disk } in disks {
            for format in formats {
                match format.show(Arc::clone(&disk), number) {
                    Ok(shown) => files.push(ShownFile {
                        name: format.data_name(number),
                        body: Body::Disk(DiskFile::new(shown)),
                    }),
                    Err(error) => {
                        tracing::info!(disk = number, %format, %error, "a disk is not shown in a format");
                        continue;
                    }
                }
                files.extend(
                    format
                        .descriptor(disk.as_ref(), number)
                        .map(|text| ShownFile {
                            name: format.file_name(number),
                            body: Body::Text(text.into()),
                        }),
                );
            }
            folders.push(DiskFolder {
                number,
                size_bytes: disk.properties().size_bytes,
            });
        }
        Self {
            files,
            folders,
            guest,
            time,
        }
    }

    /// What there is to say of an object in a list.
    pub(crate) fn note(&self, file: FileId) -> Option<String> {
        let Some(Id::Inside(inside)) = Id::of(file) else {
            return None;
        };
        let volumes = self.guest.volumes(inside.folder);
        let shown = volumes.get(inside.slot)?;
        match &shown.found {
            Found::Tree(tree) if tree.root() != inside.inner => None,
            _ => shown.note.clone(),
        }
    }

    fn node(&self, file: FileId) -> Result<Node<'_>, ExportError> {
        match Id::of(file).ok_or(ExportError::Stale)? {
            Id::Top => Ok(Node::Top),
            Id::File(number) => {
                let file = self.files.get(number);
                file.map(Node::File).ok_or(ExportError::Stale)
            }
            Id::Folder(folder) if self.is_folder(folder) => Ok(Node::Folder(folder)),
            Id::Inside(inside) if self.is_folder(inside.folder) => {
                let volumes = self.guest.volumes(inside.folder);
                let shown = volumes.get(inside.slot).ok_or(ExportError::Stale)?;
                Ok(match &shown.found {
                    Found::Tree(tree) => Node::Inside(inside, Arc::clone(tree)),
                    Found::Reason(text) => Node::Reason(text.clone()),
                })
            }
            Id::Folder(_) | Id::Inside(_) => Err(ExportError::Stale),
        }
    }

    fn is_folder(&self, folder: usize) -> bool {
        folder < self.folders.len() || folder == ASSEMBLED
    }

    fn own(&self, file: FileId, kind: FileKind, size_bytes: u64, mode: u32) -> Attributes {
        Attributes {
            file,
            kind,
            mode,
            links: if kind == FileKind::Directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            size_bytes,
            used_bytes: size_bytes,
            accessed: self.time,
            modified: self.time,
            changed: self.time,
        }
    }

    fn folder(&self, file: FileId) -> Attributes {
        self.own(file, FileKind::Directory, 4096, 0o555)
    }

    fn file(&self, file: FileId, body: &Body) -> Attributes {
        let (size_bytes, mode) = match body {
            Body::Disk(disk) if disk.is_read_only() => (disk.size_bytes(), 0o400),
            Body::Disk(disk) => (disk.size_bytes(), 0o600),
            Body::Text(text) => (text.len() as u64, 0o444),
        };
        self.own(file, FileKind::File, size_bytes, mode)
    }

    fn entry(&self, name: &str, attributes: Attributes) -> DirectoryEntry {
        DirectoryEntry {
            file: attributes.file,
            name: name.as_bytes().to_vec(),
            cookie: attributes.file.0,
            attributes,
        }
    }

    /// The files, then the folders of disks, in the order of their numbers.
    fn disk_entries(&self) -> Result<Vec<DirectoryEntry>, ExportError> {
        let mut entries = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            let attributes = self.file(Id::File(number).file()?, &file.body);
            entries.push(self.entry(&file.name, attributes));
        }
        for (number, folder) in self.folders.iter().enumerate() {
            let attributes = self.folder(Id::Folder(number).file()?);
            entries.push(self.entry(&folder.name(), attributes));
        }
        Ok(entries)
    }

    /// The folder of what is put together, if anything is.
    fn assembled_entry(&self) -> Result<Option<DirectoryEntry>, ExportError> {
        if !self.guest.has_assembled() {
            return Ok(None);
        }
        let attributes = self.folder(Id::Folder(ASSEMBLED).file()?);
        Ok(Some(self.entry(ASSEMBLED_NAME, attributes)))
    }

    fn volume_entries(&self, folder: usize) -> Result<Vec<DirectoryEntry>, ExportError> {
        let volumes = self.guest.volumes(folder);
        let entry = |(slot, shown): (usize, &Shown)| {
            let inside = Inside {
                folder,
                slot,
                inner: FileId(0),
            };
            let attributes = match &shown.found {
                Found::Tree(tree) => outer(inside, tree.attributes(tree.root())?)?,
                Found::Reason(text) => {
                    self.own(inside.file()?, FileKind::File, text.len() as u64, 0o444)
                }
            };
            Ok(DirectoryEntry {
                cookie: slot as u64 + COOKIES_BEFORE,
                ..self.entry(&shown.name, attributes)
            })
        };
        volumes.iter().map(entry).collect()
    }
}

impl DiskFolder {
    fn name(&self) -> String {
        format!("disk-{}", self.number)
    }
}

impl FileExport for DiskTree {
    fn root(&self) -> FileId {
        ROOT
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        let disks = self.folders.iter();
        Ok(Statistics {
            total_bytes: disks.map(|folder| folder.size_bytes).sum(),
            free_bytes: 0,
            available_bytes: 0,
            total_files: (self.files.len() + self.folders.len()) as u64,
            free_files: 0,
        })
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        Ok(match self.node(file)? {
            Node::Top | Node::Folder(_) => self.folder(file),
            Node::File(shown) => self.file(file, &shown.body),
            Node::Reason(text) => self.own(file, FileKind::File, text.len() as u64, 0o444),
            Node::Inside(inside, tree) => outer(inside, tree.attributes(inside.inner)?)?,
        })
    }

    fn set_attributes(
        &self,
        _: &Caller,
        file: FileId,
        change: &SetAttributes,
    ) -> Result<Attributes, ExportError> {
        // A program that opens a disk may set the length that it has, and times that nobody keeps.
        match self.node(file)? {
            Node::File(ShownFile {
                body: Body::Disk(disk),
                ..
            }) if !disk.is_read_only() => {
                let size = change
                    .size_bytes
                    .is_none_or(|size| size == disk.size_bytes());
                match size && change.mode.is_none() && change.uid.is_none() && change.gid.is_none()
                {
                    true => self.attributes(file),
                    false => Err(ExportError::NotPermitted),
                }
            }
            _ => Err(ExportError::ReadOnly),
        }
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        let find = |entries: Vec<DirectoryEntry>| {
            let found = entries.into_iter().find(|entry| entry.name == name);
            found.map(|entry| entry.file).ok_or(ExportError::NotFound)
        };
        match self.node(directory)? {
            Node::Top if matches!(name, b"." | b"..") => Ok(directory),
            // Whoever looks for a disk has nothing put together.
            Node::Top if name == ASSEMBLED_NAME.as_bytes() => {
                find(self.assembled_entry()?.into_iter().collect())
            }
            Node::Top => find(self.disk_entries()?),
            Node::Folder(_) if name == b"." => Ok(directory),
            Node::Folder(_) if name == b".." => Id::Top.file(),
            Node::Folder(folder) => find(self.volume_entries(folder)?),
            Node::Inside(inside, tree) if inside.inner == tree.root() && name == b".." => {
                Id::Folder(inside.folder).file()
            }
            Node::Inside(inside, tree) => inside.with(tree.lookup(inside.inner, name)?).file(),
            Node::File(_) | Node::Reason(_) => Err(ExportError::NotDirectory),
        }
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        match self.node(file)? {
            Node::Top | Node::Folder(_) => Err(ExportError::IsDirectory),
            Node::File(ShownFile {
                body: Body::Disk(disk),
                ..
            }) => {
                let left = disk.size_bytes().saturating_sub(offset);
                let wanted = u32::try_from(left).unwrap_or(u32::MAX).min(length);
                Ok(FileRead {
                    data: disk.read(offset, wanted)?,
                    end: u64::from(wanted) == left,
                    attributes: None,
                })
            }
            Node::File(ShownFile {
                body: Body::Text(text),
                ..
            }) => Ok(read_text(text, offset, length)),
            Node::Reason(text) => Ok(read_text(&text, offset, length)),
            Node::Inside(inside, tree) => {
                let read = tree.read(inside.inner, offset, length)?;
                let attributes = read.attributes;
                Ok(FileRead {
                    attributes: attributes
                        .map(|attributes| outer(inside, attributes))
                        .transpose()?,
                    ..read
                })
            }
        }
    }

    fn write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<Written, ExportError> {
        let Node::File(ShownFile {
            body: Body::Disk(disk),
            ..
        }) = self.node(file)?
        else {
            return Err(ExportError::ReadOnly);
        };
        disk.write(offset, data, durability)?;
        Ok(Written {
            durability,
            attributes: self.attributes(file)?,
        })
    }

    fn commit(&self, file: FileId) -> Result<Attributes, ExportError> {
        if let Node::File(ShownFile {
            body: Body::Disk(disk),
            ..
        }) = self.node(file)?
        {
            disk.flush()?;
        }
        self.attributes(file)
    }

    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        let part = |entries: Vec<DirectoryEntry>| {
            let after = entries.into_iter().filter(|entry| entry.cookie > cookie);
            after.take(limit).collect()
        };
        match self.node(directory)? {
            Node::Top => {
                let mut entries = self.disk_entries()?;
                entries.extend(self.assembled_entry()?);
                Ok(part(entries))
            }
            Node::Folder(folder) => Ok(part(self.volume_entries(folder)?)),
            Node::Inside(inside, tree) => {
                let entries = tree.list(inside.inner, cookie, limit)?;
                let entry = |entry: DirectoryEntry| {
                    Ok(DirectoryEntry {
                        file: inside.with(entry.file).file()?,
                        attributes: outer(inside, entry.attributes)?,
                        ..entry
                    })
                };
                entries.into_iter().map(entry).collect()
            }
            Node::File(_) | Node::Reason(_) => Err(ExportError::NotDirectory),
        }
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        match self.node(file)? {
            Node::Inside(inside, tree) => tree.read_symlink(inside.inner),
            _ => Err(ExportError::Invalid),
        }
    }

    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        match self.node(file)? {
            Node::Inside(inside, tree) => tree.extended_attributes(inside.inner),
            _ => Ok(Vec::new()),
        }
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        match self.node(file)? {
            Node::Inside(inside, tree) => tree.particulars(inside.inner),
            _ => Ok(Particulars::default()),
        }
    }
}

fn read_text(text: &Bytes, offset: u64, length: u32) -> FileRead {
    let from = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(text.len());
    let to = from.saturating_add(length as usize).min(text.len());
    FileRead {
        data: Segments::from(text.slice(from..to)),
        end: to == text.len(),
        attributes: None,
    }
}

fn outer(inside: Inside, inner: Attributes) -> Result<Attributes, ExportError> {
    Ok(Attributes {
        file: inside.with(inner.file).file()?,
        ..inner
    })
}

/// The folder of what is put together from several disks.
pub(super) const ASSEMBLED_NAME: &str = "volumes";

/// Cookies 0, 1 and 2 belong to the servers.
const COOKIES_BEFORE: u64 = 3;
