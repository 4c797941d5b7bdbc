//! A filesystem as a tree of files.

use std::borrow::Cow;
use std::sync::Arc;

use export::{Attributes, ExtendedAttribute, FileId, Particulars, Segments, Statistics};

use super::ExFat;
use super::entry::{Object, ROOT};
use crate::GuestError;
use crate::bytes::to_usize;
use crate::entry_tree::{EntryFormat, Parent, Visit};
use crate::entry_walk::PlacedFormat;
use crate::extents::Extents;
use crate::shown::unreadable;

impl EntryFormat for ExFat {
    type Object = Object;

    fn root(&self) -> u64 {
        ROOT
    }

    fn object(&self, id: u64) -> Result<Object, GuestError> {
        self.at(id)
    }

    fn scan(&self, folder: &Object, from: u64, visit: Visit<'_, Object>) -> Result<(), GuestError> {
        self.scan_folder(folder, from, visit)
    }

    fn attributes(&self, object: &Object) -> Attributes {
        if object.fault.is_some() {
            return unreadable(FileId(object.id));
        }
        let size_bytes = object.stream.length_bytes;
        let clusters = size_bytes.div_ceil(self.geometry.cluster_bytes);
        Attributes {
            file: FileId(object.id),
            kind: object.kind(),
            mode: object.attributes.mode(),
            links: 1,
            uid: 0,
            gid: 0,
            size_bytes,
            used_bytes: clusters.saturating_mul(self.geometry.cluster_bytes),
            accessed: object.accessed,
            modified: object.modified,
            changed: object.modified,
        }
    }

    fn read(&self, file: &Object, offset: u64, length: u64) -> Result<Segments, GuestError> {
        let extents = self.extents(&file.stream)?;
        let valid = file.stream.valid_bytes.saturating_sub(offset).min(length);
        let source = &**self.pages.source();
        let mut content = extents.read(source, offset, valid, file.place())?;
        content.push_zeroes(to_usize(length - valid));
        Ok(content)
    }

    fn statistics(&self) -> Result<Statistics, GuestError> {
        let free = match self.free_clusters.get() {
            Some(free) => *free,
            None => *self.free_clusters.get_or_init(|| self.count_free()),
        };
        let bytes = |clusters: u64| clusters * self.geometry.cluster_bytes;
        Ok(Statistics {
            total_bytes: bytes(self.geometry.clusters.into()),
            free_bytes: bytes(free),
            available_bytes: bytes(free),
            total_files: 0,
            free_files: 0,
        })
    }

    fn parent(&self, _: &Object) -> Result<Parent, GuestError> {
        Ok(Parent::NotStored)
    }

    fn fold<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        self.upcase.fold(name)
    }

    fn extended_attributes(&self, object: &Object) -> Vec<ExtendedAttribute> {
        object.attributes.as_extended_attributes()
    }

    fn particulars(&self, object: &Object) -> Particulars {
        Particulars {
            special: None,
            created: object.created,
        }
    }
}

impl PlacedFormat for ExFat {
    fn clusters(&self, object: &Object) -> Result<Arc<Extents>, GuestError> {
        // Of a chain, all that hangs on it.
        self.extents(&object.stream)
    }
}
