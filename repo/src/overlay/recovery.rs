//! Opening a journal again: where it ends, and what it says.
//!
//! The rule (`docs/formats/overlay.md` gives the reasons): records up to the newest one that any intact record or
//! segment header calls durable were promised, and each of them must be whole, else the overlay is damaged. Behind
//! them the journal ends at the first record that is not whole.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::format::{
    CopySource, Found, HEAD_BYTES_MAX, HeadProof, Proofs, RECORD_ALIGNMENT, RECORD_MAGIC, Record,
    RecordKind, SECTOR_BYTES, SEGMENT_HEADER_BYTES,
};
use super::journal::{Placed, Position};
use super::map::{Fill, Map, Place};
use super::segments::Segments;
use crate::disk::{DiskError, DiskFile};
use crate::error::RepoError;

/// Takes in what the journal says after a checkpoint.
pub(super) trait Replay {
    /// One record, in order; `position` is where it starts. All up to it are durable.
    fn record(&mut self, position: &Position, record: &Record) -> Result<(), RepoError>;
}

/// Reads the journal from `start` to its end and makes all of that durable. Returns the end.
pub(super) fn replay(
    segments: &Segments,
    start: Position,
    into: &mut dyn Replay,
) -> Result<Position, RepoError> {
    let lengths = segments.list()?;
    let last = lengths.keys().next_back().copied().unwrap_or(0);
    let mut position = start;
    if start.segment == 0 {
        position = Position {
            segment: 1,
            end: SEGMENT_HEADER_BYTES as u64,
            ..start
        };
    }
    let length = lengths.get(&position.segment).copied().unwrap_or(0);
    if length < position.end {
        return Err(segments.corrupt(
            position.segment,
            format!("it ends at byte {length}, before what was promised"),
        ));
    }
    while position.segment < last {
        let next = segments.header(position.segment + 1)?;
        let mut scan = Scan::open(segments, position.segment)?;
        while position.end < next.previous_end {
            let Some(record) = scan.record(&position)? else {
                return Err(segments.corrupt(
                    position.segment,
                    format!("the record at byte {} is hurt", position.end),
                ));
            };
            into.record(&position, &record)?;
            position.pass(&record);
        }
        if position.end != next.previous_end || position.sequence + 1 != next.first_sequence {
            return Err(
                segments.corrupt(next.number, "it does not go on where the one before ends")
            );
        }
        position.segment += 1;
        position.end = SEGMENT_HEADER_BYTES as u64;
    }
    let mut scan = Scan::open(segments, position.segment)?;
    // What is found must be on the storage, not only in a page cache that a failed sync has left wrong.
    scan.file.sync()?;
    scan.file.forget_cached();
    let end = find_end(segments, &mut scan, position, position.sequence)?;
    while position.end < end {
        let Some(record) = scan.record(&position)? else {
            return Err(segments.corrupt(position.segment, "it changes while it is read"));
        };
        into.record(&position, &record)?;
        position.pass(&record);
    }
    Ok(position)
}

/// Finds where the last segment ends. Everything up to `promised` must be there.
fn find_end(
    segments: &Segments,
    scan: &mut Scan<'_>,
    start: Position,
    promised: u64,
) -> Result<u64, RepoError> {
    let mut position = start;
    let mut durable = promised;
    // Records whose payload may be torn: those behind the newest that is known to be durable.
    let mut unsure: VecDeque<Position> = VecDeque::new();
    while let Some(record) = scan.record(&position)? {
        durable = durable.max(record.durable);
        unsure.push_back(position);
        position.pass(&record);
        while unsure.front().is_some_and(|first| first.sequence < durable) {
            unsure.pop_front();
        }
    }
    if durable.max(scan.newest_promise(position.end)?) > position.sequence {
        return Err(segments.corrupt(
            position.segment,
            format!(
                "the record at byte {} is hurt, and later ones show that it was whole",
                position.end
            ),
        ));
    }
    // Where the call begins of which more records must come: it is there in whole or not at all.
    let mut call: Option<Position> = None;
    for position in unsure {
        let Some(record) = scan.record(&position)? else {
            return Ok(call.unwrap_or(position).end);
        };
        if !scan.payload_is_whole(&position, &record)? {
            return Ok(call.unwrap_or(position).end);
        }
        // Padding may lie between the records of a call.
        if record.kind != RecordKind::Padding {
            let begun = *call.get_or_insert(position);
            call = record.more.then_some(begun);
        }
    }
    Ok(call.unwrap_or(position).end)
}

/// What a record does to the disk.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) kind: RecordKind,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) proofs: &'a Proofs,
    pub(super) placed: Placed,
}

impl Change<'_> {
    /// Puts it into a map.
    pub(super) fn apply(&self, map: &mut Map) -> Result<(), RepoError> {
        let (sector, sectors) = (self.offset / SECTOR_BYTES, self.length / SECTOR_BYTES);
        match self.kind {
            RecordKind::Write => {
                let place = self.place();
                map.put(sector, u32::try_from(sectors).unwrap_or(u32::MAX), place)
            }
            RecordKind::Zeroes {
                keep_allocated: true,
            } => map.fill(sector, sectors, Fill::Zero),
            RecordKind::Zeroes {
                keep_allocated: false,
            }
            | RecordKind::Discard => map.fill(sector, sectors, Fill::Hole),
            RecordKind::Copy { source, of } => {
                let source = source / SECTOR_BYTES;
                match of {
                    CopySource::Overlay => map.copy(source, sector, sectors),
                    CopySource::Point => map.copy_point(source, sector, sectors),
                }
            }
            RecordKind::Flush | RecordKind::Mark | RecordKind::Padding => Ok(()),
        }
    }

    /// Where the payload of a write lies.
    pub(super) fn place(&self) -> Place {
        let sectors = u32::try_from(self.length / SECTOR_BYTES).unwrap_or(u32::MAX);
        Place::new(
            self.placed.segment,
            self.placed.position,
            sectors,
            self.proofs,
        )
    }
}

/// Reads one segment, a window at a time.
struct Scan<'a> {
    segments: &'a Segments,
    file: Arc<dyn DiskFile>,
    heads: HeadProof,
    number: u32,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Scan<'a> {
    fn open(segments: &'a Segments, number: u32) -> Result<Self, RepoError> {
        let heads = segments.header(number)?.heads(segments.keys());
        let file = segments.open(number)?;
        Ok(Self {
            segments,
            file,
            heads,
            number,
            window: Vec::new(),
            window_start: 0,
        })
    }

    /// The record that starts at `position`, if there is a whole head of the right number.
    fn record(&mut self, position: &Position) -> Result<Option<Record>, RepoError> {
        let heads = self.heads.clone();
        let found = Record::decode_head(self.bytes_at(position.end)?, &heads, position.end);
        match found {
            Found::Record(record) if record.sequence == position.sequence + 1 => Ok(Some(record)),
            Found::Record(_) | Found::Nothing => Ok(None),
            Found::Unknown => Err(RepoError::TooNew {
                what: self.path().display().to_string(),
                found: super::format::SEGMENT_VERSION + 1,
                known: super::format::SEGMENT_VERSION,
            }),
        }
    }

    fn payload_is_whole(&self, position: &Position, record: &Record) -> Result<bool, DiskError> {
        let mut body = vec![0; record.body_bytes()];
        let there = self
            .file
            .read_at(position.end + record.head_bytes() as u64, &mut body)?;
        let keys = self.segments.keys().map(|keys| &**keys);
        let overlay = self.segments.overlay();
        // Padding has no checks, but the file must reach as far as it says.
        let matches = record.kind == RecordKind::Padding
            || record.proofs.prove(keys, overlay, record.offset, &mut body);
        Ok(there == body.len() && matches)
    }

    /// The newest record that any intact record from `start` on calls durable.
    fn newest_promise(&mut self, start: u64) -> Result<u64, RepoError> {
        let heads = self.heads.clone();
        let mut newest = 0;
        let mut at = start.next_multiple_of(RECORD_ALIGNMENT);
        loop {
            let bytes = self.bytes_at(at)?;
            if bytes.is_empty() {
                return Ok(newest);
            }
            if bytes.starts_with(&RECORD_MAGIC)
                && let Found::Record(record) = Record::decode_head(bytes, &heads, at)
            {
                newest = newest.max(record.durable);
            }
            at += RECORD_ALIGNMENT;
        }
    }

    /// The bytes from `at` on that one head may take, fewer at the end of the file.
    fn bytes_at(&mut self, at: u64) -> Result<&[u8], DiskError> {
        let wanted = at..at + HEAD_BYTES_MAX as u64;
        let window = self.window_start..self.window_start + self.window.len() as u64;
        if !(window.contains(&wanted.start) && window.end >= wanted.end) {
            // Small records are read through, large payloads jumped over.
            let near = window.end >= at.saturating_sub(NEAR_BYTES) && at >= window.start;
            self.window
                .resize(if near { WINDOW_BYTES } else { HOP_BYTES }, 0);
            let there = self.file.read_at(at, &mut self.window)?;
            self.window.truncate(there);
            self.window_start = at;
        }
        let start = usize::try_from(at - self.window_start).unwrap_or(usize::MAX);
        let rest = self.window.get(start..).unwrap_or_default();
        Ok(rest.get(..HEAD_BYTES_MAX).unwrap_or(rest))
    }

    fn path(&self) -> PathBuf {
        self.segments.path(self.number)
    }
}

/// What is read at once where records follow closely.
const WINDOW_BYTES: usize = 256 << 10;

/// What is read behind a large payload.
const HOP_BYTES: usize = 4 << 10;

/// How far behind a window the next record counts as close.
const NEAR_BYTES: u64 = 16 << 10;
