//! The tree of some disks: each as a file of every format, and what lies on each as folders.
//!
//! ```text
//! disk-0.raw  disk-0.qcow2  disk-0.vmdk  ...      the disk as files
//! disk-0/p1/etc/hostname                          what lies in its first partition
//! disk-0/p2.txt                                   why the second is not shown
//! ```
//!
//! Filesystems are opened when somebody looks into the folder of their disk. They are never written.

use std::sync::Arc;

use bytes::Bytes;
use export::{
    Attributes, BlockExport, Caller, DirectoryEntry, Durability, ExportError, ExtendedAttribute,
    FileExport, FileId, FileKind, FileRead, Particulars, Segments, SetAttributes, Statistics,
    Timestamp, Written,
};
use guestworker::WorkerOptions;

use super::guest::Guest;
use super::volumes::Found;
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
    /// A disk's folder, by its place among them.
    Folder(usize),
    /// A text in a disk's folder.
    Reason(Bytes),
    /// Something in a filesystem: its disk's place, its own place there, the tree, the id in it.
    Inside(usize, usize, Arc<dyn FileExport>, FileId),
}

impl DiskTree {
    /// Shows `disks` in those of `formats` that can hold them; `time` stands at everything that has no time of its own.
    /// A worker with `options` reads what lies on them.
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

    fn node(&self, file: FileId) -> Result<Node<'_>, ExportError> {
        let number = file.0;
        if number == TOP {
            return Ok(Node::Top);
        }
        let inner = number & INNER_MASK;
        if let Some(slot) = (number >> VOLUME_SHIFT).checked_sub(1) {
            let (place, volume) = (index(slot / VOLUMES_MAX), index(slot % VOLUMES_MAX));
            if place >= self.folders.len() {
                return Err(ExportError::Stale);
            }
            return match self.guest.volumes(place).get(volume) {
                Some((_, Found::Tree(tree))) => {
                    Ok(Node::Inside(place, volume, Arc::clone(tree), FileId(inner)))
                }
                Some((_, Found::Reason(text))) => Ok(Node::Reason(text.clone())),
                None => Err(ExportError::Stale),
            };
        }
        if let Some(place) = number.checked_sub(FOLDERS_FROM) {
            let place = index(place);
            return match place < self.folders.len() {
                true => Ok(Node::Folder(place)),
                false => Err(ExportError::Stale),
            };
        }
        let place = number.checked_sub(FILES_FROM).ok_or(ExportError::Stale)?;
        let file = self.files.get(index(place));
        file.map(Node::File).ok_or(ExportError::Stale)
    }

    fn own(&self, file: u64, kind: FileKind, size_bytes: u64, mode: u32) -> Attributes {
        Attributes {
            file: FileId(file),
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

    fn folder(&self, file: u64) -> Attributes {
        self.own(file, FileKind::Directory, 4096, 0o555)
    }

    fn file(&self, file: u64, body: &Body) -> Attributes {
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

    /// The folders of disks, then the files, in the order of their ids.
    fn top_entries(&self) -> Vec<DirectoryEntry> {
        let files = (FILES_FROM..).zip(&self.files);
        let files = files.map(|(id, file)| self.entry(&file.name, self.file(id, &file.body)));
        let folders = (FOLDERS_FROM..).zip(&self.folders);
        let folders = folders.map(|(id, folder)| self.entry(&folder.name(), self.folder(id)));
        files.chain(folders).collect()
    }

    fn volume_entries(&self, place: usize) -> Result<Vec<DirectoryEntry>, ExportError> {
        let found = self.guest.volumes(place);
        let volumes = found.all().iter().enumerate();
        let entry = |(volume, (name, found)): (usize, &(String, Found))| {
            let attributes = match found {
                Found::Tree(tree) => outer(place, volume, tree.attributes(tree.root())?)?,
                Found::Reason(text) => {
                    let id = volume_id(place, volume);
                    self.own(id, FileKind::File, text.len() as u64, 0o444)
                }
            };
            Ok(DirectoryEntry {
                cookie: volume as u64 + COOKIES_BEFORE,
                ..self.entry(name, attributes)
            })
        };
        volumes.map(entry).collect()
    }
}

impl DiskFolder {
    fn name(&self) -> String {
        format!("disk-{}", self.number)
    }
}

impl FileExport for DiskTree {
    fn root(&self) -> FileId {
        FileId(TOP)
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
            Node::Top => self.folder(TOP),
            Node::File(shown) => self.file(file.0, &shown.body),
            Node::Folder(..) => self.folder(file.0),
            Node::Reason(text) => self.own(file.0, FileKind::File, text.len() as u64, 0o444),
            Node::Inside(place, volume, tree, inner) => {
                outer(place, volume, tree.attributes(inner)?)?
            }
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
            Node::Top => find(self.top_entries()),
            Node::Folder(..) if name == b"." => Ok(directory),
            Node::Folder(..) if name == b".." => Ok(FileId(TOP)),
            Node::Folder(place) => find(self.volume_entries(place)?),
            Node::Inside(place, _, tree, inner) if inner == tree.root() && name == b".." => {
                Ok(FileId(FOLDERS_FROM + place as u64))
            }
            Node::Inside(place, volume, tree, inner) => {
                outer_id(place, volume, tree.lookup(inner, name)?)
            }
            Node::File(_) | Node::Reason(..) => Err(ExportError::NotDirectory),
        }
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        match self.node(file)? {
            Node::Top | Node::Folder(..) => Err(ExportError::IsDirectory),
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
            Node::Inside(place, volume, tree, inner) => {
                let read = tree.read(inner, offset, length)?;
                let attributes = read.attributes;
                Ok(FileRead {
                    attributes: attributes
                        .map(|attributes| outer(place, volume, attributes))
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
            Node::Top => Ok(part(self.top_entries())),
            Node::Folder(place) => Ok(part(self.volume_entries(place)?)),
            Node::Inside(place, volume, tree, inner) => {
                let entries = tree.list(inner, cookie, limit)?;
                let entry = |entry: DirectoryEntry| {
                    Ok(DirectoryEntry {
                        file: outer_id(place, volume, entry.file)?,
                        attributes: outer(place, volume, entry.attributes)?,
                        ..entry
                    })
                };
                entries.into_iter().map(entry).collect()
            }
            Node::File(_) | Node::Reason(..) => Err(ExportError::NotDirectory),
        }
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        match self.node(file)? {
            Node::Inside(_, _, tree, inner) => tree.read_symlink(inner),
            _ => Err(ExportError::Invalid),
        }
    }

    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        match self.node(file)? {
            Node::Inside(_, _, tree, inner) => tree.extended_attributes(inner),
            _ => Ok(Vec::new()),
        }
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        match self.node(file)? {
            Node::Inside(_, _, tree, inner) => tree.particulars(inner),
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

fn outer(place: usize, volume: usize, inner: Attributes) -> Result<Attributes, ExportError> {
    Ok(Attributes {
        file: outer_id(place, volume, inner.file)?,
        ..inner
    })
}

/// The id that stands outside for an id in a volume.
fn outer_id(place: usize, volume: usize, inner: FileId) -> Result<FileId, ExportError> {
    match inner.0 <= INNER_MASK {
        true => Ok(FileId(volume_id(place, volume) | inner.0)),
        false => Err(ExportError::NotSupported),
    }
}

fn volume_id(place: usize, volume: usize) -> u64 {
    (place as u64 * VOLUMES_MAX + volume as u64 + 1) << VOLUME_SHIFT
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

const TOP: u64 = 1;
/// Cookies 0, 1 and 2 belong to the servers.
const COOKIES_BEFORE: u64 = 3;
const FILES_FROM: u64 = 16;
const FOLDERS_FROM: u64 = 1 << 32;

/// Ids within a volume lie below the number of the volume.
const VOLUME_SHIFT: u32 = 48;
const INNER_MASK: u64 = (1 << VOLUME_SHIFT) - 1;
/// Volumes of one disk that are shown.
pub(super) const VOLUMES_MAX: u64 = 256;
