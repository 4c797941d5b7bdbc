//! The boot sector: where everything lies.

use crate::bytes::View;
use crate::{GuestError, Place, Source};

/// How wide an entry of the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Twelve,
    Sixteen,
    ThirtyTwo,
}

/// Where the parts of a filesystem lie, in bytes of the volume.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub width: Width,
    pub cluster_bytes: u64,
    /// How many clusters there are; the first is number 2.
    pub clusters: u32,
    pub data_at: u64,
    pub table_at: u64,
    pub table_bytes: u64,
    pub tables: u8,
    /// Which table is written where they are not all the same.
    pub active_table: Option<u8>,
    pub media: u8,
    pub root: Root,
    /// The sector that counts free clusters, if there is one.
    pub counts_at: Option<u64>,
    pub end: u64,
}

/// The folder at the top.
#[derive(Debug, Clone, Copy)]
pub(super) enum Root {
    /// At a place of its own.
    Fixed { at: u64, length_bytes: u64 },
    /// A chain like any other.
    Chain { cluster: u32 },
}

impl Width {
    /// What so many clusters make it, as Linux has it: not their number makes FAT32, but where its table's length stands.
    fn of(is_wide: bool, clusters: u64) -> Option<Self> {
        let (width, most) = match clusters {
            _ if is_wide => (Self::ThirtyTwo, 0x0FFF_FFF5),
            0..=4084 => (Self::Twelve, 4084),
            _ => (Self::Sixteen, 65524),
        };
        (clusters <= most).then_some(width)
    }

    /// How many entries of a table lie in so many bytes of it.
    pub(super) fn entries_in(self, bytes: u64) -> u64 {
        match self {
            Self::Twelve => bytes * 2 / 3,
            Self::Sixteen => bytes / 2,
            Self::ThirtyTwo => bytes / 4,
        }
    }
}

impl Geometry {
    /// From the boot sector, or from its copy where FAT32 has one.
    pub(super) fn read(source: &dyn Source) -> Result<Self, GuestError> {
        let at = |offset: u64| {
            let sector = source.read(offset, SECTOR_BYTES)?.to_vec();
            Self::decode(View::new(&sector, Place::Head), source.length_bytes())
        };
        let fault = match at(0) {
            Err(error) if error.is_of_one_place() => error,
            other => return other,
        };
        for sector_bytes in [512, 4096] {
            if let Ok(geometry) = at(6 * sector_bytes)
                && geometry.width == Width::ThirtyTwo
            {
                tracing::debug!(%fault, "the boot sector is hurt, its copy is taken");
                return Ok(geometry);
            }
        }
        Err(fault)
    }

    fn decode(view: View<'_>, volume_bytes: u64) -> Result<Self, GuestError> {
        let sector = u64::from(view.u16(11)?);
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
            return Err(view.corrupt("the size of a sector is impossible"));
        }
        let sectors_per_cluster = u64::from(view.u8(13)?);
        if !sectors_per_cluster.is_power_of_two() {
            return Err(view.corrupt("the size of a cluster is impossible"));
        }
        let reserved = u64::from(view.u16(14)?);
        let tables = view.u8(16)?;
        if reserved == 0 || tables == 0 {
            return Err(view.corrupt("there is no room for the boot sector or the table"));
        }
        let root_entries = u64::from(view.u16(17)?);
        let sectors = match view.u16(19)? {
            0 => u64::from(view.u32(32)?),
            few => u64::from(few),
        };
        let (table_sectors, is_wide) = match view.u16(22)? {
            0 => (u64::from(view.u32(36)?), true),
            few => (u64::from(few), false),
        };
        if sectors * sector > volume_bytes {
            return Err(view.corrupt("it is longer than the volume"));
        }
        let root_at = reserved + u64::from(tables) * table_sectors;
        let data = root_at + (root_entries * 32).div_ceil(sector);
        let Some(data_sectors) = sectors.checked_sub(data).filter(|_| table_sectors > 0) else {
            return Err(view.corrupt("its parts are longer than the whole"));
        };
        let by_room = data_sectors / sectors_per_cluster;
        let width = Width::of(is_wide, by_room)
            .ok_or(view.corrupt("it has more clusters than its table can have"))?;
        let table_bytes = table_sectors * sector;
        let in_table = width.entries_in(table_bytes);
        let clusters = by_room.min(in_table.saturating_sub(2));
        let clusters = u32::try_from(clusters).expect("compared with the most there can be");
        let flags = view.u16(40)?;
        let active = u8::try_from(flags & 0xF).unwrap_or(0);
        if is_wide && view.u16(42)? != 0 {
            return Err(GuestError::unsupported("a version of FAT32 above 0.0"));
        }
        let root = match is_wide {
            true => Root::Chain {
                cluster: view.u32(44)?,
            },
            false => Root::Fixed {
                at: root_at * sector,
                length_bytes: root_entries * 32,
            },
        };
        let counts = u64::from(view.u16(48)?);
        Ok(Self {
            width,
            cluster_bytes: sectors_per_cluster * sector,
            clusters,
            data_at: data * sector,
            table_at: reserved * sector,
            table_bytes,
            tables,
            active_table: (is_wide && flags & 0x80 != 0 && active < tables).then_some(active),
            media: view.u8(21)?,
            root,
            counts_at: (is_wide && (1..reserved).contains(&counts)).then_some(counts * sector),
            end: sectors * sector,
        })
    }

    /// Where a cluster lies, if there is such a cluster.
    pub(super) fn place(&self, cluster: u32) -> Option<u64> {
        let index = cluster.checked_sub(2).filter(|at| *at < self.clusters)?;
        Some(self.data_at + u64::from(index) * self.cluster_bytes)
    }

    /// The tables, the best first.
    pub(super) fn tables(&self) -> impl Iterator<Item = u8> {
        let first = self.active_table.unwrap_or(0);
        // A table that is not kept in step says nothing.
        let others = (0..self.tables).filter(move |table| *table != first);
        let others = others.filter(|_| self.active_table.is_none());
        [first].into_iter().chain(others).take(TABLES_READ)
    }
}

const SECTOR_BYTES: usize = 512;
/// There are never more than two in practice.
const TABLES_READ: usize = 2;
