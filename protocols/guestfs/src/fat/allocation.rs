//! Which clusters are in use: those of which either table says so.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use ::bytes::Bytes;

use super::Fat;
use super::boot::Width;
use super::chain::{Link, entry_bytes};
use crate::bytes::to_usize;
use crate::{GuestError, Place, Source};

/// Ranges of bytes that are in use, one part of the table after the other.
pub(crate) struct UsedClusters {
    fat: Fat,
    parts: std::vec::IntoIter<TablePart>,
    ready: VecDeque<Range<u64>>,
}

/// A part of a table that is read at once.
#[derive(Debug, Clone)]
pub(super) struct TablePart {
    /// The first entry.
    pub first: u32,
    /// Where it lies in a table.
    offset: u64,
    pub length: u64,
}

impl UsedClusters {
    pub(crate) fn of(source: Arc<dyn Source>) -> Result<Self, GuestError> {
        let fat = Fat::open(source)?;
        let geometry = &fat.geometry;
        for table in geometry.tables() {
            let first = geometry.table_at + u64::from(table) * geometry.table_bytes;
            let media = fat.pages.read(first, 1)?;
            if media.first() != Some(&geometry.media) {
                return Err(GuestError::corrupt(
                    Place::Chain { cluster: 0 },
                    "the table does not begin as the boot sector says",
                ));
            }
        }
        let parts = fat.table_parts().collect::<Vec<_>>();
        // Whatever is before the first cluster: boot sectors, tables, a root at a place of its own.
        let before = 0..geometry.data_at;
        Ok(Self {
            ready: VecDeque::from([before]),
            parts: parts.into_iter(),
            fat,
        })
    }

    pub(crate) fn end_bytes(&self) -> u64 {
        let geometry = &self.fat.geometry;
        geometry.data_at + u64::from(geometry.clusters) * geometry.cluster_bytes
    }

    fn read_part(&mut self, part: &TablePart) -> Result<(), GuestError> {
        let geometry = &self.fat.geometry;
        let tables: Result<Vec<Bytes>, GuestError> = geometry
            .tables()
            .map(|table| self.fat.read_part(table, part))
            .collect();
        let tables = tables?;
        for index in 0..geometry.width.entries_in(part.length) {
            let cluster = part.first + u32::try_from(index).expect("a part is small");
            let Some(at) = geometry.place(cluster) else {
                continue;
            };
            let is_used = |table: &Bytes| {
                let value = entry_bytes(geometry.width, table, index);
                Link::of(geometry.width, cluster, value) != Link::Free
            };
            if tables.iter().any(is_used) {
                let end = at + geometry.cluster_bytes;
                match self.ready.back_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => self.ready.push_back(at..end),
                }
            }
        }
        Ok(())
    }
}

impl Iterator for UsedClusters {
    type Item = Result<Range<u64>, GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            let part = self.parts.next()?;
            if let Err(error) = self.read_part(&part) {
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl Fat {
    /// The parts of a table that have entries of clusters, each of an even number of whole entries.
    pub(super) fn table_parts(&self) -> impl Iterator<Item = TablePart> + use<> {
        let width = self.geometry.width;
        let entries = u64::from(self.geometry.clusters) + 2;
        let needed = match width {
            Width::Twelve => (entries * 3).div_ceil(2).next_multiple_of(3),
            Width::Sixteen => entries * 2,
            Width::ThirtyTwo => entries * 4,
        };
        let needed = needed.min(self.geometry.table_bytes);
        (0..needed.div_ceil(PART_BYTES)).map(move |number| {
            let offset = number * PART_BYTES;
            let before = width.entries_in(offset);
            TablePart {
                first: u32::try_from(before).expect("there are as many entries as clusters"),
                offset,
                length: (needed - offset).min(PART_BYTES),
            }
        })
    }

    pub(super) fn read_part(&self, table: u8, part: &TablePart) -> Result<Bytes, GuestError> {
        let geometry = &self.geometry;
        let at = geometry.table_at + u64::from(table) * geometry.table_bytes + part.offset;
        let bytes = self.pages.source().read(at, to_usize(part.length))?;
        Ok(bytes.to_vec().into())
    }
}

/// Whole entries of every width.
const PART_BYTES: u64 = 3 << 16;
