//! Writing an image: a pipeline that uses all cores, in bounded memory.
//!
//! The caller's thread brings units of consecutive chunks; workers test for zeroes, hash, look up and compress; one
//! thread appends in order and builds the map. Nothing of it is visible before the manifest is committed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::excluded::{Excluded, ExcludedTracker};
use super::pipeline::{Appender, Processed, Unit, UnitData, Worker};
use super::reader::Image;
use super::{ChunkSource as _, IMAGE_BYTES_MAX};
use crate::chunk::CHUNK_BYTES;
use crate::disk::AlignedBuffer;
use crate::error::RepoError;
use crate::store::ChunkStore;

/// What the image is made over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Base {
    /// Chunks that are not written stay as they are here; none means zeroes.
    pub(crate) image: Option<Image>,
    /// What was left out of it.
    pub(crate) excluded: Excluded,
}

/// Takes the content of one disk in ascending order.
pub struct ImageWriter {
    name: String,
    size_bytes: u64,
    base: Option<Image>,
    /// Everything before is settled.
    position: u64,
    partial: Option<PartialChunk>,
    next_unit: u64,
    stages: Stages,
    sent_bytes: u64,
    excluded: ExcludedTracker,
}

/// Who does the work on units.
enum Stages {
    Threads(Threads),
    /// The caller, one unit after the other; none after a failure.
    Caller(Option<Box<(Worker, Appender)>>),
}

struct Threads {
    units: Option<Sender<Unit>>,
    /// Buffers that units have left.
    spares: Receiver<AlignedBuffer>,
    /// One token for each unit on its way; bounds memory.
    tokens: Receiver<()>,
    threads: Vec<JoinHandle<()>>,
    result: Receiver<Result<ImageTotals, RepoError>>,
}

/// What a finished image amounts to.
#[derive(Debug, Clone, Default)]
pub struct ImageTotals {
    pub(crate) root: super::Pointer,
    /// Bytes that the source sent.
    pub sent_bytes: u64,
    /// Chunks that were new to the repository.
    pub new_chunks: u64,
    /// Chunks that differ from the image below.
    pub changed_chunks: u64,
    /// Bytes of packs that the image took, map and all.
    pub stored_bytes: u64,
    /// What was left out.
    pub excluded: Excluded,
}

/// A chunk that the caller writes in parts.
struct PartialChunk {
    index: u64,
    bytes: Vec<u8>,
    /// Up to where it is filled.
    filled: usize,
}

impl ImageWriter {
    pub(crate) fn start(
        store: &Arc<ChunkStore>,
        name: String,
        size_bytes: u64,
        base: Base,
        workers: usize,
    ) -> Result<Self, RepoError> {
        if size_bytes == 0
            || size_bytes > IMAGE_BYTES_MAX
            || !size_bytes.is_multiple_of(SECTOR_BYTES)
        {
            let rule = "a disk has a size from 512 bytes to 1 EiB, in multiples of 512";
            return Err(RepoError::BadRange {
                offset: 0,
                length: size_bytes,
                size_bytes,
                rule,
            });
        }
        let stages = match workers {
            0 => {
                let worker = Worker::new(Arc::clone(store), base.image.clone())?;
                let appender = Appender::new(Arc::clone(store), size_bytes, base.image.clone())?;
                Stages::Caller(Some(Box::new((worker, appender))))
            }
            workers => Stages::Threads(Threads::start(
                store,
                size_bytes,
                base.image.as_ref(),
                workers,
            )?),
        };
        Ok(Self {
            name,
            size_bytes,
            base: base.image,
            position: 0,
            partial: None,
            next_unit: 0,
            stages,
            sent_bytes: 0,
            excluded: ExcludedTracker::over(base.excluded),
        })
    }

    /// The image's name in its point.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Capacity of the disk.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Everything before this offset is settled; the next call starts here or behind.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes `data` at `offset`. Blocks while the pipeline is full.
    ///
    /// # Errors
    /// If the range is not in multiples of 512, not behind all before, or not inside the disk; or if storing failed.
    pub fn write(&mut self, offset: u64, data: Bytes) -> Result<(), RepoError> {
        self.check(offset, data.len() as u64)?;
        self.excluded.written(offset..offset + data.len() as u64);
        self.write_checked(offset, data)
    }

    fn write_checked(&mut self, offset: u64, mut data: Bytes) -> Result<(), RepoError> {
        self.sent_bytes += data.len() as u64;
        self.move_to(offset)?;
        while !data.is_empty() {
            let within = usize::try_from(self.position % CHUNK_BYTES as u64).unwrap_or(0);
            let whole = data.len() / CHUNK_BYTES * CHUNK_BYTES;
            if within == 0 && whole > 0 {
                let now = data.split_to(whole.min(UNIT_BYTES));
                let first = self.position / CHUNK_BYTES as u64;
                self.position += now.len() as u64;
                self.send(first, UnitData::Shared(now))?;
            } else {
                let now = data.split_to(data.len().min(CHUNK_BYTES - within));
                self.write_part(within, &now)?;
            }
        }
        Ok(())
    }

    /// Makes a range read as zeroes, with the rules of [`write`](Self::write).
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn write_zeroes(&mut self, offset: u64, length: u64) -> Result<(), RepoError> {
        self.check(offset, length)?;
        self.excluded.written(offset..offset + length);
        self.clear(offset, length)
    }

    /// Leaves a range out, with the rules of [`write`](Self::write): nobody knows what the source has there, and it
    /// reads as zeroes.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn exclude(&mut self, offset: u64, length: u64) -> Result<(), RepoError> {
        self.check(offset, length)?;
        let fresh = self.excluded.exclude(offset..offset + length);
        if self.base.is_none() {
            return Ok(());
        }
        for part in fresh {
            self.clear(part.start, part.end - part.start)?;
        }
        Ok(())
    }

    /// Makes a range zeroes that was checked.
    pub(super) fn clear(&mut self, offset: u64, length: u64) -> Result<(), RepoError> {
        self.move_to(offset)?;
        let end = offset + length;
        let chunk = CHUNK_BYTES as u64;
        let head_end = end.min(offset.next_multiple_of(chunk));
        self.write_zero_part(head_end)?;
        let whole_end = end - end % chunk;
        if whole_end > self.position {
            self.clear_chunks(self.position / chunk, whole_end / chunk)?;
            self.position = whole_end;
        }
        self.write_zero_part(end)
    }

    /// Makes `count` chunks from `first` on those that the image below has from `source` on, without reading them. All
    /// must be whole.
    pub(crate) fn copy_chunks(
        &mut self,
        first: u64,
        source: u64,
        count: u64,
    ) -> Result<(), RepoError> {
        let chunk = CHUNK_BYTES as u64;
        self.check(first * chunk, count * chunk)?;
        self.excluded
            .written(first * chunk..(first + count) * chunk);
        self.move_to(first * chunk)?;
        self.position = (first + count) * chunk;
        self.send(
            first,
            UnitData::Copied {
                source,
                chunks: count,
            },
        )
    }

    /// Ends the disk: what was not written stays as it is in the image below.
    pub(crate) fn finish(mut self) -> Result<ImageTotals, RepoError> {
        let end = self.size_bytes;
        self.cut_tail_of_larger_base()?;
        self.move_to(end)?;
        self.flush_partial()?;
        let mut totals = match &mut self.stages {
            Stages::Threads(threads) => threads.take_result()?,
            Stages::Caller(caller) => {
                let (_, appender) = *caller.take().ok_or(RepoError::Stopped)?;
                appender.finish()?
            }
        };
        totals.sent_bytes = self.sent_bytes;
        totals.excluded = std::mem::take(&mut self.excluded).finish(end);
        Ok(totals)
    }

    /// Sends a unit of chunks from `first` on.
    pub(super) fn send(&mut self, first: u64, data: UnitData) -> Result<(), RepoError> {
        let unit = Unit {
            number: self.next_unit,
            first,
            data,
        };
        self.next_unit += 1;
        match &mut self.stages {
            Stages::Threads(threads) => threads.send(unit),
            Stages::Caller(caller) => {
                let mut stages = caller.take().ok_or(RepoError::Stopped)?;
                let (worker, appender) = &mut *stages;
                appender.append_unit(worker.process(&unit)?)?;
                *caller = Some(stages);
                Ok(())
            }
        }
    }

    /// A buffer that an earlier unit has left.
    pub(super) fn take_spare(&mut self) -> Option<AlignedBuffer> {
        match &self.stages {
            Stages::Threads(threads) => threads.spares.try_recv().ok(),
            Stages::Caller(_) => None,
        }
    }

    pub(super) fn check(&self, offset: u64, length: u64) -> Result<(), RepoError> {
        let fault = |rule| RepoError::BadRange {
            offset,
            length,
            size_bytes: self.size_bytes,
            rule,
        };
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= self.size_bytes);
        if end.is_none() {
            return Err(fault("it ends behind the disk"));
        }
        if offset < self.position.max(self.excluded.position()) {
            return Err(fault(
                "ranges of a backup come in ascending order and do not overlap",
            ));
        }
        if !(offset | length).is_multiple_of(SECTOR_BYTES) {
            return Err(fault("ranges are in multiples of 512 bytes"));
        }
        Ok(())
    }

    /// Leaves everything up to `offset` as it is below.
    pub(super) fn move_to(&mut self, offset: u64) -> Result<(), RepoError> {
        let chunk = CHUNK_BYTES as u64;
        if self
            .partial
            .as_ref()
            .is_some_and(|partial| offset >= (partial.index + 1) * chunk)
        {
            self.flush_partial()?;
        }
        self.position = self.position.max(offset);
        let within = usize::try_from(offset % chunk).unwrap_or(0);
        if within > 0 && offset < self.size_bytes {
            self.fill_partial(offset / chunk, within)?;
        }
        Ok(())
    }

    pub(super) fn count_sent(&mut self, bytes: u64) {
        self.sent_bytes += bytes;
    }

    /// Notes that `range` was written but for `parts` of it, in order, which are left out.
    pub(super) fn note(&mut self, range: Range<u64>, parts: &[Range<u64>]) {
        let mut at = range.start;
        for part in parts {
            self.excluded.written(at..part.start);
            drop(self.excluded.exclude(part.clone()));
            at = part.end;
        }
        self.excluded.written(at..range.end);
    }

    pub(super) fn advance(&mut self, position: u64) {
        self.position = position;
    }

    fn write_part(&mut self, within: usize, bytes: &[u8]) -> Result<(), RepoError> {
        let index = self.position / CHUNK_BYTES as u64;
        self.fill_partial(index, within)?;
        if let Some(partial) = &mut self.partial {
            let end = within + bytes.len();
            if let Some(target) = partial.bytes.get_mut(within..end) {
                target.copy_from_slice(bytes);
            }
            partial.filled = end;
        }
        self.position += bytes.len() as u64;
        if self.position.is_multiple_of(CHUNK_BYTES as u64) {
            self.flush_partial()
        } else {
            Ok(())
        }
    }

    /// Writes zeroes up to `end`, which lies in the present chunk or at its end.
    fn write_zero_part(&mut self, end: u64) -> Result<(), RepoError> {
        if end <= self.position {
            return Ok(());
        }
        let within = usize::try_from(self.position % CHUNK_BYTES as u64).unwrap_or(0);
        let length = usize::try_from(end - self.position).unwrap_or(0);
        self.write_part(within, &vec![0; length])
    }

    /// Makes sure that the chunk at `index` is the partial one and is filled up to `within`, from below.
    fn fill_partial(&mut self, index: u64, within: usize) -> Result<(), RepoError> {
        let partial = match self.partial.take() {
            Some(partial) if partial.index == index => partial,
            _ => PartialChunk {
                index,
                bytes: vec![0; CHUNK_BYTES],
                filled: 0,
            },
        };
        let partial = self.partial.insert(partial);
        if partial.filled < within {
            fill_from(self.base.as_ref(), partial, within)?;
        }
        Ok(())
    }

    fn flush_partial(&mut self) -> Result<(), RepoError> {
        let Some(mut partial) = self.partial.take() else {
            return Ok(());
        };
        // Behind the end of the disk there are zeroes, whatever a larger disk below has there.
        let rest = self.size_bytes - partial.index * CHUNK_BYTES as u64;
        let end = usize::try_from(rest).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES));
        if partial.filled < end {
            fill_from(self.base.as_ref(), &mut partial, end)?;
        }
        self.send(partial.index, UnitData::Shared(Bytes::from(partial.bytes)))
    }

    /// Sets chunks that hold data below to zero.
    fn clear_chunks(&mut self, first: u64, end: u64) -> Result<(), RepoError> {
        let Some(base) = self.base.clone() else {
            return Ok(());
        };
        let chunk = CHUNK_BYTES as u64;
        let mut at = first;
        while at < end.min(base.chunk_count()) {
            let length = (end.min(base.chunk_count()) - at) * chunk;
            let length = length.min(base.size_bytes() - at * chunk);
            for extent in base.extents(at * chunk, length, 64)? {
                let chunks = extent.length.div_ceil(chunk);
                if extent.data {
                    self.send(at, UnitData::Zeroes { chunks })?;
                }
                at += chunks;
            }
        }
        Ok(())
    }

    /// A disk that shrank within a chunk: what the image below has behind the new end must not stay.
    fn cut_tail_of_larger_base(&mut self) -> Result<(), RepoError> {
        let within = self.size_bytes % CHUNK_BYTES as u64;
        let larger = self
            .base
            .as_ref()
            .is_some_and(|base| base.size_bytes() > self.size_bytes);
        if !larger || within == 0 || self.position > self.size_bytes - within {
            return Ok(());
        }
        let Some(base) = self.base.clone() else {
            return Ok(());
        };
        let start = self.size_bytes - within;
        let chunk = base.chunk(start / CHUNK_BYTES as u64)?;
        let kept = usize::try_from(within).unwrap_or(0);
        self.write_checked(start, chunk.slice(..kept))
    }
}

impl Threads {
    fn start(
        store: &Arc<ChunkStore>,
        size_bytes: u64,
        base: Option<&Image>,
        workers: usize,
    ) -> Result<Self, RepoError> {
        let (units, unit_queue) = bounded::<Unit>(UNITS_IN_FLIGHT);
        let (done, done_queue) = bounded::<Result<Processed, RepoError>>(UNITS_IN_FLIGHT);
        let (give_token, tokens) = bounded(UNITS_IN_FLIGHT);
        let (give_back, spares) = bounded(SPARES);
        for _ in 0..UNITS_IN_FLIGHT {
            give_token
                .send(())
                .expect("the channel has room for each token");
        }
        let (answer, result) = bounded(1);
        let mut threads = Vec::new();
        for _ in 0..workers {
            let worker = Worker::new(Arc::clone(store), base.cloned())?;
            let (unit_queue, done, spares) = (unit_queue.clone(), done.clone(), give_back.clone());
            threads.push(spawn("chunk-worker", move || {
                worker.run(&unit_queue, &done, &spares)
            })?);
        }
        let appender = Appender::new(Arc::clone(store), size_bytes, base.cloned())?;
        let append = move || drop(answer.send(appender.run(&done_queue, &give_token)));
        threads.push(spawn("pack-appender", append)?);
        Ok(Self {
            units: Some(units),
            spares,
            tokens,
            threads,
            result,
        })
    }

    fn send(&mut self, unit: Unit) -> Result<(), RepoError> {
        let sent = self.tokens.recv().is_ok()
            && self
                .units
                .as_ref()
                .is_some_and(|units| units.send(unit).is_ok());
        if sent {
            Ok(())
        } else {
            self.take_result().and(Err(RepoError::Stopped))
        }
    }

    /// The appender's verdict, once there is one.
    fn take_result(&mut self) -> Result<ImageTotals, RepoError> {
        self.units = None;
        let result = self.result.recv().unwrap_or(Err(RepoError::Stopped));
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
        result
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.units = None;
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl fmt::Debug for ImageWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ImageWriter")
            .field("name", &self.name)
            .field("size_bytes", &self.size_bytes)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// Fills a chunk up to `end` with what lies below it.
fn fill_from(
    base: Option<&Image>,
    partial: &mut PartialChunk,
    end: usize,
) -> Result<(), RepoError> {
    if let Some(base) = base.filter(|base| partial.index < base.chunk_count()) {
        let below = base.chunk(partial.index)?;
        let range = partial.filled..end;
        if let (Some(target), Some(source)) =
            (partial.bytes.get_mut(range.clone()), below.get(range))
        {
            target.copy_from_slice(source);
        }
    }
    partial.filled = end;
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, RepoError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(RepoError::Thread)
}

/// The unit of offsets and lengths.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// Bytes of consecutive chunks that go through the pipeline together.
pub(super) const UNIT_BYTES: usize = 1 << 20;

/// Units on their way at once.
const UNITS_IN_FLIGHT: usize = 16;

/// Buffers kept for later reads: a few, as the workers give them back about as fast as they are filled.
const SPARES: usize = 4;
