//! How the bytes of a chunk are written down: as they are, or compressed with zstd.

use std::fmt;
use std::io;

use bytes::Bytes;

use super::RAW_LENGTH_MAX;

/// The way a payload is written, as stored in record headers (`docs/formats/pack.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Raw,
    Zstd,
}

impl Codec {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Compresses chunks; keeps its working memory between them.
pub(crate) struct Encoder {
    compressor: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

impl Encoder {
    /// `level` is zstd's; 1 is the default of the repository.
    pub(crate) fn new(level: i32) -> io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        // The record has its own checksum, and its header the length.
        compressor.include_checksum(false)?;
        compressor.include_contentsize(false)?;
        Ok(Self {
            compressor,
            scratch: Vec::with_capacity(RAW_LENGTH_MAX + RAW_LENGTH_MAX / 128),
        })
    }

    /// The stored form of `raw`: compressed where that saves at least a sixteenth, else as it is.
    pub(crate) fn compress<'a>(&'a mut self, raw: &'a [u8]) -> (Codec, &'a [u8]) {
        self.scratch.clear();
        let packed = self.compressor.compress_to_buffer(raw, &mut self.scratch);
        match packed.is_ok() && self.scratch.len() + raw.len() / 16 <= raw.len() {
            true => (Codec::Zstd, &self.scratch),
            false => (Codec::Raw, raw),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Encoder").finish_non_exhaustive()
    }
}

/// Undoes [`Encoder`].
pub(crate) struct Decoder {
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Decoder {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            decompressor: zstd::bulk::Decompressor::new()?,
        })
    }

    /// Gives back exactly `raw_length` bytes, or `None` if the payload is not what an encoder wrote.
    pub(crate) fn decode(
        &mut self,
        codec: Codec,
        payload: &[u8],
        raw_length: usize,
    ) -> Option<Bytes> {
        if raw_length > RAW_LENGTH_MAX {
            return None;
        }
        let raw = match codec {
            Codec::Raw => payload.to_vec(),
            Codec::Zstd => self.decompressor.decompress(payload, raw_length).ok()?,
        };
        (raw.len() == raw_length).then(|| Bytes::from(raw))
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Decoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_shrink_stays_as_it_is() {
        let mut encoder = Encoder::new(1).unwrap();
        let text = b"the same words again and again ".repeat(2000);
        let (codec, packed) = encoder.compress(&text);
        let packed = packed.to_vec();
        assert!(codec == Codec::Zstd && packed.len() < text.len() / 10);
        let noise: Vec<u8> = blake3::Hasher::new().finalize_xof().fill_vec(65536);
        assert_eq!(encoder.compress(&noise), (Codec::Raw, noise.as_slice()));
        let mut decoder = Decoder::new().unwrap();
        assert_eq!(
            decoder.decode(Codec::Zstd, &packed, text.len()).unwrap(),
            text
        );
        assert_eq!(decoder.decode(Codec::Zstd, &packed, text.len() - 1), None);
        assert_eq!(decoder.decode(Codec::Zstd, &packed[1..], text.len()), None);
        assert_eq!(decoder.decode(Codec::Raw, &noise, noise.len() + 1), None);
    }

    trait FillVec {
        fn fill_vec(self, length: usize) -> Vec<u8>;
    }

    impl FillVec for blake3::OutputReader {
        fn fill_vec(mut self, length: usize) -> Vec<u8> {
            let mut bytes = vec![0; length];
            self.fill(&mut bytes);
            bytes
        }
    }
}
