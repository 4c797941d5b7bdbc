//! Copies that are a step of the map: a record says what is shown where, and no bytes move.
//!
//! Within one overlay everything can be shown a second time: its payloads, what the point below has, and zeroes. From
//! another overlay over the same disk of the same point, what the point has and zeroes are taken so; its payloads lie in
//! a journal that may go away before this one, so their bytes are read and written.

use std::ops::ControlFlow;

use super::Overlay;
use super::format::{COPY_BYTES_MAX, CopySource, RecordKind, SECTOR_BYTES};
use super::journal::{Draft, SyncReason};
use super::map::{Content, Fill, Look};
use crate::error::RepoError;

/// A stretch of another overlay, and how it is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// As a record of this kind.
    Record(RecordKind),
    /// As bytes, read at this offset.
    Bytes(u64),
}

impl Taken {
    /// Whether `next`, behind `length` bytes of this, is more of the same.
    fn goes_on(&self, length: u64, next: &Self) -> bool {
        let point = CopySource::Point;
        match (*self, *next) {
            (Self::Bytes(from), Self::Bytes(next)) => from + length == next,
            (
                Self::Record(RecordKind::Copy { source, of }),
                Self::Record(RecordKind::Copy { source: next, .. }),
            ) => of == point && source + length == next,
            (Self::Record(kind), Self::Record(next)) => kind == next,
            _ => false,
        }
    }
}

impl Overlay {
    /// Shows at `offset` what is at `source_offset` when the call comes; with `stable`, also flushes. A call of more than
    /// 64 MiB is several steps. `false`: the ranges overlap, and nothing was done.
    pub fn copy(
        &self,
        offset: u64,
        source_offset: u64,
        length: u64,
        stable: bool,
    ) -> Result<bool, RepoError> {
        self.check_range(offset, length)?;
        self.check_range(source_offset, length)?;
        if offset.abs_diff(source_offset) < length {
            return Ok(false);
        }
        let kind = |at| RecordKind::Copy {
            source: source_offset + at,
            of: CopySource::Overlay,
        };
        for (at, length) in steps(length) {
            self.change(vec![self.step(kind(at), offset + at, length)], false)?;
        }
        self.flush_if(stable)?;
        Ok(true)
    }

    /// Shows at `offset` what another overlay has at `source_offset`; with `stable`, also flushes. `false`: it does not
    /// lie over the same disk of the same point, and nothing was done.
    pub fn copy_from(
        &self,
        offset: u64,
        source: &Self,
        source_offset: u64,
        length: u64,
        stable: bool,
    ) -> Result<bool, RepoError> {
        if self.record.id == source.record.id {
            return self.copy(offset, source_offset, length, stable);
        }
        self.check_range(offset, length)?;
        source.check_range(source_offset, length)?;
        let below = |overlay: &Self| (overlay.record.point.clone(), overlay.record.disk);
        if below(self) != below(source) {
            return Ok(false);
        }
        for (at, length) in steps(length) {
            let mut to = offset + at;
            let mut steps = Vec::new();
            for (length, taken) in source.shown(source_offset + at, length)? {
                match taken {
                    Taken::Record(kind) => steps.push(self.step(kind, to, length)),
                    Taken::Bytes(from) => {
                        self.change_all(std::mem::take(&mut steps))?;
                        self.write_from(to, source, from, length)?;
                    }
                }
                to += length;
            }
            self.change_all(steps)?;
        }
        self.flush_if(stable)?;
        Ok(true)
    }

    /// How another overlay can show a range of this one.
    fn shown(&self, offset: u64, length: u64) -> Result<Vec<(u64, Taken)>, RepoError> {
        let mut taken: Vec<(u64, Taken)> = Vec::new();
        let mut map = self.map.lock();
        let (sector, sectors) = (offset / SECTOR_BYTES, length / SECTOR_BYTES);
        map.walk(sector, sectors, Look::Everywhere, &mut |span| {
            let of_point = |sector| {
                Taken::Record(RecordKind::Copy {
                    source: sector * SECTOR_BYTES,
                    of: CopySource::Point,
                })
            };
            let next = match span.content {
                Content::Below => of_point(span.sector),
                Content::PointFrom { sector } => of_point(sector),
                Content::Fill(Fill::Zero) => Taken::Record(RecordKind::Zeroes {
                    keep_allocated: true,
                }),
                Content::Fill(Fill::Hole) => Taken::Record(RecordKind::Discard),
                Content::Data { .. } => Taken::Bytes(span.sector * SECTOR_BYTES),
            };
            let bytes = span.sectors * SECTOR_BYTES;
            match taken.last_mut() {
                Some((length, last)) if last.goes_on(*length, &next) => *length += bytes,
                _ => taken.push((bytes, next)),
            }
            ControlFlow::Continue(())
        })?;
        map.shrink();
        Ok(taken)
    }

    fn write_from(
        &self,
        offset: u64,
        source: &Self,
        source_offset: u64,
        length: u64,
    ) -> Result<(), RepoError> {
        let mut at = 0;
        while at < length {
            let now = (length - at).min(BYTES_AT_ONCE);
            let mut bytes = Vec::new();
            let now_u32 = u32::try_from(now).unwrap_or(u32::MAX);
            source.read(source_offset + at, now_u32, &mut bytes)?;
            self.write(offset + at, &bytes, false)?;
            at += now;
        }
        Ok(())
    }

    fn step(&self, kind: RecordKind, offset: u64, length: u64) -> Draft {
        Draft {
            offset,
            length,
            ..Draft::bare(kind, self.journal.is_sealed())
        }
    }

    fn change_all(&self, mut steps: Vec<Draft>) -> Result<(), RepoError> {
        let Some((_, others)) = steps.split_last_mut() else {
            return Ok(());
        };
        others.iter_mut().for_each(|step| step.more = true);
        self.change(steps, false)
    }

    fn flush_if(&self, stable: bool) -> Result<(), RepoError> {
        match stable {
            true => self.journal.sync(SyncReason::Flush),
            false => Ok(()),
        }
    }
}

/// Cuts a range into what one record can say.
fn steps(length: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = usize::try_from(COPY_BYTES_MAX).unwrap_or(usize::MAX);
    (0..length)
        .step_by(step)
        .map(move |at| (at, (length - at).min(COPY_BYTES_MAX)))
}

/// Bytes of another overlay that are in memory on their way.
const BYTES_AT_ONCE: u64 = 1 << 20;
