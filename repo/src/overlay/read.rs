//! The way out of an overlay.

use std::io::IoSliceMut;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;

use super::Overlay;
use super::format::SECTOR_BYTES;
use super::map::{Content, Look, Place, Span};
use crate::CHUNK_BYTES;
use crate::disk::DIRECT_ALIGNMENT;
use crate::error::RepoError;

/// Where some bytes of a read come from.
#[derive(Debug)]
enum Part {
    Zero { length: u64 },
    Below { offset: u64, length: u64 },
    Journal(Payload),
}

/// Some bytes of a record.
#[derive(Debug)]
struct Payload {
    place: Place,
    /// For which place of the disk its first block was sealed.
    offset: u64,
    /// Those that are meant, after the first ones to skip.
    length: usize,
}

/// Whether bytes of the journal that were read are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    InMemory,
    Nothing,
}

impl Overlay {
    /// Reads exactly `length` bytes at `offset`, as one piece after the other.
    pub fn read(&self, offset: u64, length: u32, out: &mut Vec<Bytes>) -> Result<(), RepoError> {
        self.read_keeping(Keep::InMemory, offset, length, out)
    }

    /// Reads, and keeps what it read or not.
    pub(super) fn read_keeping(
        &self,
        keep: Keep,
        offset: u64,
        length: u32,
        out: &mut Vec<Bytes>,
    ) -> Result<(), RepoError> {
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
        let mut rest = parts.as_slice();
        while let Some((part, others)) = rest.split_first() {
            rest = others;
            match part {
                Part::Zero { length } => push_zeroes(*length, out),
                Part::Below { offset, length } => self.read_below(*offset, *length, out)?,
                Part::Journal(payload) => {
                    if !self.journal_in_memory(payload, out) {
                        let (run, others) = take_run(payload, rest);
                        rest = others;
                        self.read_journal(keep, &run, out)?;
                    }
                }
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
            Part::Journal(payload) => self.journal_in_memory(payload, out),
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

    fn journal_in_memory(&self, payload: &Payload, out: &mut Vec<Bytes>) -> bool {
        let Payload { place, length, .. } = payload;
        let before = out.len();
        if !self.settings.blocks.find(self.cache_number, place, out) {
            return false;
        }
        if trim(out, before, place.skip_bytes(), *length) {
            return true;
        }
        out.truncate(before);
        false
    }

    /// Reads payloads that lie close together at once, as whole blocks, checks them, and gives out what was meant.
    fn read_journal(
        &self,
        keep: Keep,
        run: &[&Payload],
        out: &mut Vec<Bytes>,
    ) -> Result<(), RepoError> {
        let buffers = self.settings.blocks.buffers();
        let mut targets: Vec<Vec<u8>> = run
            .iter()
            .map(|payload| buffers.take(payload.place.covered_bytes()))
            .collect();
        self.fill(run, &mut targets)?;
        let keys = self.journal.segments.keys().map(|keys| &**keys);
        for (payload, mut bytes) in run.iter().zip(targets) {
            let Payload {
                place,
                offset,
                length,
            } = payload;
            let proofs = place.proofs();
            if !proofs.prove(keys, self.record.id, *offset, &mut bytes) {
                return Err(self.damaged(place));
            }
            let bytes = buffers.share(bytes);
            if keep == Keep::InMemory {
                self.keep(place, &bytes);
            }
            let start = place.skip_bytes();
            push_slice(&bytes, start..start + length, out).ok_or_else(|| self.damaged(place))?;
        }
        Ok(())
    }

    /// Keeps what `place` covers in memory: a few blocks one by one, as they may be written over one by one.
    fn keep(&self, place: &Place, bytes: &Bytes) {
        let blocks = &self.settings.blocks;
        if (2..=REMEMBERED_BLOCKS_MAX).contains(&place.blocks()) {
            blocks.insert_blocks(self.cache_number, place, bytes);
        } else {
            blocks.insert(self.cache_number, place, bytes.clone());
        }
    }

    /// One read for all payloads of a run. What lies between them, heads of records and padding, is thrown away.
    fn fill(&self, run: &[&Payload], targets: &mut [Vec<u8>]) -> Result<(), RepoError> {
        let Some(Payload { place: first, .. }) = run.first() else {
            return Ok(());
        };
        let last = run.last().map_or(first.position, |last| last.place.end());
        let covered: usize = run
            .iter()
            .map(|payload| payload.place.covered_bytes())
            .sum();
        let between = usize::try_from(last - first.position).unwrap_or(usize::MAX);
        let mut gaps = vec![0; between.saturating_sub(covered)];
        let mut free_gaps = gaps.as_mut_slice();
        let mut slices = Vec::with_capacity(run.len() * 2);
        let mut at = first.position;
        for (Payload { place, .. }, target) in run.iter().zip(targets) {
            let gap = usize::try_from(place.position - at).unwrap_or(usize::MAX);
            if gap > 0 {
                let (here, others) = free_gaps.split_at_mut_checked(gap).unwrap_or_default();
                slices.push(IoSliceMut::new(here));
                free_gaps = others;
            }
            at = place.end();
            slices.push(IoSliceMut::new(target));
        }
        let file = self.journal.segments.open(first.segment)?;
        let there = file.read_vectored_at(first.position, &mut slices)?;
        if first.position + there as u64 == at {
            return Ok(());
        }
        let detail = format!("it ends before byte {at}");
        Err(self.journal.segments.corrupt(first.segment, detail))
    }

    fn damaged(&self, place: &Place) -> RepoError {
        let detail = format!(
            "{} bytes at {} do not match their checks",
            place.covered_bytes(),
            place.position
        );
        self.journal.segments.corrupt(place.segment, detail)
    }
}

/// The payload and those behind it in `rest` that one read can bring, and the parts after them.
fn take_run<'a>(first: &'a Payload, rest: &'a [Part]) -> (Vec<&'a Payload>, &'a [Part]) {
    let mut run = vec![first];
    let mut end = first.place.end();
    let mut left = rest;
    while run.len() < RUN_PAYLOADS_MAX
        && let Some((Part::Journal(next), others)) = left.split_first()
        && next.place.segment == first.place.segment
        && (end..=end + GAP_BYTES_MAX as u64).contains(&next.place.position)
    {
        run.push(next);
        end = next.place.end();
        left = others;
    }
    (run, left)
}

fn collect(span: &Span<'_>, parts: &mut Vec<Part>) -> ControlFlow<()> {
    let length = span.sectors * SECTOR_BYTES;
    parts.push(match span.content {
        Content::Fill(_) => Part::Zero { length },
        Content::Below => Part::Below {
            offset: span.sector * SECTOR_BYTES,
            length,
        },
        Content::PointFrom { sector } => Part::Below {
            offset: sector * SECTOR_BYTES,
            length,
        },
        Content::Data { place, from } => {
            let sectors = u32::try_from(span.sectors).unwrap_or(u32::MAX);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let place = place.cut(from, sectors);
            Part::Journal(Payload {
                offset: place.sealed_for(span.sector),
                place,
                length,
            })
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

/// Up to how many blocks of one place are kept in memory one by one. More are kept together.
const REMEMBERED_BLOCKS_MAX: usize = 4;

/// Payloads read at once: a megabyte of a disk, and what an odd start adds.
const RUN_PAYLOADS_MAX: usize = 17;

/// Room between two payloads that is read over: the end of one record, padding, and the head of the next.
const GAP_BYTES_MAX: usize = 2 * DIRECT_ALIGNMENT;
