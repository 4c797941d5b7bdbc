//! The way out of an overlay.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;

use super::Overlay;
use super::format::{SECTOR_BYTES, blocks_match};
use super::map::{Content, Look, Place, Span};
use crate::CHUNK_BYTES;
use crate::error::RepoError;

/// Where some bytes of a read come from.
#[derive(Debug)]
enum Part {
    Zero { length: u64 },
    Below { offset: u64, length: u64 },
    Journal { place: Place, length: usize },
}

impl Overlay {
    /// Reads exactly `length` bytes at `offset`, as one piece after the other.
    pub fn read(&self, offset: u64, length: u32, out: &mut Vec<Bytes>) -> Result<(), RepoError> {
        let length = u64::from(length);
        self.check_range(offset, length)?;
        let mut parts = Vec::new();
        {
            let mut map = self.map.lock();
            map.walk(
                offset / SECTOR_BYTES,
                length / SECTOR_BYTES,
                Look::Everywhere,
                &mut |span| collect(&span, &mut parts),
            )?;
            map.shrink();
        }
        // The journal never changes, so what the map said stays true without its lock.
        for part in &parts {
            match part {
                Part::Zero { length } => push_zeroes(*length, out),
                Part::Below { offset, length } => self.read_below(*offset, *length, out)?,
                Part::Journal { place, length } => self.read_journal(place, *length, out)?,
            }
        }
        Ok(())
    }

    /// Reads if memory can answer. `false`: it cannot, and nothing was given out; call [`read`](Self::read).
    pub fn read_cached(&self, offset: u64, length: u32, out: &mut Vec<Bytes>) -> bool {
        let before = out.len();
        let done = self.read_from_memory(offset, u64::from(length), out);
        if !done {
            out.truncate(before);
        }
        done
    }

    fn read_from_memory(&self, offset: u64, length: u64, out: &mut Vec<Bytes>) -> bool {
        if self.check_range(offset, length).is_err() {
            return false;
        }
        let mut parts = Vec::new();
        {
            let Some(mut map) = self.map.try_lock_for(PATIENCE) else {
                return false;
            };
            let known = map.walk(
                offset / SECTOR_BYTES,
                length / SECTOR_BYTES,
                Look::MemoryOnly,
                &mut |span| collect(&span, &mut parts),
            );
            if !matches!(known, Ok(true)) {
                return false;
            }
        }
        parts.iter().all(|part| match part {
            Part::Zero { length } => {
                push_zeroes(*length, out);
                true
            }
            Part::Below { offset, length } => self.below_in_memory(*offset, *length, out),
            Part::Journal { place, length } => self.journal_in_memory(place, *length, out),
        })
    }

    fn below_in_memory(&self, offset: u64, length: u64, out: &mut Vec<Bytes>) -> bool {
        for_chunks(offset, length, |chunk, range| {
            let Some(bytes) = self.source.cached_chunk(chunk) else {
                return Err(());
            };
            push_slice(&bytes, range, out).ok_or(())
        })
        .is_ok()
    }

    fn read_below(&self, offset: u64, length: u64, out: &mut Vec<Bytes>) -> Result<(), RepoError> {
        for_chunks(offset, length, |chunk, range| {
            let bytes = self.source.chunk(chunk)?;
            push_slice(&bytes, range, out).ok_or_else(|| RepoError::Corrupt {
                what: format!("chunk {chunk} below overlay {}", self.record.id),
                detail: "it is too short".to_owned(),
            })
        })
    }

    fn journal_in_memory(&self, place: &Place, length: usize, out: &mut Vec<Bytes>) -> bool {
        let before = out.len();
        if !self.settings.blocks.find(self.cache_number, place, out) {
            return false;
        }
        if trim(out, before, place.skip_bytes(), length) {
            return true;
        }
        out.truncate(before);
        false
    }

    /// Reads whole blocks, checks them, and gives out what was meant of them.
    fn read_journal(
        &self,
        place: &Place,
        length: usize,
        out: &mut Vec<Bytes>,
    ) -> Result<(), RepoError> {
        let few = place.checks().len() <= REMEMBERED_BLOCKS_MAX;
        if few && self.journal_in_memory(place, length, out) {
            return Ok(());
        }
        let mut bytes = vec![0; place.covered_bytes()];
        let there = self
            .journal
            .segments
            .open(place.segment)?
            .read_at(place.position, &mut bytes)?;
        if there < bytes.len() || !blocks_match(&bytes, place.checks()) {
            let detail = format!(
                "{} bytes at {} do not match their checks",
                bytes.len(),
                place.position
            );
            return Err(self.journal.segments.corrupt(place.segment, detail));
        }
        if few {
            self.settings
                .blocks
                .insert(self.cache_number, place, &bytes);
        }
        let start = place.skip_bytes();
        push_slice(&Bytes::from(bytes), start..start + length, out).ok_or_else(|| {
            self.journal
                .segments
                .corrupt(place.segment, "the map names more bytes than there are")
        })
    }
}

fn collect(span: &Span<'_>, parts: &mut Vec<Part>) -> ControlFlow<()> {
    let length = span.sectors * SECTOR_BYTES;
    parts.push(match span.content {
        Content::Zero | Content::Hole => Part::Zero { length },
        Content::Below => Part::Below {
            offset: span.sector * SECTOR_BYTES,
            length,
        },
        Content::Data { place, from } => {
            let sectors = u32::try_from(span.sectors).unwrap_or(u32::MAX);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            Part::Journal {
                place: place.cut(from, sectors),
                length,
            }
        }
    });
    ControlFlow::Continue(())
}

/// Calls `each` with every chunk of a range and the range within it.
fn for_chunks<E>(
    offset: u64,
    length: u64,
    mut each: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), E>,
) -> Result<(), E> {
    let chunk_bytes = CHUNK_BYTES as u64;
    let end = offset + length;
    let mut at = offset;
    while at < end {
        let chunk = at / chunk_bytes;
        let part_end = end.min((chunk + 1) * chunk_bytes);
        let start = usize::try_from(at % chunk_bytes).unwrap_or(0);
        let length = usize::try_from(part_end - at).unwrap_or(0);
        each(chunk, start..start + length)?;
        at = part_end;
    }
    Ok(())
}

fn push_slice(bytes: &Bytes, range: std::ops::Range<usize>, out: &mut Vec<Bytes>) -> Option<()> {
    if range.end > bytes.len() {
        return None;
    }
    out.push(bytes.slice(range));
    Some(())
}

fn push_zeroes(length: u64, out: &mut Vec<Bytes>) {
    let mut left = length;
    while left > 0 {
        let now = left.min(ZEROES.len() as u64);
        out.push(Bytes::from_static(ZEROES).slice(..usize::try_from(now).unwrap_or(0)));
        left -= now;
    }
}

/// Leaves of the pieces from `first` on only `length` bytes after the first `skip`. Says `false` if there are fewer.
fn trim(out: &mut [Bytes], first: usize, skip: usize, length: usize) -> bool {
    if let Some(piece) = out.get_mut(first) {
        if piece.len() < skip {
            return false;
        }
        *piece = piece.slice(skip..);
    }
    let mut left = length;
    for piece in out.iter_mut().skip(first) {
        piece.truncate(left);
        left -= piece.len();
    }
    left == 0
}

static ZEROES: &[u8] = &[0; CHUNK_BYTES];

/// How long a read that must not wait waits for the map.
const PATIENCE: Duration = Duration::from_micros(20);

/// Up to how many blocks of one place are kept in memory one by one.
const REMEMBERED_BLOCKS_MAX: usize = 4;
