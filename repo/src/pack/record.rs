//! One record of a pack: a head, a payload, and the way between them and the chunk.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::format::{RECORD_ALIGNMENT, RECORD_HEAD_BYTES, RECORD_MAGIC, RecordHead, RecordKind};
use crate::checksum::{crc32c, crc32c_append};
use crate::chunk::{ChunkId, Codec, Decoder, Encoder, RAW_LENGTH_MAX};
use crate::error::RepoError;
use crate::keys::{Cipher, KeyRing, SALT_BYTES, Salt, TAG_BYTES, Tag, random};

/// What the head of a record says, after its plausibility has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) codec: Codec,
    pub(crate) id: ChunkId,
    pub(crate) stored_length: u32,
    pub(crate) raw_length: u32,
    checksum: u32,
    tag: Tag,
}

/// A record ready to be appended.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) header: RecordHeader,
    /// Head, payload and filling.
    bytes: Vec<u8>,
}

impl Record {
    /// A record that holds nothing, so many bytes long.
    pub(crate) fn padding(length: usize) -> Self {
        let payload = vec![0; length.saturating_sub(RECORD_HEAD_BYTES)];
        let header = RecordHeader::new(
            RecordKind::Padding,
            ChunkId::ZERO,
            Codec::Raw,
            payload.len(),
            payload.len(),
        );
        Self::assemble(header, &payload, None)
    }

    /// Puts the head before the payload, encrypted where a cipher is given, and fills the last unit.
    fn assemble(mut header: RecordHeader, packed: &[u8], seal: Option<(&Cipher, Salt)>) -> Self {
        let mut bytes = Vec::with_capacity(header.record_length());
        bytes.resize(RECORD_HEAD_BYTES, 0);
        if let Some((_, salt)) = &seal {
            bytes.extend_from_slice(salt);
        }
        bytes.extend_from_slice(packed);
        let (head, payload) = bytes.split_at_mut(RECORD_HEAD_BYTES);
        if let Some((cipher, salt)) = &seal {
            let (_, secret) = payload.split_at_mut(SALT_BYTES);
            header.tag = cipher.seal(salt, &header.associated(), secret);
        }
        header.checksum = header.compute_checksum(payload);
        head.copy_from_slice(header.head().as_bytes());
        bytes.resize(header.record_length(), 0);
        Self { header, bytes }
    }

    /// A record that was read, to be stored elsewhere as it is. `bytes` are the whole record, filling and all.
    pub(crate) fn again(header: RecordHeader, bytes: Vec<u8>) -> Self {
        Self { header, bytes }
    }

    /// Head, payload and filling.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of the whole record.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len()
    }
}

/// Makes records: compresses, and encrypts where the repository is. Keeps its working memory between them.
#[derive(Debug)]
pub(crate) struct RecordEncoder {
    encoder: Encoder,
    keys: Arc<KeyRing>,
}

impl RecordEncoder {
    /// `level` is zstd's.
    pub(crate) fn new(level: i32, keys: Arc<KeyRing>) -> Result<Self, RepoError> {
        let encoder = Encoder::new(level).map_err(RepoError::Thread)?;
        Ok(Self { encoder, keys })
    }

    /// The record of `raw`, which is within the limits of the format.
    pub(crate) fn encode(
        &mut self,
        kind: RecordKind,
        id: ChunkId,
        raw: &[u8],
    ) -> Result<Record, RepoError> {
        let (codec, packed) = self.encoder.compress(raw);
        let seal = match self.keys.records() {
            Some(cipher) => Some((cipher, random()?)),
            None => None,
        };
        let stored_length = packed.len() + seal.map_or(0, |_| SALT_BYTES);
        let header = RecordHeader::new(kind, id, codec, raw.len(), stored_length);
        Ok(Record::assemble(header, packed, seal))
    }
}

/// Opens records: decrypts, decompresses and proves. Keeps its working memory between them.
pub(crate) struct RecordDecoder {
    decoder: Decoder,
    keys: Arc<KeyRing>,
    clear: Vec<u8>,
}

impl RecordDecoder {
    pub(crate) fn new(keys: Arc<KeyRing>) -> Result<Self, RepoError> {
        let decoder = Decoder::new().map_err(RepoError::Thread)?;
        Ok(Self {
            decoder,
            keys,
            clear: Vec::new(),
        })
    }

    /// The bytes that were stored in the record that `header` was read from. Chunks are proven by their name, which is
    /// stronger than the checksum; map nodes are named otherwise and proven by whoever reads them.
    pub(crate) fn open(
        &mut self,
        header: &RecordHeader,
        record: &[u8],
    ) -> Result<Bytes, &'static str> {
        let payload = match header.kind {
            RecordKind::Chunk => header.payload(record)?,
            _ => header.check(record)?,
        };
        let payload = match self.keys.records() {
            None if header.tag != [0; TAG_BYTES] => {
                return Err("the record is encrypted, and this repository is not");
            }
            None => payload,
            Some(cipher) => {
                let (salt, sealed) = payload
                    .split_first_chunk::<SALT_BYTES>()
                    .ok_or("the record is too short to be encrypted")?;
                self.clear.clear();
                self.clear.extend_from_slice(sealed);
                if !cipher.open(salt, &header.associated(), &mut self.clear, &header.tag) {
                    return Err(
                        "the record is not what was encrypted under its name with this repository's key",
                    );
                }
                self.clear.as_slice()
            }
        };
        let length = usize::try_from(header.raw_length).unwrap_or(usize::MAX);
        let raw = self
            .decoder
            .decode(header.codec, payload, length)
            .ok_or("the payload cannot be decompressed")?;
        if header.kind == RecordKind::Chunk && self.keys.chunk_id(&raw) != header.id {
            return Err("the bytes do not have the hash that is their name");
        }
        Ok(raw)
    }
}

impl fmt::Debug for RecordDecoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RecordDecoder")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl RecordHeader {
    fn new(
        kind: RecordKind,
        id: ChunkId,
        codec: Codec,
        raw_length: usize,
        stored_length: usize,
    ) -> Self {
        assert!(
            raw_length <= RAW_LENGTH_MAX && stored_length <= RAW_LENGTH_MAX,
            "a record is within its limits"
        );
        let length = |length: usize| u32::try_from(length).expect("checked just above");
        Self {
            kind,
            codec,
            id,
            stored_length: length(stored_length),
            raw_length: length(raw_length),
            checksum: 0,
            tag: [0; TAG_BYTES],
        }
    }

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
        Ok(Self {
            kind,
            codec,
            id: ChunkId::from_bytes(head.id),
            stored_length: head.stored_length.get(),
            raw_length: head.raw_length.get(),
            checksum: head.checksum.get(),
            tag: head.tag,
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
            tag: self.tag,
        }
    }

    /// What is authenticated beside the payload: all of the head but checksum and tag.
    fn associated(&self) -> [u8; ASSOCIATED_BYTES] {
        let head = self.head();
        let mut bytes = [0; ASSOCIATED_BYTES];
        let (before, name) = bytes.split_at_mut(ASSOCIATED_BYTES - 32);
        before.copy_from_slice(head.as_bytes().get(..before.len()).unwrap_or_default());
        name.copy_from_slice(&head.id);
        bytes
    }

    fn compute_checksum(&self, payload: &[u8]) -> u32 {
        let mut head = self.head();
        head.checksum = U32::ZERO;
        crc32c_append(crc32c(head.as_bytes()), payload)
    }
}

/// The head up to the checksum, and the id.
const ASSOCIATED_BYTES: usize = 12 + 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::MasterKey;
    use uuid::Uuid;

    const RAW: &[u8] = b"what a chunk may hold";

    /// A way to make and to read records, plain and encrypted, and the name of `RAW` there.
    fn rigs() -> [(RecordEncoder, RecordDecoder, ChunkId); 2] {
        let master = MasterKey::from_bytes([3; 32]);
        [KeyRing::plain(), KeyRing::new(master, Uuid::nil())].map(|keys| {
            let id = keys.chunk_id(RAW);
            let keys = Arc::new(keys);
            let encoder = RecordEncoder::new(1, Arc::clone(&keys)).unwrap();
            (encoder, RecordDecoder::new(keys).unwrap(), id)
        })
    }

    fn open(decoder: &mut RecordDecoder, bytes: &[u8]) -> Result<Bytes, &'static str> {
        let header = RecordHeader::decode(bytes)?;
        decoder.open(&header, bytes)
    }

    #[test]
    fn a_record_reads_back_and_any_flipped_bit_is_found() {
        for (mut encoder, mut decoder, id) in rigs() {
            let record = encoder.encode(RecordKind::Chunk, id, RAW).unwrap();
            let bytes = record.bytes();
            assert_eq!((bytes.len(), record.length()), (128, 128));
            assert_eq!(open(&mut decoder, bytes).unwrap(), RAW);
            let header = RecordHeader::decode(bytes).unwrap();
            assert!(header.check(bytes).is_ok());
            for bit in 0..(RECORD_HEAD_BYTES + header.payload_length()) * 8 {
                let mut hurt = bytes.to_vec();
                hurt[bit / 8] ^= 1 << (bit % 8);
                let found = RecordHeader::decode(&hurt)
                    .and_then(|header| header.check(&hurt).map(|_| header));
                assert!(found.is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn an_encrypted_record_proves_its_head_and_cannot_be_put_together_from_others() {
        let [
            (mut plain, mut plain_decoder, plain_id),
            (mut encoder, mut decoder, id),
        ] = rigs();
        let bytes = encoder
            .encode(RecordKind::Chunk, id, RAW)
            .unwrap()
            .bytes()
            .to_vec();
        assert!(!bytes.windows(5).any(|five| RAW.starts_with(five)));
        // Every byte but those of the checksum, which a forger would set right, and the filling.
        for place in (0..12).chain(16..RECORD_HEAD_BYTES + SALT_BYTES + RAW.len()) {
            let mut forged = bytes.clone();
            forged[place] ^= 1;
            assert!(open(&mut decoder, &forged).is_err(), "byte {place}");
        }
        let again = encoder.encode(RecordKind::Chunk, id, RAW).unwrap();
        assert_ne!(again.bytes(), bytes, "each record has its own salt");
        let mut mixed = bytes.clone();
        mixed[RECORD_HEAD_BYTES..].copy_from_slice(&again.bytes()[RECORD_HEAD_BYTES..]);
        assert!(open(&mut decoder, &mixed).is_err());
        let clear = plain.encode(RecordKind::Chunk, plain_id, RAW).unwrap();
        assert!(open(&mut decoder, clear.bytes()).is_err());
        assert!(open(&mut plain_decoder, &bytes).is_err());
    }

    #[test]
    fn a_cut_record_is_an_error() {
        for (mut encoder, mut decoder, id) in rigs() {
            let record = encoder.encode(RecordKind::Chunk, id, RAW).unwrap();
            let bytes = record.bytes();
            let header = RecordHeader::decode(bytes).unwrap();
            assert!(header.check(&bytes[..65]).is_err());
            assert!(decoder.open(&header, &bytes[..70]).is_err());
            assert!(RecordHeader::decode(&bytes[..63]).is_err());
        }
    }
}
