//! The boot sector, which says where everything else lies, and its copy in the last sector of the volume.

use crate::bytes::{View, to_usize};
use crate::{GuestError, Place, Source};

/// What the boot sector says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    pub cluster_bytes: u64,
    pub clusters: u64,
    /// First cluster of the table of files.
    pub table: u64,
    /// First cluster of the copy of its first records.
    pub mirror: u64,
    pub record_bytes: usize,
}

impl Boot {
    /// The boot sector, or its copy where it is hurt.
    pub(super) fn read(source: &dyn Source) -> Result<Self, GuestError> {
        let length = source.length_bytes();
        let first = Self::read_at(source, 0);
        let Err(error) = first else {
            return first;
        };
        if !error.is_of_one_place() {
            return Err(error);
        }
        for sector in SECTORS {
            let Some(at) = length.checked_sub(sector).filter(|at| *at > 0) else {
                continue;
            };
            match Self::read_at(source, at) {
                Ok(boot) => {
                    tracing::warn!(%error, "the copy of the boot sector is used");
                    return Ok(boot);
                }
                Err(other) if !other.is_of_one_place() => return Err(other),
                Err(_) => {}
            }
        }
        Err(error)
    }

    fn read_at(source: &dyn Source, at: u64) -> Result<Self, GuestError> {
        let bytes = source.read(at, SECTOR_BYTES)?.to_vec();
        Self::decode(&bytes, source.length_bytes())
    }

    fn decode(bytes: &[u8], volume_bytes: u64) -> Result<Self, GuestError> {
        let view = View::new(bytes, Place::Head);
        if !is_boot_sector(bytes) {
            return Err(view.corrupt("there is no boot sector of NTFS"));
        }
        let sector = u64::from(view.u16(11)?);
        let cluster_sectors = match view.u8(13)? {
            // Beyond 128 it is a power of two, counted down from 256.
            power @ 0xE0.. => 1 << (0x100 - u64::from(power)),
            sectors => u64::from(sectors),
        };
        let cluster_bytes = sector.saturating_mul(cluster_sectors);
        let sound = SECTORS.contains(&sector)
            && cluster_bytes.is_power_of_two()
            && (512..=CLUSTER_MAX).contains(&cluster_bytes);
        if !sound {
            return Err(view.corrupt("its sectors or clusters have an impossible size"));
        }
        let sectors = view.u64(40)?;
        if sectors
            .checked_mul(sector)
            .is_none_or(|bytes| bytes > volume_bytes)
        {
            return Err(view.corrupt("the filesystem is longer than its volume"));
        }
        let clusters = sectors / cluster_sectors;
        let (table, mirror) = (view.u64(48)?, view.u64(56)?);
        if table == 0 || table >= clusters {
            return Err(view.corrupt("the table of files lies beyond the end"));
        }
        let record_bytes = match view.u8(64)? {
            power @ 0x80.. => 1_u64.checked_shl(0x100 - u32::from(power)),
            count => Some(u64::from(count) * cluster_bytes),
        };
        let record_bytes = record_bytes
            .filter(|bytes| bytes.is_power_of_two() && (1024..=RECORD_MAX).contains(bytes))
            .ok_or_else(|| view.corrupt("its file records have an impossible size"))?;
        Ok(Self {
            cluster_bytes,
            clusters,
            table,
            mirror,
            record_bytes: to_usize(record_bytes),
        })
    }
}

/// Where a filesystem ends by what its boot sector says; `None` if it is none.
pub(crate) fn ends_at(bytes: &[u8]) -> Option<u64> {
    let view = View::new(bytes, Place::Head);
    let sectors = view.u64(40).ok().filter(|_| is_boot_sector(bytes))?;
    sectors.checked_mul(u64::from(view.u16(11).ok()?))
}

/// Whether a sector is one that NTFS begins or ends with.
fn is_boot_sector(bytes: &[u8]) -> bool {
    bytes.get(3..11) == Some(b"NTFS    ") && bytes.get(510..512) == Some(&[0x55, 0xAA])
}

/// Sizes of sectors that there are.
pub(crate) const SECTORS: [u64; 4] = [512, 1024, 2048, 4096];
const SECTOR_BYTES: usize = 512;
const CLUSTER_MAX: u64 = 2 << 20;
const RECORD_MAX: u64 = 64 << 10;
