//! Extents of a disk in one HTTP body: `docs/api/framing.md`.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// A stretch of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes.
    Data {
        /// Where.
        offset: u64,
        /// What.
        data: Bytes,
    },
    /// Zeroes.
    Zero {
        /// Where.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// Bytes that are left out: nobody knows what they are.
    Excluded {
        /// Where.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// All was sent.
    End,
}

/// The body is not what was promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// It does not begin as it should.
    #[error("the body does not begin with the magic of this framing")]
    Magic,
    /// An unknown record, or reserved bytes that are not zero.
    #[error("record {0} has an unknown kind or reserved bytes that are not zero")]
    Kind(u64),
    /// A data record that is empty or too long.
    #[error("record {0} has a length that is not allowed")]
    Length(u64),
    /// The end record does not fit what came before.
    #[error("the end record promises other totals than were sent")]
    Totals,
    /// Bytes after the end.
    #[error("there are bytes after the end record")]
    Trailing,
    /// No end record.
    #[error("the body was cut: the end record is missing")]
    Cut,
}

/// Writes records.
#[derive(Debug, Default)]
pub struct Encoder {
    records: u64,
    covered_bytes: u64,
}

/// Reads records from pieces of any size. Holds at most one record in memory.
#[derive(Debug)]
pub struct Decoder {
    state: DecoderState,
    buffer: BytesMut,
    records: u64,
    covered_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DecoderState {
    Magic,
    Header,
    Data { offset: u64, length: usize },
    Ended,
}

impl Encoder {
    /// The bytes before the first record.
    pub fn start(out: &mut Vec<u8>) {
        out.put_slice(MAGIC);
    }

    /// The header of a data record; `length` bytes follow. At most [`DATA_BYTES_MAX`].
    pub fn data(&mut self, offset: u64, length: u32, out: &mut Vec<u8>) {
        self.record(offset, length, KIND_DATA, out);
    }

    /// Records for a stretch of zeroes of any length.
    pub fn zero(&mut self, offset: u64, length: u64, out: &mut Vec<u8>) {
        self.long(offset, length, KIND_ZERO, out);
    }

    /// Records for a stretch of any length that is left out.
    pub fn excluded(&mut self, offset: u64, length: u64, out: &mut Vec<u8>) {
        self.long(offset, length, KIND_EXCLUDED, out);
    }

    fn long(&mut self, mut offset: u64, mut length: u64, kind: u8, out: &mut Vec<u8>) {
        while length > 0 {
            let step = u32::try_from(length)
                .unwrap_or(ZERO_BYTES_MAX)
                .min(ZERO_BYTES_MAX);
            self.record(offset, step, kind, out);
            offset += u64::from(step);
            length -= u64::from(step);
        }
    }

    /// The end record.
    pub fn end(self, out: &mut Vec<u8>) {
        let records = u32::try_from(self.records % RECORDS_MODULUS).expect("the rest fits");
        put(self.covered_bytes, records, KIND_END, out);
    }

    fn record(&mut self, offset: u64, length: u32, kind: u8, out: &mut Vec<u8>) {
        self.records += 1;
        self.covered_bytes += u64::from(length);
        put(offset, length, kind, out);
    }
}

impl Decoder {
    /// Nothing was read yet.
    pub fn new() -> Self {
        Self {
            state: DecoderState::Magic,
            buffer: BytesMut::new(),
            records: 0,
            covered_bytes: 0,
        }
    }

    /// Adds a piece of the body.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next record, or `None` if it needs more of the body.
    ///
    /// # Errors
    /// If the body is not what was promised. Nothing further can be read then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FramingError> {
        loop {
            match self.state {
                DecoderState::Magic => {
                    let Some(magic) = self.take(MAGIC.len()) else {
                        return Ok(None);
                    };
                    if magic != MAGIC {
                        return Err(FramingError::Magic);
                    }
                    self.state = DecoderState::Header;
                }
                DecoderState::Header => {
                    let Some(header) = self.take(HEADER_BYTES) else {
                        return Ok(None);
                    };
                    match self.header(header)? {
                        Some(frame) => return Ok(Some(frame)),
                        None => continue,
                    }
                }
                DecoderState::Data { offset, length } => {
                    let Some(data) = self.take(length) else {
                        return Ok(None);
                    };
                    self.state = DecoderState::Header;
                    return Ok(Some(Frame::Data { offset, data }));
                }
                DecoderState::Ended if self.buffer.is_empty() => return Ok(None),
                DecoderState::Ended => return Err(FramingError::Trailing),
            }
        }
    }

    /// Says that the body has ended.
    ///
    /// # Errors
    /// [`FramingError::Cut`] if the end record did not come.
    pub fn finish(&self) -> Result<(), FramingError> {
        match self.state {
            DecoderState::Ended if self.buffer.is_empty() => Ok(()),
            DecoderState::Ended => Err(FramingError::Trailing),
            _ => Err(FramingError::Cut),
        }
    }

    /// Reads a header; `None` for data that follows.
    fn header(&mut self, mut header: Bytes) -> Result<Option<Frame>, FramingError> {
        let (offset, length) = (header.get_u64_le(), header.get_u32_le());
        let (kind, reserved) = (header.get_u8(), header);
        let number = self.records + 1;
        if reserved.iter().any(|&byte| byte != 0) {
            return Err(FramingError::Kind(number));
        }
        if kind == KIND_END {
            let whole =
                offset == self.covered_bytes && u64::from(length) == self.records % RECORDS_MODULUS;
            self.state = DecoderState::Ended;
            return if whole {
                Ok(Some(Frame::End))
            } else {
                Err(FramingError::Totals)
            };
        }
        self.records = number;
        self.covered_bytes = self
            .covered_bytes
            .checked_add(length.into())
            .ok_or(FramingError::Length(number))?;
        let fits = offset.checked_add(length.into()).is_some() && length > 0;
        match kind {
            KIND_DATA if fits && length <= DATA_BYTES_MAX => {
                self.state = DecoderState::Data {
                    offset,
                    length: length as usize,
                };
                Ok(None)
            }
            KIND_ZERO if fits => Ok(Some(Frame::Zero {
                offset,
                length: length.into(),
            })),
            KIND_EXCLUDED if fits => Ok(Some(Frame::Excluded {
                offset,
                length: length.into(),
            })),
            KIND_DATA | KIND_ZERO | KIND_EXCLUDED => Err(FramingError::Length(number)),
            _ => Err(FramingError::Kind(number)),
        }
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        (self.buffer.len() >= length).then(|| self.buffer.split_to(length).freeze())
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

fn put(offset: u64, length: u32, kind: u8, out: &mut Vec<u8>) {
    out.put_u64_le(offset);
    out.put_u32_le(length);
    out.put_u8(kind);
    out.put_slice(&[0; 3]);
}

/// Longest data record.
pub const DATA_BYTES_MAX: u32 = 4 << 20;
const ZERO_BYTES_MAX: u32 = 1 << 31;
const MAGIC: &[u8] = b"HFEXTS01";
const HEADER_BYTES: usize = 16;
const KIND_DATA: u8 = 1;
const KIND_ZERO: u8 = 2;
const KIND_EXCLUDED: u8 = 3;
const KIND_END: u8 = 255;
const RECORDS_MODULUS: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::default();
        Encoder::start(&mut out);
        encoder.data(512, 5, &mut out);
        out.extend_from_slice(b"hello");
        encoder.zero(4096, 5 << 30, &mut out);
        encoder.excluded(8 << 30, 5 << 30, &mut out);
        encoder.end(&mut out);
        out
    }

    fn decode(body: &[u8], step: usize) -> Result<Vec<Frame>, FramingError> {
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        for piece in body.chunks(step) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        decoder.finish()?;
        Ok(frames)
    }

    #[test]
    fn records_come_back_in_pieces_of_any_size() {
        let whole = decode(&body(), usize::MAX).unwrap();
        assert_eq!(
            whole.first(),
            Some(&Frame::Data {
                offset: 512,
                data: Bytes::from_static(b"hello")
            })
        );
        let zeroes: u64 = whole
            .iter()
            .map(|frame| match frame {
                Frame::Zero { length, .. } | Frame::Excluded { length, .. } => *length,
                _ => 0,
            })
            .sum();
        assert_eq!((zeroes, whole.last()), (10 << 30, Some(&Frame::End)));
        for step in 1..60 {
            assert_eq!(decode(&body(), step).unwrap(), whole);
        }
    }

    #[test]
    fn a_body_that_is_cut_anywhere_is_noticed() {
        let body = body();
        for length in 0..body.len() {
            assert!(decode(&body[..length], 7).is_err(), "cut to {length}");
        }
        assert_eq!(decode(&body[..body.len() - 16], 7), Err(FramingError::Cut));
        let mut longer = body.clone();
        longer.push(0);
        assert_eq!(decode(&longer, usize::MAX), Err(FramingError::Trailing));
    }

    #[test]
    fn hostile_records_are_refused_before_anything_is_kept() {
        let with = |offset: u64, length: u32, kind: u8| {
            let mut out = MAGIC.to_vec();
            put(offset, length, kind, &mut out);
            decode(&out, usize::MAX)
        };
        assert_eq!(
            with(0, DATA_BYTES_MAX + 1, KIND_DATA),
            Err(FramingError::Length(1))
        );
        assert_eq!(with(0, 0, KIND_ZERO), Err(FramingError::Length(1)));
        assert_eq!(with(u64::MAX, 1, KIND_ZERO), Err(FramingError::Length(1)));
        assert_eq!(with(0, 1, 77), Err(FramingError::Kind(1)));
        assert_eq!(with(1, 0, KIND_END), Err(FramingError::Totals));
        assert_eq!(decode(b"GET / HTTP/1.1", 3), Err(FramingError::Magic));
    }
}
