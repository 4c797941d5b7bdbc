//! Compressed extents.

use std::io::Read as _;
use std::iter;

use miniz_oxide::inflate::decompress_slice_iter_to_slice;

use super::lzo;

/// How an extent is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Compression {
    Zlib,
    Lzo,
    Zstd,
}

impl Compression {
    pub(super) fn by_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Zlib,
            2 => Self::Lzo,
            3 => Self::Zstd,
            _ => return None,
        })
    }

    /// The first bytes of what `input` was made of, `length` of them; rubbish may follow what is needed. `None` if it is
    /// damaged. Of the last sector only what the file had of it is there.
    pub(super) fn decompress(self, input: &[u8], length: usize, sector: usize) -> Option<Vec<u8>> {
        let mut output = match self {
            Self::Zlib => zlib(input, length),
            Self::Lzo => lzo_segments(input, length, sector),
            Self::Zstd => zstd(input, length),
        }?;
        if output.len() + sector <= length || output.len() > length {
            return None;
        }
        output.resize(length, 0);
        Some(output)
    }
}

fn zlib(input: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut output = vec![0; length];
    let made = decompress_slice_iter_to_slice(&mut output, iter::once(input), true, false);
    output.truncate(made.ok()?);
    Some(output)
}

fn zstd(input: &[u8], length: usize) -> Option<Vec<u8>> {
    // One frame, and then whatever fills the last sector.
    let decoder = zstd::Decoder::with_buffer(input).ok()?.single_frame();
    let mut output = Vec::with_capacity(length);
    decoder.take(length as u64).read_to_end(&mut output).ok()?;
    Some(output)
}

/// A length of all, then segments, each with its length, which never begins at the last three bytes of a sector.
fn lzo_segments(input: &[u8], length: usize, sector: usize) -> Option<Vec<u8>> {
    let number = |at: usize| -> Option<usize> {
        let bytes = input.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let input_end = number(0)?;
    let mut at = 4;
    let mut output = Vec::with_capacity(length);
    while output.len() < length && at < input_end {
        let room = sector - at % sector;
        if room < 4 {
            at += room;
        }
        let segment_length = number(at)?;
        at += 4;
        let end = at.checked_add(segment_length)?;
        if end > input_end {
            return None;
        }
        // Systems with larger pages make larger segments.
        output.extend(lzo::decompress(input.get(at..end)?, SEGMENT_MAX)?);
        at = end;
    }
    // The last one may be longer, as the sector is that the file ends in.
    output.truncate(length);
    Some(output)
}

const SEGMENT_MAX: usize = 64 << 10;
