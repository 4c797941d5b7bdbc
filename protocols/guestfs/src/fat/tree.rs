//! A filesystem as a tree of files.

use std::borrow::Cow;
use std::sync::Arc;

use export::{Attributes, ExtendedAttribute, FileId, Particulars, Segments, Statistics};

use super::Fat;
use super::chain::{Link, entry_bytes, room_for};
use super::entry::{Object, ROOT};
use super::folder::fold;
use crate::bytes::View;
use crate::entry_tree::{EntryFormat, Parent, Visit};
use crate::entry_walk::PlacedFormat;
use crate::extents::Extents;
use crate::{GuestError, Place};

impl EntryFormat for Fat {
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
        // How long a folder is, only its chain tells. Reading a folder that has none is an error.
        let size_bytes = match object.attributes.is_folder() {
            true => self
                .placed(object)
                .map_or(0, |chain| chain.extents.length_bytes()),
            false => object.size_bytes,
        };
        Attributes {
            file: FileId(object.id),
            kind: object.kind(),
            mode: object.attributes.mode(),
            links: 1,
            uid: 0,
            gid: 0,
            size_bytes,
            used_bytes: room_for(size_bytes, self.geometry.cluster_bytes),
            accessed: object.accessed,
            modified: object.modified,
            changed: object.modified,
        }
    }

    fn read(&self, file: &Object, offset: u64, length: u64) -> Result<Segments, GuestError> {
        let chain = self.placed(file)?;
        if offset.saturating_add(length) > chain.extents.length_bytes()
            && let Some(fault) = &chain.fault
        {
            return Err(fault.clone());
        }
        let source = &**self.pages.source();
        chain.extents.read(source, offset, length, file.place())
    }

    fn statistics(&self) -> Result<Statistics, GuestError> {
        let free = match self.free_clusters.get() {
            Some(free) => *free,
            None => *self.free_clusters.get_or_init(|| self.count_free()),
        };
        let bytes = |clusters: u32| u64::from(clusters) * self.geometry.cluster_bytes;
        Ok(Statistics {
            total_bytes: bytes(self.geometry.clusters),
            free_bytes: bytes(free),
            available_bytes: bytes(free),
            total_files: 0,
            free_files: 0,
        })
    }

    fn parent(&self, _: &Object) -> Result<Parent, GuestError> {
        // Folders say where the one above begins, not where its entry is.
        Ok(Parent::NotStored)
    }

    fn fold<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        fold(name)
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

impl PlacedFormat for Fat {
    fn clusters(&self, object: &Object) -> Result<Arc<Extents>, GuestError> {
        let chain = self.placed(object)?;
        match &chain.fault {
            None => Ok(Arc::new(chain.extents.clone())),
            Some(fault) => Err(fault.clone()),
        }
    }
}

impl Fat {
    /// How many clusters are free: what FAT32 says of itself, or what its table does; none where that cannot be read.
    fn count_free(&self) -> u32 {
        let said = self.free_said().unwrap_or_default();
        said.unwrap_or_else(|| self.free_in_table().unwrap_or(0))
    }

    fn free_said(&self) -> Result<Option<u32>, GuestError> {
        let Some(at) = self.geometry.counts_at else {
            return Ok(None);
        };
        let sector = self.pages.read(at, 512)?;
        let view = View::new(&sector, Place::Head);
        let is_valid = view.slice(0, 4)? == b"RRaA" && view.slice(484, 4)? == b"rrAa";
        let free = view.u32(488)?;
        Ok((is_valid && free <= self.geometry.clusters).then_some(free))
    }

    fn free_in_table(&self) -> Result<u32, GuestError> {
        let mut free = 0;
        let table = self.geometry.tables().next().unwrap_or(0);
        for part in self.table_parts() {
            let bytes = self.read_part(table, &part)?;
            for index in 0..self.geometry.width.entries_in(part.length) {
                let value = entry_bytes(self.geometry.width, &bytes, index);
                let cluster = part
                    .first
                    .saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
                let is_one = (2..self.geometry.clusters.saturating_add(2)).contains(&cluster);
                if is_one && Link::of(self.geometry.width, cluster, value) == Link::Free {
                    free += 1;
                }
            }
        }
        Ok(free)
    }
}
