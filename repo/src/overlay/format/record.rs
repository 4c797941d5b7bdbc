//! Records: what was asked of the disk, in order.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::proofs::{Proofs, decode_proofs};
use super::segment::{HeadProof, SegmentHeader};
use super::{BLOCK_BYTES, SECTOR_BYTES};
use crate::checksum::crc32c_append;
use crate::disk::DIRECT_ALIGNMENT;
use crate::keys::{SALT_BYTES, TAG_BYTES};
use crate::overlay::keys::{HEAD_CODE_BYTES, HeadCode, JournalKeys, Seals};

/// Bytes of a record before its table of checks.
pub(crate) const RECORD_HEADER_BYTES: usize = size_of::<RecordLayout>();

/// Where records may start.
pub(crate) const RECORD_ALIGNMENT: u64 = 64;

/// Most bytes of payload in one record: a record stays within one chunk of the disk.
pub(crate) const PAYLOAD_BYTES_MAX: usize = crate::CHUNK_BYTES;

/// Bytes of head and table of the largest record: one that is sealed.
pub(crate) const HEAD_BYTES_MAX: usize = 6 * RECORD_HEADER_BYTES;

/// Most bytes that padding has behind its head.
pub(crate) const PADDING_BYTES_MAX: usize = DIRECT_ALIGNMENT - RECORD_HEADER_BYTES;

/// Most bytes of the disk that one record of a copy shows elsewhere, so that taking it in is bounded.
pub(crate) const COPY_BYTES_MAX: u64 = 64 << 20;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RecordLayout {
    magic: [u8; 4],
    kind: u8,
    flags: u8,
    key_epoch: U16,
    sequence: U64,
    time: U64,
    offset: U64,
    length: U64,
    durable: U64,
    first_check: U32,
    source: U64,
    check: U32,
}

const _: () = assert!(RECORD_HEADER_BYTES == 64);
const _: () = assert!((PAYLOAD_BYTES_MAX / BLOCK_BYTES - 1) * 4 <= RECORD_HEADER_BYTES);
const _: () = assert!(
    HEAD_CODE_BYTES + SALT_BYTES + PAYLOAD_BYTES_MAX / BLOCK_BYTES * TAG_BYTES
        <= HEAD_BYTES_MAX - RECORD_HEADER_BYTES
);

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// Puts its payload on the disk.
    Write,
    /// Makes a range read as zeroes; its space is kept or not.
    Zeroes { keep_allocated: bool },
    /// Says that a range is not needed; it reads as zeroes.
    Discard,
    /// Shows in its range what is at `source`.
    Copy {
        /// Where that begins, in bytes.
        source: u64,
        /// Of what.
        of: CopySource,
    },
    /// A flush was asked for; everything before it belongs to what that flush promised.
    Flush,
    /// Only says what is durable.
    Mark,
    /// Takes room, so that what follows is aligned.
    Padding,
}

/// What a copy shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopySource {
    /// The overlay itself, as the records before the copy leave it.
    Overlay,
    /// The point below.
    Point,
}

/// What a record says, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: RecordKind,
    /// Further records of the same call follow.
    pub(crate) more: bool,
    pub(crate) sequence: u64,
    pub(crate) time: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// The newest record known to be durable when this one was written.
    pub(crate) durable: u64,
    /// Of each block of payload.
    pub(crate) proofs: Proofs,
}

/// What was found where a record should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A whole head.
    Record(Record),
    /// Bytes that were never written as the head of a record at this place.
    Nothing,
    /// A whole head of a kind that this version does not know.
    Unknown,
}

impl Record {
    /// Bytes of header and checks.
    pub(crate) fn head_bytes(&self) -> usize {
        head_bytes(self.payload_bytes(), self.proofs.is_sealed())
    }

    /// Bytes of payload.
    pub(crate) fn payload_bytes(&self) -> usize {
        match self.kind {
            RecordKind::Write => usize::try_from(self.length).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    /// Bytes behind the head: payload, or what padding takes.
    pub(crate) fn body_bytes(&self) -> usize {
        match self.kind {
            RecordKind::Padding => usize::try_from(self.length).unwrap_or(usize::MAX),
            _ => self.payload_bytes(),
        }
    }

    /// Bytes of all of it.
    pub(crate) fn total_bytes(&self) -> u64 {
        (self.head_bytes() as u64 + self.body_bytes() as u64).next_multiple_of(RECORD_ALIGNMENT)
    }

    /// Appends head and table for a record that will lie at `position` of a segment with these heads.
    pub(crate) fn encode_head(&self, heads: &HeadProof, position: u64, out: &mut Vec<u8>) {
        let (kind, flags, source) = self.kind.encode();
        let sealed = if self.proofs.is_sealed() {
            FLAG_SEALED
        } else {
            0
        };
        let more = if self.more { FLAG_MORE } else { 0 };
        let mut layout = RecordLayout {
            magic: RECORD_MAGIC,
            kind,
            flags: flags | more | sealed,
            key_epoch: U16::ZERO,
            sequence: U64::new(self.sequence),
            time: U64::new(self.time),
            offset: U64::new(self.offset),
            length: U64::new(self.length),
            durable: U64::new(self.durable),
            first_check: U32::ZERO,
            source: U64::new(source),
            check: U32::ZERO,
        };
        let mut table = Vec::with_capacity(HEAD_BYTES_MAX - RECORD_HEADER_BYTES);
        match &self.proofs {
            Proofs::Checks(checks) => {
                let mut checks = checks.iter();
                layout.first_check = U32::new(checks.next().copied().unwrap_or(0));
                table.extend(checks.flat_map(|check| check.to_le_bytes()));
            }
            Proofs::Seals(Seals { salt, tags }) => {
                table.extend([0; HEAD_CODE_BYTES]);
                if !tags.is_empty() {
                    table.extend(salt);
                    table.extend(tags.iter().flatten());
                }
            }
        }
        table.resize(self.head_bytes() - RECORD_HEADER_BYTES, 0);
        if let (Some(keys), Some((code, rest))) = (
            &heads.keys,
            table.split_first_chunk_mut::<HEAD_CODE_BYTES>(),
        ) {
            *code = record_code(keys, heads, position, &layout, rest);
        }
        layout.check = U32::new(record_check(heads.seed, position, &layout, &table));
        out.extend_from_slice(layout.as_bytes());
        out.extend_from_slice(&table);
    }

    /// Reads the head at the start of `bytes`, which lie at `position`.
    pub(crate) fn decode_head(bytes: &[u8], heads: &HeadProof, position: u64) -> Found {
        let Ok((layout, rest)) = RecordLayout::ref_from_prefix(bytes) else {
            return Found::Nothing;
        };
        if layout.magic != RECORD_MAGIC {
            return Found::Nothing;
        }
        let length = layout.length.get();
        let payload = match layout.kind {
            KIND_WRITE if length > PAYLOAD_BYTES_MAX as u64 => return Found::Nothing,
            KIND_PADDING if length > PADDING_BYTES_MAX as u64 => return Found::Nothing,
            KIND_WRITE => usize::try_from(length).unwrap_or(0),
            _ => 0,
        };
        let is_sealed = layout.flags & FLAG_SEALED != 0;
        let Some(table) = rest.get(..head_bytes(payload, is_sealed) - RECORD_HEADER_BYTES) else {
            return Found::Nothing;
        };
        if layout.check.get() != record_check(heads.seed, position, layout, table) {
            return Found::Nothing;
        }
        match (&heads.keys, is_sealed, table.split_first_chunk()) {
            (None, false, _) => {}
            (Some(keys), true, Some((code, rest)))
                if *code == record_code(keys, heads, position, layout, rest) => {}
            // In clear, or from somebody without the key.
            (Some(_), _, _) => return Found::Nothing,
            (None, true, _) => return Found::Unknown,
        }
        let flags = layout.flags & !(FLAG_MORE | FLAG_SEALED);
        let Some(kind) = RecordKind::decode(layout.kind, flags, layout.source.get()) else {
            return Found::Unknown;
        };
        if layout.key_epoch.get() != 0 {
            return Found::Unknown;
        }
        Found::Record(Self {
            kind,
            more: layout.flags & FLAG_MORE != 0,
            sequence: layout.sequence.get(),
            time: layout.time.get(),
            offset: layout.offset.get(),
            length,
            durable: layout.durable.get(),
            proofs: decode_proofs(
                layout.first_check.get(),
                table,
                payload.div_ceil(BLOCK_BYTES),
                is_sealed,
            ),
        })
    }

    /// Whether the range makes sense on a disk of this size.
    pub(crate) fn fits(&self, size_bytes: u64) -> bool {
        let aligned = (self.offset | self.length).is_multiple_of(SECTOR_BYTES);
        let within = self
            .offset
            .checked_add(self.length)
            .is_some_and(|end| end <= size_bytes);
        let chunk = crate::CHUNK_BYTES as u64;
        match self.kind {
            RecordKind::Flush | RecordKind::Mark | RecordKind::Padding => true,
            RecordKind::Zeroes { .. } | RecordKind::Discard => aligned && within && self.length > 0,
            RecordKind::Copy { source, of } => {
                let source_within = source
                    .checked_add(self.length)
                    .is_some_and(|end| end <= size_bytes);
                let apart = of == CopySource::Point || source.abs_diff(self.offset) >= self.length;
                aligned
                    && within
                    && source.is_multiple_of(SECTOR_BYTES)
                    && source_within
                    && apart
                    && (1..=COPY_BYTES_MAX).contains(&self.length)
            }
            RecordKind::Write => {
                aligned && within && self.length > 0 && self.offset % chunk + self.length <= chunk
            }
        }
    }
}

impl RecordKind {
    /// Whether it shows what is elsewhere.
    pub(crate) fn is_copy(self) -> bool {
        matches!(self, Self::Copy { .. })
    }

    /// Its number, flags, and the place that it names.
    fn encode(self) -> (u8, u8, u64) {
        match self {
            Self::Write => (KIND_WRITE, 0, 0),
            Self::Zeroes {
                keep_allocated: false,
            } => (2, 0, 0),
            Self::Zeroes {
                keep_allocated: true,
            } => (2, FLAG_KEEP_ALLOCATED, 0),
            Self::Discard => (3, 0, 0),
            Self::Flush => (4, 0, 0),
            Self::Mark => (5, 0, 0),
            Self::Padding => (KIND_PADDING, 0, 0),
            Self::Copy { source, of } => match of {
                CopySource::Overlay => (7, 0, source),
                CopySource::Point => (7, FLAG_OF_POINT, source),
            },
        }
    }

    fn decode(kind: u8, flags: u8, source: u64) -> Option<Self> {
        let copy = |of| Self::Copy { source, of };
        match (kind, flags) {
            (KIND_WRITE, 0) => Some(Self::Write),
            (2, 0) => Some(Self::Zeroes {
                keep_allocated: false,
            }),
            (2, FLAG_KEEP_ALLOCATED) => Some(Self::Zeroes {
                keep_allocated: true,
            }),
            (3, 0) => Some(Self::Discard),
            (4, 0) => Some(Self::Flush),
            (5, 0) => Some(Self::Mark),
            (KIND_PADDING, 0) => Some(Self::Padding),
            (7, 0) => Some(copy(CopySource::Overlay)),
            (7, FLAG_OF_POINT) => Some(copy(CopySource::Point)),
            _ => None,
        }
    }
}

/// Bytes of head and table before a payload of this length.
pub(crate) fn head_bytes(payload_bytes: usize, is_sealed: bool) -> usize {
    let table = match (is_sealed, payload_bytes) {
        (false, ..=BLOCK_BYTES) => 0,
        (false, _) => RECORD_HEADER_BYTES,
        (true, 0) => HEAD_CODE_BYTES,
        (true, _) => HEAD_CODE_BYTES + SALT_BYTES + payload_bytes.div_ceil(BLOCK_BYTES) * TAG_BYTES,
    };
    RECORD_HEADER_BYTES + table.next_multiple_of(RECORD_HEADER_BYTES)
}

/// The code of a head: over where it lies, and all of it but check and code.
fn record_code(
    keys: &JournalKeys,
    heads: &HeadProof,
    position: u64,
    layout: &RecordLayout,
    table: &[u8],
) -> HeadCode {
    let SegmentHeader {
        number,
        overlay,
        salt,
        ..
    } = &heads.segment;
    let head = layout.as_bytes();
    keys.head_code(&[
        b"record",
        overlay,
        salt,
        &number.to_le_bytes(),
        &position.to_le_bytes(),
        head.get(..RECORD_HEADER_BYTES - 4).unwrap_or_default(),
        table,
    ])
}

fn record_check(seed: u32, position: u64, layout: &RecordLayout, table: &[u8]) -> u32 {
    let start = layout
        .as_bytes()
        .get(..RECORD_HEADER_BYTES - 4)
        .unwrap_or_default();
    crc32c_append(
        crc32c_append(crc32c_append(seed, &position.to_le_bytes()), start),
        table,
    )
}

pub(crate) const RECORD_MAGIC: [u8; 4] = *b"HFJr";

const KIND_WRITE: u8 = 1;
const KIND_PADDING: u8 = 6;

const FLAG_MORE: u8 = 1;
const FLAG_KEEP_ALLOCATED: u8 = 2;
/// The same bit, of a copy.
const FLAG_OF_POINT: u8 = 2;
const FLAG_SEALED: u8 = 4;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;
    use crate::overlay::format::block_checks;
    use crate::overlay::keys::OverlayKeys;

    /// A record of one payload, in clear or sealed.
    fn record(payload_bytes: usize, heads: &HeadProof) -> Record {
        let mut payload = vec![7; payload_bytes];
        let proofs = match &heads.keys {
            None => Proofs::Checks(block_checks(&[Bytes::from(payload)])),
            Some(keys) => Proofs::Seals(keys.seal(Uuid::nil(), 65536, &mut payload).unwrap()),
        };
        Record {
            kind: RecordKind::Write,
            more: true,
            sequence: 9,
            time: 8,
            offset: 65536,
            length: payload_bytes as u64,
            durable: 3,
            proofs,
        }
    }

    /// The heads of a segment that is not encrypted, and of one that is.
    fn both() -> [HeadProof; 2] {
        let keys = OverlayKeys::for_tests(1);
        [
            SegmentHeader::for_tests().heads(None),
            SegmentHeader::for_tests().heads(keys.journal()),
        ]
    }

    #[test]
    fn heads_come_back_and_every_bit_counts() {
        for heads in both() {
            for payload in [512, 4096, 4608, 65536] {
                let record = record(payload, &heads);
                let mut bytes = Vec::new();
                record.encode_head(&heads, 128, &mut bytes);
                assert_eq!(bytes.len(), record.head_bytes());
                let decode = |bytes: &[u8], position| Record::decode_head(bytes, &heads, position);
                assert_eq!(decode(&bytes, 128), Found::Record(record.clone()));
                assert_eq!(decode(&bytes, 192), Found::Nothing, "another place");
                let other = HeadProof {
                    seed: heads.seed ^ 1,
                    ..heads.clone()
                };
                let found = Record::decode_head(&bytes, &other, 128);
                assert_eq!(found, Found::Nothing, "another segment");
                for bit in 0..bytes.len() * 8 {
                    let mut damaged = bytes.clone();
                    damaged[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(decode(&damaged, 128), Found::Nothing, "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn copies_come_back_and_stay_within_their_bounds() {
        const DISK: u64 = 1 << 40;
        for heads in both() {
            let copy = |source, of, offset, length| Record {
                kind: RecordKind::Copy { source, of },
                more: false,
                offset,
                length,
                proofs: Proofs::none(heads.keys.is_some()),
                ..record(512, &heads)
            };
            let (own, point) = (CopySource::Overlay, CopySource::Point);
            for of in [own, point] {
                let record = copy(1536, of, 1 << 30, 4096);
                let mut bytes = Vec::new();
                record.encode_head(&heads, 128, &mut bytes);
                let found = Record::decode_head(&bytes, &heads, 128);
                assert_eq!(found, Found::Record(record));
                bytes[52] ^= 2;
                let found = Record::decode_head(&bytes, &heads, 128);
                assert_eq!(found, Found::Nothing, "another source");
            }
            let fits = |source, of, offset, length| copy(source, of, offset, length).fits(DISK);
            assert!(fits(0, own, 4096, 4096) && fits(4096, own, 0, 4096));
            assert!(
                !fits(0, own, 4096, 4608) && !fits(4096, own, 0, 4608),
                "overlap"
            );
            assert!(fits(0, point, 0, 4096) && fits(0, point, 512, 4096));
            assert!(fits(0, own, 1 << 30, COPY_BYTES_MAX));
            assert!(!fits(0, own, 1 << 30, COPY_BYTES_MAX + 512));
            assert!(!fits(0, own, 1 << 30, 0));
            assert!(!fits(100, own, 1 << 30, 512));
            assert!(!fits(DISK, point, 0, 512) && !fits(u64::MAX - 511, point, 0, 512));
        }
    }

    #[test]
    fn without_the_key_no_head_can_be_made() {
        let [clear, sealed] = both();
        let mut bytes = Vec::new();
        record(512, &clear).encode_head(&clear, 128, &mut bytes);
        let found = Record::decode_head(&bytes, &sealed, 128);
        assert_eq!(found, Found::Nothing, "in clear");
        let record = record(512, &sealed);
        let mut bytes = Vec::new();
        record.encode_head(&sealed, 128, &mut bytes);
        assert_eq!(Record::decode_head(&bytes, &clear, 128), Found::Unknown);
        // A change whose check was made anew.
        bytes[8] ^= 1;
        let (layout, rest) = RecordLayout::ref_from_prefix(&bytes).unwrap();
        let check = record_check(sealed.seed, 128, layout, rest);
        bytes[60..64].copy_from_slice(&check.to_le_bytes());
        assert_eq!(Record::decode_head(&bytes, &sealed, 128), Found::Nothing);
        assert_ne!(Record::decode_head(&bytes, &clear, 128), Found::Nothing);
    }

    #[test]
    fn padding_comes_back_and_is_bounded() {
        let [heads, _] = both();
        let padding = |length| Record {
            kind: RecordKind::Padding,
            more: false,
            offset: 0,
            length,
            proofs: Proofs::none(false),
            ..record(512, &heads)
        };
        let most = padding(PADDING_BYTES_MAX as u64);
        let mut bytes = Vec::new();
        most.encode_head(&heads, 128, &mut bytes);
        assert_eq!(bytes.len(), RECORD_HEADER_BYTES);
        assert_eq!(most.total_bytes(), DIRECT_ALIGNMENT as u64);
        assert_eq!(
            Record::decode_head(&bytes, &heads, 128),
            Found::Record(most.clone())
        );
        bytes.clear();
        padding(most.length + 64).encode_head(&heads, 128, &mut bytes);
        assert_eq!(Record::decode_head(&bytes, &heads, 128), Found::Nothing);
    }
}
