//! A filesystem as a tree of files.

use export::{Attributes, ExtendedAttribute, FileId, FileKind, Particulars, Segments, Statistics};

use super::Iso;
use super::object::Object;
use super::record::Record;
use crate::entry_tree::{Entry, EntryFormat, Parent, Visit};
use crate::shown::unreadable;
use crate::{GuestError, Place};

impl EntryFormat for Iso {
    type Object = Object;

    fn root(&self) -> u64 {
        self.top.at
    }

    fn object(&self, id: u64) -> Result<Object, GuestError> {
        self.at(id)
    }

    fn scan(&self, folder: &Object, from: u64, visit: Visit<'_, Object>) -> Result<(), GuestError> {
        if folder.kind != FileKind::Directory {
            return Err(GuestError::NotDirectory);
        }
        let length = folder.extents.length_bytes();
        if length > FOLDER_BYTES_MAX {
            return Err(GuestError::TooLarge {
                what: "the length of a folder",
                limit: FOLDER_BYTES_MAX,
            });
        }
        let (begin, end) = (folder.id, folder.id + length);
        let mut at = begin.saturating_add(from);
        while at < end {
            let Some(record) = Record::read(self, at)? else {
                at = Self::next_sector(at);
                continue;
            };
            let (named, next) = self.named(record, end)?;
            let start = at - begin;
            at = next;
            let Some(named) = named else {
                continue;
            };
            let entry = Entry {
                name: &named.name,
                alias: None,
                object: &named.object,
                start,
                end: named.end - begin,
            };
            if visit(entry)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn attributes(&self, object: &Object) -> Attributes {
        if object.is_unreadable {
            return unreadable(FileId(object.id));
        }
        let size_bytes = match object.kind {
            FileKind::Symlink => object.target.len() as u64,
            _ => object.extents.length_bytes(),
        };
        let block = self.top.block_bytes;
        let used = object.extents.length_bytes().div_ceil(block);
        Attributes {
            file: FileId(object.id),
            kind: object.kind,
            mode: object.mode,
            links: object.links,
            uid: object.uid,
            gid: object.gid,
            size_bytes,
            used_bytes: used.saturating_mul(block),
            accessed: object.accessed,
            modified: object.modified,
            changed: object.changed,
        }
    }

    fn read(&self, file: &Object, offset: u64, length: u64) -> Result<Segments, GuestError> {
        if let Some(fault) = &file.fault {
            return Err(fault.clone());
        }
        let source = &**self.pages.source();
        let place = Place::Entry {
            offset_bytes: file.id,
        };
        file.extents.read(source, offset, length, place)
    }

    fn statistics(&self) -> Result<Statistics, GuestError> {
        Ok(Statistics {
            total_bytes: self.total_bytes,
            free_bytes: 0,
            available_bytes: 0,
            total_files: 0,
            free_files: 0,
        })
    }

    fn parent(&self, folder: &Object) -> Result<Parent, GuestError> {
        self.above(folder).map(Parent::Is)
    }

    fn link_target(&self, object: &Object) -> Result<Vec<u8>, GuestError> {
        let place = Place::Entry {
            offset_bytes: object.id,
        };
        match object.kind {
            FileKind::Symlink if object.target.is_empty() || object.target.contains(&0) => {
                Err(GuestError::corrupt(place, "the link leads nowhere"))
            }
            FileKind::Symlink => Ok(object.target.clone()),
            _ => Err(GuestError::Invalid),
        }
    }

    fn extended_attributes(&self, _: &Object) -> Vec<ExtendedAttribute> {
        Vec::new()
    }

    fn particulars(&self, object: &Object) -> Particulars {
        Particulars {
            special: object.special,
            created: object.created,
        }
    }
}

const FOLDER_BYTES_MAX: u64 = 256 << 20;
