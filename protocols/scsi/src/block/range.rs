//! Which blocks a command is about.

use crate::cdb::Cdb;
use crate::response::Ending;
use crate::sense::{Sense, code};
use crate::table::Data;
use crate::unit::{Geometry, LogicalUnit};

use super::TRANSFER_BYTES_MAX;

/// Consecutive blocks of a unit, all of which are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRange {
    pub(crate) lba: u64,
    pub(crate) blocks: u64,
}

impl BlockRange {
    /// The blocks of a command that has LBA and length at the usual places of its size.
    pub(crate) fn of(cdb: &Cdb, geometry: &Geometry) -> Result<Self, Ending> {
        let (lba, blocks) = match cdb.opcode() {
            // COMPARE AND WRITE
            0x89 => (cdb.u64(2), u64::from(cdb.u8(13))),
            // WRITE ATOMIC
            0x9c => (cdb.u64(2), u64::from(cdb.u16(12))),
            opcode => match opcode >> 5 {
                0 => {
                    let blocks = u64::from(cdb.u8(4));
                    let blocks = if blocks == 0 { 256 } else { blocks };
                    (u64::from(cdb.u24(1) & 0x1f_ffff), blocks)
                }
                1 | 2 => (u64::from(cdb.u32(2)), u64::from(cdb.u16(7))),
                5 => (u64::from(cdb.u32(2)), u64::from(cdb.u32(6))),
                _ => (cdb.u64(2), u64::from(cdb.u32(10))),
            },
        };
        Self::new(lba, blocks, geometry)
    }

    /// Like [`of`](Self::of); no blocks mean all up to the end.
    pub(crate) fn to_the_end(cdb: &Cdb, geometry: &Geometry) -> Result<Self, Ending> {
        let range = Self::of(cdb, geometry)?;
        match range.blocks {
            0 => Self::new(range.lba, geometry.blocks - range.lba, geometry),
            _ => Ok(range),
        }
    }

    /// Refuses what is not there. A range of no blocks may stand at the end, not beyond (SBC-3, 4.6).
    pub(crate) fn new(lba: u64, blocks: u64, geometry: &Geometry) -> Result<Self, Ending> {
        match lba.checked_add(blocks) {
            Some(end) if end <= geometry.blocks => Ok(Self { lba, blocks }),
            _ => {
                let first = lba.max(geometry.blocks);
                Err(Sense::illegal(code::LBA_OUT_OF_RANGE).at(first).into())
            }
        }
    }

    /// Whether both have a block in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.lba < other.lba.saturating_add(other.blocks)
            && other.lba < self.lba.saturating_add(self.blocks)
    }

    /// Bytes of the range if one command may move them.
    pub(crate) fn transfer_bytes(&self, geometry: &Geometry) -> Result<u32, Ending> {
        match u32::try_from(geometry.bytes(self.blocks)) {
            Ok(bytes) if bytes <= TRANSFER_BYTES_MAX => Ok(bytes),
            _ => Err(Sense::illegal(code::INVALID_FIELD_IN_CDB).into()),
        }
    }
}

/// How many bytes of Data-Out a command over blocks takes.
pub(crate) fn data_out_bytes(unit: &LogicalUnit, data: Data, cdb: &Cdb) -> Result<u32, Ending> {
    let geometry = &unit.geometry;
    let range = BlockRange::of(cdb, geometry)?;
    let all = range.transfer_bytes(geometry);
    match data {
        Data::WriteBlocks => all,
        Data::TwiceBlocks => all.map(|bytes| bytes.saturating_mul(2)),
        Data::OneBlock if cdb.opcode() == 0x93 && cdb.has(1, 0x01) => Ok(0),
        Data::OneBlock => Ok(geometry.block_bytes),
        Data::ByteCheck => match cdb.u8(1) & 0x06 {
            0 => Ok(0),
            2 => all,
            6 => Ok(geometry.block_bytes),
            _ => Err(Sense::invalid_field_in_cdb(1, Some(2)).into()),
        },
        Data::None | Data::Allocation(_) | Data::Parameters(_) | Data::ReadBlocks => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        block_bytes: 512,
        blocks: 1000,
        physical_exponent: 3,
        preferred_blocks: 1,
        read_only: false,
    };

    fn range(bytes: &[u8]) -> Result<(u64, u64), u64> {
        match BlockRange::of(&Cdb::new(bytes), &GEOMETRY) {
            Ok(range) => Ok((range.lba, range.blocks)),
            Err(Ending::Check(sense)) if sense.code == code::LBA_OUT_OF_RANGE => {
                Err(sense.information.unwrap())
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_size_of_command_has_its_fields() {
        assert_eq!(range(&[0x08, 0, 1, 2, 0, 0]), Ok((258, 256)));
        assert_eq!(range(&[0x08, 0xe0, 0, 2, 9, 0]), Ok((2, 9)));
        assert_eq!(range(&[0x28, 0, 0, 0, 0, 7, 0, 0, 3, 0]), Ok((7, 3)));
        assert_eq!(range(&[0xa8, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0]), Ok((7, 3)));
        assert_eq!(
            range(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0]),
            Ok((7, 3))
        );
        assert_eq!(
            range(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0]),
            Ok((7, 3))
        );
        assert_eq!(
            range(&[0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0]),
            Ok((7, 3))
        );
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let at = |lba: u64, blocks: u32| {
            let mut bytes = vec![0x88, 0];
            bytes.extend_from_slice(&lba.to_be_bytes());
            bytes.extend_from_slice(&blocks.to_be_bytes());
            range(&bytes)
        };
        assert_eq!(at(999, 1), Ok((999, 1)));
        assert_eq!(at(1000, 0), Ok((1000, 0)));
        assert_eq!(at(999, 2), Err(1000), "the first that is not there");
        assert_eq!(at(1001, 0), Err(1001));
        assert_eq!(at(u64::MAX, u32::MAX), Err(u64::MAX));
    }
}
