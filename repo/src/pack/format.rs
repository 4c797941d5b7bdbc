//! The fixed layouts of `docs/formats/pack.md`.

use std::mem::size_of;
use std::path::PathBuf;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::crc32c;
use crate::chunk::ChunkId;

/// Where a record lies: which pack, and where in it. Only a hint; the record's own header says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Number of the pack; 0 is no pack.
    pub(crate) pack: u32,
    /// Offset and length in units, see [`Place::new`].
    pub(crate) slot: u32,
}

impl Place {
    /// Packs offset (22 bits) and length (10 bits, 0 for longer ones) of a record into one word, both in units of
    /// [`RECORD_ALIGNMENT`].
    pub(crate) fn new(pack: u32, offset: u32, record_bytes: usize) -> Self {
        let units = u32::try_from(record_bytes.div_ceil(RECORD_ALIGNMENT)).unwrap_or(u32::MAX);
        let units = if units <= LENGTH_UNITS_MAX { units } else { 0 };
        Self {
            pack,
            slot: (offset / ALIGNMENT_U32) << LENGTH_BITS | units,
        }
    }

    /// Where the record starts in its pack.
    pub(crate) fn offset(self) -> u64 {
        u64::from(self.slot >> LENGTH_BITS) * RECORD_ALIGNMENT as u64
    }

    /// Bytes to read for the whole record, if the word can tell.
    pub(crate) fn length(self) -> Option<usize> {
        match self.slot & LENGTH_UNITS_MAX {
            0 => None,
            units => usize::try_from(units)
                .ok()
                .map(|units| units * RECORD_ALIGNMENT),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        let (pack, slot) = bytes.split_at_mut(4);
        pack.copy_from_slice(&self.pack.to_le_bytes());
        slot.copy_from_slice(&self.slot.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (pack, slot) = bytes.split_first_chunk::<4>()?;
        Some(Self {
            pack: u32::from_le_bytes(*pack),
            slot: u32::from_le_bytes(slot.try_into().ok()?),
        })
    }
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// Nothing; fills up to the next multiple of 4 KiB.
    Padding,
    /// Bytes of a disk or stream.
    Chunk,
    /// A node of the map of a disk.
    ImageNode,
    /// A node of the map of a stream.
    StreamNode,
}

impl RecordKind {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Padding => 0,
            Self::Chunk => 1,
            Self::ImageNode => 2,
            Self::StreamNode => 3,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [
            Self::Padding,
            Self::Chunk,
            Self::ImageNode,
            Self::StreamNode,
        ]
        .into_iter()
        .find(|kind| kind.number() == number)
    }
}

/// First page of a pack.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PackHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U32,
    pub(crate) number: U32,
    pub(crate) epoch: U32,
    pub(crate) class: u8,
    pub(crate) reserved: [u8; 3],
    pub(crate) repository: [u8; 16],
    pub(crate) created: U64,
    pub(crate) encryption: U32,
    pub(crate) checksum: U32,
}

/// Head of a record.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RecordHead {
    pub(crate) magic: U16,
    pub(crate) kind: u8,
    pub(crate) codec: u8,
    pub(crate) stored_length: U32,
    pub(crate) raw_length: U32,
    pub(crate) checksum: U32,
    pub(crate) id: [u8; 32],
    pub(crate) tag: [u8; 16],
}

/// One line of the table at a pack's end.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct TableLine {
    pub(crate) id: [u8; 32],
    pub(crate) slot: U32,
    pub(crate) stored_length: U32,
    pub(crate) raw_length: U32,
    pub(crate) kind: u8,
    pub(crate) codec: u8,
    pub(crate) reserved: [u8; 2],
}

/// Last bytes of a sealed pack.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PackTrailer {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U32,
    pub(crate) flags: U32,
    pub(crate) table_offset: U64,
    pub(crate) line_count: U32,
    pub(crate) checksum: U32,
    pub(crate) table_hash: [u8; 32],
}

const _: () = assert!(size_of::<PackHeader>() == 56);
const _: () = assert!(size_of::<RecordHead>() == RECORD_HEAD_BYTES);
const _: () = assert!(size_of::<TableLine>() == TABLE_LINE_BYTES);
const _: () = assert!(size_of::<PackTrailer>() == TRAILER_BYTES);

impl PackHeader {
    pub(crate) fn encode(mut self) -> Vec<u8> {
        self.checksum = U32::ZERO;
        self.checksum = U32::new(crc32c(self.as_bytes()));
        let mut page = self.as_bytes().to_vec();
        page.resize(PAGE_BYTES, 0);
        page
    }

    /// Reads the first page, or says what is wrong with it.
    pub(crate) fn decode(page: &[u8]) -> Result<Self, &'static str> {
        let (header, _) = Self::read_from_prefix(page).map_err(|_| "the header is cut off")?;
        if header.magic != PACK_MAGIC {
            return Err("the header has no pack magic");
        }
        let mut plain = header.clone();
        plain.checksum = U32::ZERO;
        if crc32c(plain.as_bytes()) != header.checksum.get() {
            return Err("the header's checksum is wrong");
        }
        Ok(header)
    }
}

impl PackTrailer {
    pub(crate) fn encode(mut self) -> [u8; TRAILER_BYTES] {
        self.checksum = U32::ZERO;
        self.checksum = U32::new(crc32c(self.as_bytes()));
        zerocopy::transmute!(self)
    }

    /// Reads the last [`TRAILER_BYTES`] of a pack; `None` if the pack was not sealed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let trailer = Self::read_from_bytes(bytes).ok()?;
        let mut plain = trailer.clone();
        plain.checksum = U32::ZERO;
        let sound = crc32c(plain.as_bytes()) == trailer.checksum.get();
        (trailer.magic == TRAILER_MAGIC && sound).then_some(trailer)
    }
}

impl TableLine {
    pub(crate) fn chunk_id(&self) -> ChunkId {
        ChunkId::from_bytes(self.id)
    }
}

/// Path of a pack below the repository's root.
pub(crate) fn pack_path(number: u32, epoch: u32) -> PathBuf {
    PathBuf::from(format!(
        "packs/{:02x}/{number:08x}.{epoch:08x}",
        number & 0xff
    ))
}

/// Number and epoch from the name of a pack's file.
pub(crate) fn parse_pack_name(name: &str) -> Option<(u32, u32)> {
    let (number, epoch) = name.split_once('.')?;
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let parse = |text: &str| {
        let sound = text.len() == 8 && plain(text);
        sound.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    Some((parse(number)?, parse(epoch)?))
}

pub(crate) const PACK_MAGIC: [u8; 8] = *b"HFPACK\r\n";
pub(crate) const TRAILER_MAGIC: [u8; 8] = *b"HFPKEND\n";
pub(crate) const RECORD_MAGIC: u16 = 0x5248;
pub(crate) const PACK_VERSION: u32 = 1;

/// How the payloads of a pack's records are written.
pub(crate) const PACK_PLAIN: u32 = 0;
pub(crate) const PACK_ENCRYPTED: u32 = 1;

/// Flag in a trailer: written by recovery, from what a scan found.
pub(crate) const TRAILER_RECOVERED: u32 = 1;

pub(crate) const RECORD_HEAD_BYTES: usize = 64;
pub(crate) const TABLE_LINE_BYTES: usize = 48;
pub(crate) const TRAILER_BYTES: usize = 64;

/// Records start at multiples of this.
pub(crate) const RECORD_ALIGNMENT: usize = 128;
const ALIGNMENT_U32: u32 = 128;

/// Writes to a pack are multiples of this.
pub(crate) const PAGE_BYTES: usize = 4096;

/// A pack is sealed before its records pass this.
pub(crate) const PACK_BYTES_MAX: u64 = 256 << 20;

/// A pack is sealed at so many records: tables are held in memory, and records may be small.
pub(crate) const PACK_RECORDS_MAX: usize = 1 << 17;

/// Lines that a table may have: records are at least [`RECORD_ALIGNMENT`] long.
pub(crate) const TABLE_LINES_MAX: u32 = 1 << 22;

const LENGTH_BITS: u32 = 10;
const LENGTH_UNITS_MAX: u32 = (1 << LENGTH_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_offset_and_length() {
        let place = Place::new(7, 4096 + 128, 65_600);
        assert_eq!(
            (place.pack, place.offset(), place.length()),
            (7, 4224, Some(65_664))
        );
        assert_eq!(Place::from_bytes(&place.to_bytes()), Some(place));
        assert_eq!(Place::new(1, 0, 1 << 20).length(), None);
        let last = u32::try_from(PACK_BYTES_MAX * 2 - 128).unwrap();
        assert_eq!(Place::new(1, last, 128).offset(), u64::from(last));
    }

    #[test]
    fn names_of_packs_read_back() {
        let path = pack_path(0x1234, 5);
        assert_eq!(path.to_str(), Some("packs/34/00001234.00000005"));
        assert_eq!(parse_pack_name("00001234.00000005"), Some((0x1234, 5)));
        for bad in [
            "",
            "1234.5",
            "00001234",
            "0000123g.00000005",
            "00001234.00000005.tmp",
            "0000ABCD.00000005",
            "+0001234.00000005",
        ] {
            assert_eq!(parse_pack_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_flipped_bit_in_header_or_trailer_is_found() {
        let header = PackHeader {
            magic: PACK_MAGIC,
            version: U32::new(PACK_VERSION),
            number: U32::new(3),
            epoch: U32::new(1),
            class: 1,
            reserved: [0; 3],
            repository: [9; 16],
            created: U64::new(77),
            encryption: U32::ZERO,
            checksum: U32::ZERO,
        };
        let page = header.encode();
        assert_eq!(PackHeader::decode(&page).unwrap().number.get(), 3);
        let trailer = PackTrailer {
            magic: TRAILER_MAGIC,
            version: U32::new(PACK_VERSION),
            flags: U32::ZERO,
            table_offset: U64::new(8192),
            line_count: U32::new(5),
            checksum: U32::ZERO,
            table_hash: [4; 32],
        };
        let end = trailer.encode();
        assert_eq!(PackTrailer::decode(&end).unwrap().line_count.get(), 5);
        for bit in 0..56 * 8 {
            let mut hurt = page.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert!(PackHeader::decode(&hurt).is_err(), "header bit {bit}");
            let mut hurt = end;
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert!(PackTrailer::decode(&hurt).is_none(), "trailer bit {bit}");
        }
    }
}
