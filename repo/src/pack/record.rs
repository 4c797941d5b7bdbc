//! One record of a pack: a head, a payload, and the way between them and the chunk.

use bytes::Bytes;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::format::{RECORD_ALIGNMENT, RECORD_HEAD_BYTES, RECORD_MAGIC, RecordHead, RecordKind};
use crate::chunk::{ChunkId, Codec, Decoder, RAW_LENGTH_MAX};

/// What the head of a record says, after its plausibility has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) codec: Codec,
    pub(crate) id: ChunkId,
    pub(crate) stored_length: u32,
    pub(crate) raw_length: u32,
    checksum: u32,
}

/// A record ready to be appended.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) header: RecordHeader,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// Wraps a payload that is within the limits of the format.
    pub(crate) fn new(
        kind: RecordKind,
        id: ChunkId,
        codec: Codec,
        raw_length: usize,
        payload: &'a [u8],
    ) -> Self {
        assert!(
            raw_length <= RAW_LENGTH_MAX && payload.len() <= RAW_LENGTH_MAX,
            "a record is within its limits"
        );
        let length = |length: usize| u32::try_from(length).expect("checked just above");
        let mut header = RecordHeader {
            kind,
            codec,
            id,
            stored_length: length(payload.len()),
            raw_length: length(raw_length),
            checksum: 0,
        };
        header.checksum = header.compute_checksum(payload);
        Self { header, payload }
    }

    /// Appends head, payload and filling.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header.head().as_bytes());
        out.extend_from_slice(self.payload);
        out.resize(out.len().next_multiple_of(RECORD_ALIGNMENT), 0);
    }

    /// Bytes of the whole record.
    pub(crate) fn length(&self) -> usize {
        self.header.record_length()
    }
}

impl RecordHeader {
    /// Reads the head at the start of `bytes`; says what is wrong if it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (head, _) = RecordHead::read_from_prefix(bytes).map_err(|_| "the record is cut off")?;
        if head.magic.get() != RECORD_MAGIC {
            return Err("no record starts here");
        }
        let kind = RecordKind::from_number(head.kind).ok_or("the record is of an unknown kind")?;
        let codec = Codec::from_number(head.codec).ok_or("the record has an unknown codec")?;
        let fits = |length: U32| {
            usize::try_from(length.get()).is_ok_and(|length| length <= RAW_LENGTH_MAX)
        };
        if !fits(head.stored_length) || !fits(head.raw_length) {
            return Err("the record is longer than any can be");
        }
        if head.tag != [0; 16] {
            return Err("the record is encrypted, which this version does not read");
        }
        Ok(Self {
            kind,
            codec,
            id: ChunkId::from_bytes(head.id),
            stored_length: head.stored_length.get(),
            raw_length: head.raw_length.get(),
            checksum: head.checksum.get(),
        })
    }

    /// Length of the payload.
    pub(crate) fn payload_length(&self) -> usize {
        usize::try_from(self.stored_length).unwrap_or(usize::MAX)
    }

    /// Length of head, payload and filling.
    pub(crate) fn record_length(&self) -> usize {
        (RECORD_HEAD_BYTES + self.payload_length()).next_multiple_of(RECORD_ALIGNMENT)
    }

    /// The payload, if `record` is long enough and its checksum is right. Needs no key and no decoding.
    pub(crate) fn check<'a>(&self, record: &'a [u8]) -> Result<&'a [u8], &'static str> {
        let payload = self.payload(record)?;
        if self.compute_checksum(payload) != self.checksum {
            return Err("the checksum of the record is wrong");
        }
        Ok(payload)
    }

    /// The bytes that were stored. They are proven by their name, which is stronger than the checksum; map nodes are
    /// named otherwise and proven by whoever reads them.
    pub(crate) fn open(&self, record: &[u8], decoder: &mut Decoder) -> Result<Bytes, &'static str> {
        let payload = match self.kind {
            RecordKind::Chunk => self.payload(record)?,
            _ => self.check(record)?,
        };
        let length = usize::try_from(self.raw_length).unwrap_or(usize::MAX);
        let raw = decoder
            .decode(self.codec, payload, length)
            .ok_or("the payload cannot be decompressed")?;
        if self.kind == RecordKind::Chunk && ChunkId::of(&raw) != self.id {
            return Err("the bytes do not have the hash that is their name");
        }
        Ok(raw)
    }

    fn payload<'a>(&self, record: &'a [u8]) -> Result<&'a [u8], &'static str> {
        let end = RECORD_HEAD_BYTES + self.payload_length();
        record
            .get(RECORD_HEAD_BYTES..end)
            .ok_or("the record is cut off")
    }

    fn head(&self) -> RecordHead {
        RecordHead {
            magic: U16::new(RECORD_MAGIC),
            kind: self.kind.number(),
            codec: self.codec.number(),
            stored_length: U32::new(self.stored_length),
            raw_length: U32::new(self.raw_length),
            checksum: U32::new(self.checksum),
            id: *self.id.as_bytes(),
            tag: [0; 16],
        }
    }

    fn compute_checksum(&self, payload: &[u8]) -> u32 {
        let mut head = self.head();
        head.checksum = U32::ZERO;
        crc32c::crc32c_append(crc32c::crc32c(head.as_bytes()), payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_any_flipped_bit_is_found() {
        let raw = b"what a chunk may hold";
        let mut bytes = Vec::new();
        let record = Record::new(
            RecordKind::Chunk,
            ChunkId::of(raw),
            Codec::Raw,
            raw.len(),
            raw,
        );
        record.encode(&mut bytes);
        assert_eq!((bytes.len(), record.length()), (128, 128));
        let mut decoder = Decoder::new().unwrap();
        let header = RecordHeader::decode(&bytes).unwrap();
        assert_eq!(header.open(&bytes, &mut decoder).unwrap(), raw.as_slice());
        assert!(header.check(&bytes).is_ok());
        for bit in 0..(RECORD_HEAD_BYTES + raw.len()) * 8 {
            let mut hurt = bytes.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            let found =
                RecordHeader::decode(&hurt).and_then(|header| header.check(&hurt).map(|_| header));
            assert!(found.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_cut_record_is_an_error() {
        let mut bytes = Vec::new();
        Record::new(RecordKind::Chunk, ChunkId::of(b"xy"), Codec::Raw, 2, b"xy").encode(&mut bytes);
        let header = RecordHeader::decode(&bytes).unwrap();
        assert!(header.check(&bytes[..65]).is_err());
        assert!(RecordHeader::decode(&bytes[..63]).is_err());
    }
}
