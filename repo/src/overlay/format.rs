//! The layouts of `docs/formats/overlay.md`.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::keys::{HEAD_CODE_BYTES, HeadCode, JournalKeys, Seals};
use crate::checksum::{crc32c, crc32c_append};
use crate::disk::DIRECT_ALIGNMENT;
use crate::keys::{SALT_BYTES, TAG_BYTES};

/// Unit of every offset and length of a disk.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// Bytes of payload under one check.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Sectors under one check.
pub(crate) const BLOCK_SECTORS: u32 = 8;

/// Bytes at the start of each segment before the first record.
pub(crate) const SEGMENT_HEADER_BYTES: usize = size_of::<SegmentLayout>();

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

/// The version of segments that are made now. [`SegmentHeader::decode`] knows the ones before.
pub(crate) const SEGMENT_VERSION: u32 = 4;

/// The same, in an encrypted repository.
pub(crate) const SEALED_SEGMENT_VERSION: u32 = 5;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SegmentLayout {
    magic: [u8; 8],
    version: U32,
    number: U32,
    overlay: [u8; 16],
    salt: [u8; 16],
    first_sequence: U64,
    previous_end: U64,
    created: U64,
    code: HeadCode,
    reserved: [u8; 36],
    check: U32,
}

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

const _: () = assert!(SEGMENT_HEADER_BYTES == 128);
const _: () = assert!(RECORD_HEADER_BYTES == 64);
const _: () = assert!((PAYLOAD_BYTES_MAX / BLOCK_BYTES - 1) * 4 <= RECORD_HEADER_BYTES);
const _: () = assert!(
    HEAD_CODE_BYTES + SALT_BYTES + PAYLOAD_BYTES_MAX / BLOCK_BYTES * TAG_BYTES
        <= HEAD_BYTES_MAX - RECORD_HEADER_BYTES
);

/// What the head of a segment says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u32,
    pub(crate) overlay: [u8; 16],
    /// Random; makes records of this segment recognisable.
    pub(crate) salt: [u8; 16],
    pub(crate) first_sequence: u64,
    /// Where the records of the segment before end, all of them durable.
    pub(crate) previous_end: u64,
    pub(crate) created: u64,
}

/// Why the head of a segment cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentError {
    /// The bytes are not those written.
    Damaged,
    /// Made by a newer version.
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self, keys: Option<&JournalKeys>) -> Vec<u8> {
        let version = match keys {
            None => SEGMENT_VERSION,
            Some(_) => SEALED_SEGMENT_VERSION,
        };
        let mut layout = SegmentLayout {
            magic: SEGMENT_MAGIC,
            version: U32::new(version),
            number: U32::new(self.number),
            overlay: self.overlay,
            salt: self.salt,
            first_sequence: U64::new(self.first_sequence),
            previous_end: U64::new(self.previous_end),
            created: U64::new(self.created),
            code: [0; HEAD_CODE_BYTES],
            reserved: [0; 36],
            check: U32::ZERO,
        };
        if let Some(keys) = keys {
            layout.code = segment_code(keys, &layout);
        }
        layout.check = U32::new(check_of_start(layout.as_bytes()));
        layout.as_bytes().to_vec()
    }

    /// Reads a header, of an encrypted repository with its keys.
    pub(crate) fn decode(bytes: &[u8], keys: Option<&JournalKeys>) -> Result<Self, SegmentError> {
        let (layout, _) =
            SegmentLayout::ref_from_prefix(bytes).map_err(|_| SegmentError::Damaged)?;
        if layout.magic != SEGMENT_MAGIC || layout.check.get() != check_of_start(layout.as_bytes())
        {
            return Err(SegmentError::Damaged);
        }
        match (layout.version.get(), keys) {
            (1 | 2 | SEGMENT_VERSION, None) => {}
            (3 | SEALED_SEGMENT_VERSION, Some(keys))
                if layout.code == segment_code(keys, layout) => {}
            // In clear, or from somebody without the key.
            (1..=SEALED_SEGMENT_VERSION, Some(_)) => return Err(SegmentError::Damaged),
            (version, _) => return Err(SegmentError::Version(version)),
        }
        Ok(Self {
            number: layout.number.get(),
            overlay: layout.overlay,
            salt: layout.salt,
            first_sequence: layout.first_sequence.get(),
            previous_end: layout.previous_end.get(),
            created: layout.created.get(),
        })
    }

    /// What proves the heads of this segment.
    pub(crate) fn heads(&self, keys: Option<&Arc<JournalKeys>>) -> HeadProof {
        HeadProof {
            seed: crc32c_append(crc32c(&self.salt), &self.number.to_le_bytes()),
            segment: self.clone(),
            keys: keys.cloned(),
        }
    }
}

/// What proves the heads of the records of one segment.
#[derive(Debug, Clone)]
pub(crate) struct HeadProof {
    /// Where their checks start from.
    seed: u32,
    segment: SegmentHeader,
    keys: Option<Arc<JournalKeys>>,
}

/// What proves the blocks of a payload: a check each, or, where they are encrypted, a tag each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proofs {
    Checks(Vec<u32>),
    Seals(Seals),
}

impl Proofs {
    /// Those of a record without payload.
    pub(crate) fn none(is_sealed: bool) -> Self {
        match is_sealed {
            false => Self::Checks(Vec::new()),
            true => Self::Seals(Seals::default()),
        }
    }

    /// Whether `blocks`, the first of which lies at `offset` of the disk, are what was written. Decrypts them.
    #[must_use]
    pub(crate) fn prove(
        &self,
        keys: Option<&JournalKeys>,
        overlay: Uuid,
        offset: u64,
        blocks: &mut [u8],
    ) -> bool {
        match (self, keys) {
            (Self::Checks(checks), None) => blocks_match(blocks, checks),
            (Self::Seals(Seals { salt, tags }), Some(keys)) => {
                keys.open(overlay, offset, blocks, salt, tags)
            }
            _ => false,
        }
    }

    fn is_sealed(&self) -> bool {
        matches!(self, Self::Seals(_))
    }
}

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
            proofs: decode_proofs(layout, table, payload.div_ceil(BLOCK_BYTES), is_sealed),
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

/// One check for each block of a payload that lies in several pieces.
pub(crate) fn block_checks(payload: &[Bytes]) -> Vec<u32> {
    let total: usize = payload.iter().map(Bytes::len).sum();
    let mut checks = Vec::with_capacity(total.div_ceil(BLOCK_BYTES));
    let (mut check, mut filled) = (0, 0);
    for piece in payload {
        let mut rest: &[u8] = piece;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - filled));
            check = crc32c_append(check, now);
            filled += now.len();
            rest = later;
            if filled == BLOCK_BYTES {
                checks.push(check);
                (check, filled) = (0, 0);
            }
        }
    }
    if filled > 0 {
        checks.push(check);
    }
    checks
}

/// Whether the blocks of `bytes` have these checks, one each.
pub(crate) fn blocks_match(bytes: &[u8], checks: &[u32]) -> bool {
    let mut blocks = bytes.chunks(BLOCK_BYTES);
    blocks.len() == checks.len()
        && checks
            .iter()
            .all(|check| blocks.next().is_some_and(|block| crc32c(block) == *check))
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

/// Reads the proofs of so many blocks from a table that is long enough.
fn decode_proofs(layout: &RecordLayout, table: &[u8], blocks: usize, is_sealed: bool) -> Proofs {
    if !is_sealed {
        let later = table
            .chunks_exact(4)
            .filter_map(|check| check.try_into().ok().map(u32::from_le_bytes));
        let all = std::iter::once(layout.first_check.get()).chain(later);
        return Proofs::Checks(all.take(blocks).collect());
    }
    let seals = || {
        let (salt, tags) = table.get(HEAD_CODE_BYTES..)?.split_first_chunk()?;
        let tags = tags.chunks_exact(TAG_BYTES).take(blocks);
        Some(Seals {
            salt: *salt,
            tags: tags.filter_map(|tag| tag.try_into().ok()).collect(),
        })
    };
    Proofs::Seals(if blocks == 0 {
        Seals::default()
    } else {
        seals().unwrap_or_default()
    })
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

/// The code of a segment's header: over all before it.
fn segment_code(keys: &JournalKeys, layout: &SegmentLayout) -> HeadCode {
    let before = layout.as_bytes().get(..SEGMENT_CODE_OFFSET);
    keys.head_code(&[b"segment", before.unwrap_or_default()])
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

fn check_of_start(bytes: &[u8]) -> u32 {
    crc32c(bytes.get(..SEGMENT_HEADER_BYTES - 4).unwrap_or_default())
}

pub(crate) const RECORD_MAGIC: [u8; 4] = *b"HFJr";
const SEGMENT_MAGIC: [u8; 8] = *b"HFJOURNL";

const KIND_WRITE: u8 = 1;
const KIND_PADDING: u8 = 6;

const FLAG_MORE: u8 = 1;
const FLAG_KEEP_ALLOCATED: u8 = 2;
/// The same bit, of a copy.
const FLAG_OF_POINT: u8 = 2;
const FLAG_SEALED: u8 = 4;

const SEGMENT_CODE_OFFSET: usize = 72;

#[cfg(test)]
mod tests {
    use super::*;
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

    fn header() -> SegmentHeader {
        SegmentHeader {
            number: 3,
            overlay: [1; 16],
            salt: [2; 16],
            first_sequence: 4,
            previous_end: 5,
            created: 6,
        }
    }

    /// The heads of a segment that is not encrypted, and of one that is.
    fn both() -> [HeadProof; 2] {
        let keys = OverlayKeys::for_tests(1);
        [header().heads(None), header().heads(keys.journal())]
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

    #[test]
    fn segments_of_the_first_version_are_read() {
        let keys = OverlayKeys::for_tests(1);
        let versioned = |version: u32, keys| {
            let mut bytes = header().encode(keys);
            let (layout, _) = SegmentLayout::mut_from_prefix(&mut bytes).unwrap();
            layout.version = U32::new(version);
            if let Some(keys) = keys {
                layout.code = segment_code(keys, layout);
            }
            layout.check = U32::new(check_of_start(layout.as_bytes()));
            SegmentHeader::decode(&bytes, keys)
        };
        let keys = keys.journal().map(|keys| &**keys);
        assert_eq!(versioned(1, None), Ok(header()));
        assert_eq!(versioned(2, None), Ok(header()));
        assert_eq!(versioned(3, None), Err(SegmentError::Version(3)));
        assert_eq!(versioned(0, None), Err(SegmentError::Version(0)));
        assert_eq!(versioned(3, keys), Ok(header()));
        assert_eq!(versioned(2, keys), Err(SegmentError::Damaged), "in clear");
        assert_eq!(versioned(4, None), Ok(header()));
        assert_eq!(versioned(5, None), Err(SegmentError::Version(5)));
        assert_eq!(versioned(6, None), Err(SegmentError::Version(6)));
        assert_eq!(versioned(4, keys), Err(SegmentError::Damaged), "in clear");
        assert_eq!(versioned(5, keys), Ok(header()));
        assert_eq!(versioned(6, keys), Err(SegmentError::Version(6)));
        let clear = header().encode(None);
        assert_eq!(
            SegmentHeader::decode(&clear, keys),
            Err(SegmentError::Damaged)
        );
    }

    #[test]
    fn checks_do_not_depend_on_the_pieces() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|number| (number % 253) as u8).collect();
        let whole = block_checks(&[Bytes::from(bytes.clone())]);
        let pieces: Vec<Bytes> = bytes.chunks(1000).map(Bytes::copy_from_slice).collect();
        assert_eq!(block_checks(&pieces), whole);
        assert!(blocks_match(&bytes, &whole));
        assert!(!blocks_match(&bytes[..9999], &whole));
        assert!(!blocks_match(&bytes[..8192], &whole));
    }

    #[test]
    fn segment_headers_come_back_and_every_bit_counts() {
        let keys = OverlayKeys::for_tests(1);
        for keys in [None, keys.journal().map(|keys| &**keys)] {
            let bytes = header().encode(keys);
            assert_eq!(SegmentHeader::decode(&bytes, keys), Ok(header()));
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(SegmentHeader::decode(&damaged, keys).is_err(), "bit {bit}");
            }
        }
    }
}
