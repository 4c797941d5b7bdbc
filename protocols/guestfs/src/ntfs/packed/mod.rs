//! Files that Windows' overlay filter compressed (CompactOS): chunks in a named stream, behind a table of where each ends,
//! as in the resources of a WIM image.

mod bits;
mod codes;
mod lzx;
mod xpress;

use std::ops::Range;

use ::bytes::Bytes;
use export::Segments;

use super::Ntfs;
use super::node::{Attribute, Node};
use super::record::kind;
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// Compressions of the overlay filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PackedFormat {
    /// XPRESS with Huffman codes.
    Xpress { chunk_bytes: usize },
    /// LZX.
    Lzx,
}

/// The stream that holds the chunks.
pub(super) fn stream() -> Vec<u16> {
    "WofCompressedData".encode_utf16().collect()
}

impl PackedFormat {
    /// How much content a chunk holds, but for the last one.
    fn chunk_bytes(self) -> usize {
        match self {
            Self::Xpress { chunk_bytes } => chunk_bytes,
            Self::Lzx => lzx::CHUNK_BYTES,
        }
    }

    /// Unpacks a chunk that holds `length` bytes; `None` says that it makes no sense. One that did not shrink is stored as
    /// it is.
    fn unpack(self, packed: Bytes, length: usize) -> Option<Bytes> {
        if packed.len() == length {
            return Some(packed);
        }
        let unpacked = match self {
            Self::Xpress { .. } => xpress::unpack(&packed, length),
            Self::Lzx => lzx::unpack(&packed, length),
        };
        unpacked.map(Bytes::from)
    }
}

impl Ntfs {
    /// Up to `length` bytes of the content of a file that the overlay filter compressed; fewer only at its end.
    pub(super) fn read_packed(
        &self,
        node: &Node,
        format: PackedFormat,
        offset: u64,
        length: u64,
    ) -> Result<Segments, GuestError> {
        let data = node
            .data()
            .ok_or_else(|| node.corrupt("it has no content"))?;
        let size = data.size_bytes();
        let end = offset.saturating_add(length).min(size);
        let mut result = Segments::new();
        if offset >= end {
            return Ok(result);
        }
        let stream = node
            .find(kind::DATA, &stream())
            .ok_or_else(|| node.corrupt("the stream with its compressed content is not there"))?;
        let chunks = Chunks {
            ntfs: self,
            record: node.number,
            stream,
            format,
            size,
        };
        let chunk_bytes = format.chunk_bytes() as u64;
        let mut at = offset;
        while at < end {
            let number = at / chunk_bytes;
            let start = number * chunk_bytes;
            let stop = end.min(start + chunk_bytes);
            let key = (node.number, stream.name.clone(), number | OF_FILTER);
            let chunk = self
                .units
                .get_or_insert_with(&key, || chunks.read(number))?;
            let part = to_usize(at - start)..to_usize(stop - start);
            if part.end > chunk.len() {
                return Err(chunks.corrupt("a chunk is too short"));
            }
            result.push(chunk.slice(part));
            at = stop;
        }
        Ok(result)
    }
}

/// The compressed form of one file.
struct Chunks<'a> {
    ntfs: &'a Ntfs,
    record: u64,
    stream: &'a Attribute,
    format: PackedFormat,
    /// Length of the content.
    size: u64,
}

impl Chunks<'_> {
    fn read(&self, number: u64) -> Result<Bytes, GuestError> {
        let chunk_bytes = self.format.chunk_bytes() as u64;
        let length = chunk_bytes.min(self.size - number * chunk_bytes);
        let place = self.place(number)?;
        let packed = place.end - place.start;
        if packed == 0 || packed > length {
            return Err(self.corrupt("a chunk has an impossible length"));
        }
        let bytes = self
            .ntfs
            .read(self.record, self.stream, place.start, packed)?;
        let bytes = Bytes::from(bytes.to_vec());
        if bytes.len() as u64 != packed {
            return Err(self.corrupt("a chunk is cut off"));
        }
        self.format
            .unpack(bytes, to_usize(length))
            .ok_or_else(|| self.corrupt("compressed bytes make no sense"))
    }

    /// Where a chunk lies in the stream. The table has the start of each but the first, counted from its own end.
    fn place(&self, number: u64) -> Result<Range<u64>, GuestError> {
        let chunks = self.size.div_ceil(self.format.chunk_bytes() as u64);
        let width: u64 = if self.size > u64::from(u32::MAX) {
            8
        } else {
            4
        };
        let table = (chunks - 1) * width;
        let start = match number.checked_sub(1) {
            None => 0,
            Some(entry) => self.entry(entry, width)?,
        };
        let end = if number + 1 == chunks {
            self.stream.size_bytes().checked_sub(table)
        } else {
            Some(self.entry(number, width)?)
        };
        let absolute = |relative: u64| table.checked_add(relative);
        match (absolute(start), end.and_then(absolute)) {
            (Some(start), Some(end)) if start <= end && end <= self.stream.size_bytes() => {
                Ok(start..end)
            }
            _ => Err(self.corrupt("a chunk lies outside of the stream")),
        }
    }

    fn entry(&self, entry: u64, width: u64) -> Result<u64, GuestError> {
        let bytes = self
            .ntfs
            .read(self.record, self.stream, entry * width, width)?
            .to_vec();
        let view = View::new(&bytes, Place::Stream(self.record));
        match width {
            8 => view.u64(0),
            _ => view.u32(0).map(u64::from),
        }
    }

    fn corrupt(&self, detail: &'static str) -> GuestError {
        GuestError::corrupt(Place::Stream(self.record), detail)
    }
}

/// Tells these chunks from units of the same stream that NTFS itself compressed.
const OF_FILTER: u64 = 1 << 63;
