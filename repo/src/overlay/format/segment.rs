//! The head of a segment, and what proves the heads of its records.

use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{crc32c, crc32c_append};
use crate::overlay::keys::{HEAD_CODE_BYTES, HeadCode, JournalKeys};

/// Bytes at the start of each segment before the first record.
pub(crate) const SEGMENT_HEADER_BYTES: usize = size_of::<SegmentLayout>();

/// The version of segments that are made now. [`SegmentHeader::decode`] knows the ones before.
pub(crate) const SEGMENT_VERSION: u32 = 4;

/// The same, in an encrypted repository.
const SEALED_SEGMENT_VERSION: u32 = 5;

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

const _: () = assert!(SEGMENT_HEADER_BYTES == 128);

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
    pub(super) seed: u32,
    pub(super) segment: SegmentHeader,
    pub(super) keys: Option<Arc<JournalKeys>>,
}

/// The code of a segment's header: over all before it.
fn segment_code(keys: &JournalKeys, layout: &SegmentLayout) -> HeadCode {
    let before = layout.as_bytes().get(..SEGMENT_CODE_OFFSET);
    keys.head_code(&[b"segment", before.unwrap_or_default()])
}

fn check_of_start(bytes: &[u8]) -> u32 {
    crc32c(bytes.get(..SEGMENT_HEADER_BYTES - 4).unwrap_or_default())
}

const SEGMENT_MAGIC: [u8; 8] = *b"HFJOURNL";

const SEGMENT_CODE_OFFSET: usize = 72;

#[cfg(test)]
impl SegmentHeader {
    /// One of which every field is another number.
    pub(super) fn for_tests() -> Self {
        Self {
            number: 3,
            overlay: [1; 16],
            salt: [2; 16],
            first_sequence: 4,
            previous_end: 5,
            created: 6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::keys::OverlayKeys;

    #[test]
    fn segments_of_the_first_version_are_read() {
        let keys = OverlayKeys::for_tests(1);
        let versioned = |version: u32, keys| {
            let mut bytes = SegmentHeader::for_tests().encode(keys);
            let (layout, _) = SegmentLayout::mut_from_prefix(&mut bytes).unwrap();
            layout.version = U32::new(version);
            if let Some(keys) = keys {
                layout.code = segment_code(keys, layout);
            }
            layout.check = U32::new(check_of_start(layout.as_bytes()));
            SegmentHeader::decode(&bytes, keys)
        };
        let keys = keys.journal().map(|keys| &**keys);
        assert_eq!(versioned(1, None), Ok(SegmentHeader::for_tests()));
        assert_eq!(versioned(2, None), Ok(SegmentHeader::for_tests()));
        assert_eq!(versioned(3, None), Err(SegmentError::Version(3)));
        assert_eq!(versioned(0, None), Err(SegmentError::Version(0)));
        assert_eq!(versioned(3, keys), Ok(SegmentHeader::for_tests()));
        assert_eq!(versioned(2, keys), Err(SegmentError::Damaged), "in clear");
        assert_eq!(versioned(4, None), Ok(SegmentHeader::for_tests()));
        assert_eq!(versioned(5, None), Err(SegmentError::Version(5)));
        assert_eq!(versioned(6, None), Err(SegmentError::Version(6)));
        assert_eq!(versioned(4, keys), Err(SegmentError::Damaged), "in clear");
        assert_eq!(versioned(5, keys), Ok(SegmentHeader::for_tests()));
        assert_eq!(versioned(6, keys), Err(SegmentError::Version(6)));
        let clear = SegmentHeader::for_tests().encode(None);
        assert_eq!(
            SegmentHeader::decode(&clear, keys),
            Err(SegmentError::Damaged)
        );
    }

    #[test]
    fn segment_headers_come_back_and_every_bit_counts() {
        let keys = OverlayKeys::for_tests(1);
        for keys in [None, keys.journal().map(|keys| &**keys)] {
            let bytes = SegmentHeader::for_tests().encode(keys);
            assert_eq!(
                SegmentHeader::decode(&bytes, keys),
                Ok(SegmentHeader::for_tests())
            );
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(SegmentHeader::decode(&damaged, keys).is_err(), "bit {bit}");
            }
        }
    }
}
