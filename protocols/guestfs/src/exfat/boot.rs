//! The boot region and its copy: where everything lies.

use crate::bytes::{View, to_usize};
use crate::{GuestError, Place, Source};

/// Where the parts of a filesystem lie, in bytes of the volume.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub cluster_bytes: u64,
    /// How many clusters there are; the first is number 2.
    pub clusters: u32,
    pub heap_at: u64,
    /// Where the table of clusters lies that is in use.
    pub table_at: u64,
    /// Which table and bitmap are in use.
    pub active: usize,
    /// How many tables and bitmaps there are.
    pub tables: usize,
    pub root_cluster: u32,
    /// Whether it was in use: bitmap and folders may not agree.
    pub is_dirty: bool,
}

impl Geometry {
    /// From the boot region, or from its copy.
    pub(super) fn read(source: &dyn Source) -> Result<Self, GuestError> {
        let mut fault = None;
        for region in [0, BOOT_SECTORS] {
            for sector_bytes in SECTORS_BYTES {
                match Self::read_at(source, region * sector_bytes, sector_bytes) {
                    Ok(geometry) => {
                        if let Some(fault) = fault {
                            tracing::debug!(%fault, "the boot region is hurt, its copy is taken");
                        }
                        return Ok(geometry);
                    }
                    Err(error) if error.is_of_one_place() => fault = fault.or(Some(error)),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(fault.expect("regions were looked at"))
    }

    fn read_at(source: &dyn Source, at: u64, sector_bytes: u64) -> Result<Self, GuestError> {
        let length = BOOT_SECTORS * sector_bytes;
        if at + length > source.length_bytes() {
            return Err(GuestError::corrupt(Place::Head, "the volume is too short"));
        }
        let region = source.read(at, to_usize(length))?.to_vec();
        let view = View::new(&region, Place::Head);
        if view.slice(3, 8)? != b"EXFAT   " || view.u16(510)? != 0xAA55 {
            return Err(view.corrupt("it has no boot sector"));
        }
        if 1_u64.checked_shl(u32::from(view.u8(108)?)) != Some(sector_bytes) {
            return Err(view.corrupt("the size of a sector is impossible"));
        }
        let proven = (BOOT_SECTORS - 1) * sector_bytes;
        let sum = checksum(view.slice(0, to_usize(proven))?);
        let stored = view.slice(to_usize(proven), to_usize(sector_bytes))?;
        if stored.chunks_exact(4).any(|word| word != sum.to_le_bytes()) {
            return Err(view.corrupt("the checksum is wrong"));
        }
        Self::decode(view, sector_bytes, source.length_bytes())
    }

    fn decode(view: View<'_>, sector_bytes: u64, volume_bytes: u64) -> Result<Self, GuestError> {
        let revision = view.u16(104)?;
        if revision >> 8 != 1 {
            return Err(GuestError::unsupported("a version of exFAT other than 1"));
        }
        let sectors_shift = view.u8(109)?;
        let cluster_bytes = sector_bytes
            .checked_shl(sectors_shift.into())
            .filter(|bytes| sectors_shift <= 16 && *bytes <= CLUSTER_BYTES_MAX)
            .ok_or(view.corrupt("the size of a cluster is impossible"))?;
        let tables = usize::from(view.u8(110)?);
        if !matches!(tables, 1 | 2) {
            return Err(view.corrupt("the number of tables is impossible"));
        }
        let flags = view.u16(106)?;
        let active = usize::from(flags & 1);
        if active >= tables {
            return Err(view.corrupt("the table in use is not there"));
        }
        let clusters = view.u32(92)?;
        let in_bytes = |sectors: u64| {
            let bytes = sectors.checked_mul(sector_bytes);
            bytes.ok_or(view.corrupt("it is longer than the volume"))
        };
        let table_bytes = in_bytes(view.u32(84)?.into())?;
        let first_table = in_bytes(view.u32(80)?.into())?;
        let heap_at = in_bytes(view.u32(88)?.into())?;
        let end = in_bytes(view.u64(72)?)?;
        let heap_end = heap_at.saturating_add(u64::from(clusters).saturating_mul(cluster_bytes));
        if end > volume_bytes || heap_end > end {
            return Err(view.corrupt("it is longer than the volume"));
        }
        let room_for_tables = table_bytes.saturating_mul(tables as u64);
        if clusters == 0
            || clusters > CLUSTERS_MAX
            || (u64::from(clusters) + 2) * 4 > table_bytes
            || first_table < BOOT_SECTORS * 2 * sector_bytes
            || first_table.saturating_add(room_for_tables) > heap_at
        {
            return Err(view.corrupt("its parts do not fit each other"));
        }
        Ok(Self {
            cluster_bytes,
            clusters,
            heap_at,
            table_at: first_table + table_bytes * active as u64,
            active,
            tables,
            root_cluster: view.u32(96)?,
            is_dirty: flags & DIRTY != 0,
        })
    }

    /// Where a cluster lies, if there is such a cluster.
    pub(super) fn place(&self, cluster: u32) -> Option<u64> {
        let index = cluster.checked_sub(2).filter(|at| *at < self.clusters)?;
        Some(self.heap_at + u64::from(index) * self.cluster_bytes)
    }

    pub(super) fn heap_end(&self) -> u64 {
        self.heap_at + u64::from(self.clusters) * self.cluster_bytes
    }
}

/// The checksum of a boot region, without the bytes that change while it is in use.
fn checksum(region: &[u8]) -> u32 {
    let bytes = region.iter().enumerate();
    let proven = bytes.filter(|(at, _)| !matches!(at, 106 | 107 | 112));
    proven.fold(0, |sum: u32, (_, byte)| {
        sum.rotate_right(1).wrapping_add((*byte).into())
    })
}

const SECTORS_BYTES: [u64; 4] = [512, 4096, 1024, 2048];
/// In a boot region, with the one that holds the checksum.
const BOOT_SECTORS: u64 = 12;
const CLUSTER_BYTES_MAX: u64 = 32 << 20;
const CLUSTERS_MAX: u32 = 0xFFFF_FFF5;
const DIRTY: u16 = 2;
