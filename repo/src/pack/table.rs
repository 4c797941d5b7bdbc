//! The table at the end of a sealed pack: which records it has.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::format::{
    PACK_VERSION, PAGE_BYTES, PackTrailer, Place, TABLE_LINE_BYTES, TABLE_LINES_MAX, TRAILER_BYTES,
    TRAILER_MAGIC, TRAILER_RECOVERED, TableLine,
};
use super::record::RecordHeader;
use crate::chunk::ChunkId;
use crate::disk::{AlignedBuffer, DiskFile};
use crate::error::RepoError;

/// What a pack holds, in the order in which it was written.
#[derive(Debug, Clone, Default)]
pub(crate) struct PackTable {
    lines: Vec<TableLine>,
}

impl PackTable {
    pub(crate) fn push(&mut self, place: Place, header: &RecordHeader) {
        self.lines.push(TableLine {
            id: *header.id.as_bytes(),
            slot: U32::new(place.slot),
            stored_length: U32::new(header.stored_length),
            raw_length: U32::new(header.raw_length),
            kind: header.kind.number(),
            codec: header.codec.number(),
            reserved: [0; 2],
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Memory that it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.lines.capacity() * size_of::<TableLine>()
    }

    /// Names and slots in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ChunkId, u32)> + '_ {
        self.lines
            .iter()
            .map(|line| (line.chunk_id(), line.slot.get()))
    }

    /// Whether the record at `slot` has this name.
    pub(crate) fn holds(&self, id: ChunkId, slot: u32) -> bool {
        // Records were appended, so the lines are sorted by offset, which is the high part of the slot.
        let found = self
            .lines
            .binary_search_by_key(&slot, |line| line.slot.get());
        found
            .ok()
            .and_then(|number| self.lines.get(number))
            .is_some_and(|line| line.chunk_id() == id)
    }

    /// Table and trailer, to be written at `table_offset`, a multiple of the page size; so is the length.
    pub(crate) fn encode(&self, table_offset: u64, origin: TableOrigin) -> Vec<u8> {
        let mut bytes = self.lines.as_slice().as_bytes().to_vec();
        let trailer = PackTrailer {
            magic: TRAILER_MAGIC,
            version: U32::new(PACK_VERSION),
            flags: U32::new(match origin {
                TableOrigin::Writer => 0,
                TableOrigin::Recovery => TRAILER_RECOVERED,
            }),
            table_offset: U64::new(table_offset),
            line_count: U32::new(
                u32::try_from(self.lines.len()).expect("a pack has fewer records than that"),
            ),
            checksum: U32::ZERO,
            table_hash: *blake3::hash(&bytes).as_bytes(),
        };
        let end = (bytes.len() + TRAILER_BYTES).next_multiple_of(PAGE_BYTES);
        bytes.resize(end - TRAILER_BYTES, 0);
        bytes.extend_from_slice(&trailer.encode());
        bytes
    }

    /// Bytes of the table that `trailer` tells of, if it can be true of a pack of `pack_length` bytes.
    pub(crate) fn stored_length(trailer: &PackTrailer, pack_length: u64) -> Option<usize> {
        let count = trailer.line_count.get();
        let length = usize::try_from(count).ok()? * TABLE_LINE_BYTES;
        let whole = (length + TRAILER_BYTES).next_multiple_of(PAGE_BYTES) as u64;
        let fits = trailer.table_offset.get().checked_add(whole) == Some(pack_length);
        (count <= TABLE_LINES_MAX && fits).then_some(length)
    }

    /// Reads the lines, if they are the ones the trailer was made for.
    pub(crate) fn decode(trailer: &PackTrailer, bytes: &[u8]) -> Option<Self> {
        if blake3::hash(bytes).as_bytes() != &trailer.table_hash {
            return None;
        }
        let lines = <[TableLine]>::ref_from_bytes(bytes).ok()?;
        Some(Self {
            lines: lines.to_vec(),
        })
    }
}

/// Who made a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableOrigin {
    /// The writer, which knew what it wrote.
    Writer,
    /// A scan after a crash: records may have been lost of which the index still tells.
    Recovery,
}

/// How a pack ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// With its table.
    Sealed {
        table: PackTable,
        origin: TableOrigin,
        table_offset: u64,
    },
    /// With a sound trailer, whose table is damaged.
    Damaged { table_offset: u64 },
    /// With a record, or in the middle of one.
    Open,
}

/// The table of a pack, if it has a sound one.
pub(crate) fn pack_table(file: &dyn DiskFile) -> Result<Option<PackTable>, RepoError> {
    Ok(match read_ending(file)? {
        Ending::Sealed { table, .. } => Some(table),
        Ending::Damaged { .. } | Ending::Open => None,
    })
}

/// Reads the end of a pack.
pub(super) fn read_ending(file: &dyn DiskFile) -> Result<Ending, RepoError> {
    let length = file.length()?;
    let page = PAGE_BYTES as u64;
    if length < 2 * page || !length.is_multiple_of(page) {
        return Ok(Ending::Open);
    }
    let mut last = AlignedBuffer::zeroed(PAGE_BYTES);
    if file.read_at(length - page, &mut last)? < PAGE_BYTES {
        return Ok(Ending::Open);
    }
    let Some(trailer) = last
        .last_chunk::<TRAILER_BYTES>()
        .and_then(|end| PackTrailer::decode(end))
    else {
        return Ok(Ending::Open);
    };
    let Some(table_length) = PackTable::stored_length(&trailer, length) else {
        return Ok(Ending::Open);
    };
    let table_offset = trailer.table_offset.get();
    let mut bytes = AlignedBuffer::zeroed(table_length.next_multiple_of(PAGE_BYTES));
    file.read_at(table_offset, &mut bytes)?;
    let origin = match trailer.flags.get() & TRAILER_RECOVERED {
        0 => TableOrigin::Writer,
        _ => TableOrigin::Recovery,
    };
    Ok(
        match PackTable::decode(&trailer, bytes.get(..table_length).unwrap_or_default()) {
            Some(table) => Ending::Sealed {
                table,
                origin,
                table_offset,
            },
            None => Ending::Damaged { table_offset },
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyRing;
    use crate::pack::format::RecordKind;
    use crate::pack::record::RecordEncoder;
    use std::sync::Arc;

    #[test]
    fn a_table_reads_back_and_damage_is_found() {
        let mut table = PackTable::default();
        let mut ids = Vec::new();
        let mut encoder = RecordEncoder::new(1, Arc::new(KeyRing::plain())).unwrap();
        for number in 0..200_u32 {
            let raw = number.to_le_bytes();
            let record = encoder
                .encode(RecordKind::Chunk, ChunkId::of(&raw), &raw)
                .unwrap();
            let place = Place::new(1, 4096 + number * 128, record.length());
            table.push(place, &record.header);
            ids.push((record.header.id, place.slot));
        }
        let bytes = table.encode(65_536, TableOrigin::Writer);
        assert_eq!(bytes.len() % PAGE_BYTES, 0);
        let trailer = PackTrailer::decode(&bytes[bytes.len() - TRAILER_BYTES..]).unwrap();
        let length = PackTable::stored_length(&trailer, 65_536 + bytes.len() as u64).unwrap();
        assert_eq!(PackTable::stored_length(&trailer, 65_536), None);
        let back = PackTable::decode(&trailer, &bytes[..length]).unwrap();
        assert!(ids.iter().all(|(id, slot)| back.holds(*id, *slot)));
        assert!(!back.holds(ids[0].0, ids[1].1));
        let mut hurt = bytes[..length].to_vec();
        hurt[500] ^= 1;
        assert!(PackTable::decode(&trailer, &hurt).is_none());
    }
}
