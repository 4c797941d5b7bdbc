//! Reading single records.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use super::format::{PAGE_BYTES, Place, RECORD_HEAD_BYTES, RecordKind, pack_path};
use super::parity::{PackView, Rebuild};
use super::record::{Record, RecordDecoder, RecordHeader};
use super::set::PackSet;
use crate::chunk::{ChunkId, RAW_LENGTH_MAX};
use crate::disk::{Access, AlignedBuffer, Caching, Disk, DiskFile};
use crate::error::RepoError;

/// Reads records by place, keeping files open and working memory at hand.
pub(crate) struct PackReader {
    disk: Arc<dyn Disk>,
    set: Arc<PackSet>,
    files: Cache<u32, Arc<dyn DiskFile>>,
    views: Cache<u32, Arc<PackView>>,
    scratch: Mutex<Vec<Scratch>>,
}

/// Working memory of one read.
#[derive(Debug)]
struct Scratch {
    buffer: AlignedBuffer,
    decoder: RecordDecoder,
}

impl PackReader {
    pub(crate) fn new(disk: Arc<dyn Disk>, set: Arc<PackSet>) -> Self {
        Self {
            disk,
            set,
            files: Cache::new(OPEN_FILES_MAX),
            views: Cache::new(VIEWS_MAX),
            scratch: Mutex::new(Vec::new()),
        }
    }

    /// The bytes of the record named `id`, expected at `place`. `Ok(None)` says that something else is there, so that
    /// the caller can ask the index; an error says that this record is there and hurt.
    pub(crate) fn read(
        &self,
        place: Place,
        id: ChunkId,
        kind: RecordKind,
    ) -> Result<Option<Bytes>, RepoError> {
        let Some(file) = self.file(place.pack)? else {
            return Ok(None);
        };
        let mut scratch = self.take_scratch()?;
        let answer = self.read_with(&mut scratch, file.as_ref(), place, id, kind);
        self.scratch.lock().push(scratch);
        answer
    }

    fn read_with(
        &self,
        scratch: &mut Scratch,
        file: &dyn DiskFile,
        place: Place,
        id: ChunkId,
        kind: RecordKind,
    ) -> Result<Option<Bytes>, RepoError> {
        let Scratch { buffer, decoder } = scratch;
        let start = place.offset() - place.offset() % PAGE_BYTES as u64;
        let skip = usize::try_from(place.offset() - start).unwrap_or(0);
        let mut record = fill(
            buffer,
            file,
            start,
            skip,
            place.length().unwrap_or(RECORD_HEAD_BYTES),
        )?;
        let header = match RecordHeader::decode(record) {
            Ok(header) if header.id == id && header.kind == kind => header,
            _ => return Ok(None),
        };
        if record.len() < header.record_length() {
            record = fill(buffer, file, start, skip, header.record_length())?;
        }
        decoder
            .open(&header, record)
            .map(Some)
            .map_err(|detail| RepoError::Corrupt {
                what: format!(
                    "record {id} at byte {} of {}",
                    place.offset(),
                    self.set.describe(place.pack)
                ),
                detail: detail.to_owned(),
            })
    }

    /// As [`read`](Self::read), with pages that are bad made again from parity. `None` if that does not help.
    pub(crate) fn read_rebuilt(
        &self,
        place: Place,
        id: ChunkId,
        kind: RecordKind,
    ) -> Result<Option<Bytes>, RepoError> {
        let Some(view) = self.rebuilding_view(place.pack)? else {
            return Ok(None);
        };
        let mut scratch = self.take_scratch()?;
        let answer = self.read_with(&mut scratch, view.as_ref(), place, id, kind);
        self.scratch.lock().push(scratch);
        match answer {
            Err(RepoError::Corrupt { .. }) => Ok(None),
            other => other,
        }
    }

    /// A view of a pack that rebuilds what is bad; kept, since whoever met one bad page will meet its neighbours.
    fn rebuilding_view(&self, number: u32) -> Result<Option<Arc<PackView>>, RepoError> {
        if let Some(view) = self.views.get(&number) {
            return Ok(Some(view));
        }
        let (Some(file), Ok(parity)) = (self.file(number)?, self.set.parity(number)) else {
            return Ok(None);
        };
        let view = Arc::new(PackView::new(file, Some(Arc::new(parity)), Rebuild::Yes));
        self.views.insert(number, Arc::clone(&view));
        Ok(Some(view))
    }

    /// Forgets what was kept to rebuild a pack, which is mended, has new parity, or is gone.
    pub(crate) fn forget_view(&self, number: u32) {
        self.views.remove(&number);
    }

    /// Reads many records, those that lie one after the other in a pack with one read. What does not turn out as
    /// expected is `None`, for [`read`](Self::read) to try and explain.
    pub(crate) fn read_run(
        &self,
        wanted: &[(Place, ChunkId)],
    ) -> Result<Vec<Option<Bytes>>, RepoError> {
        let mut found = Vec::with_capacity(wanted.len());
        let mut scratch = self.take_scratch()?;
        let mut rest = wanted;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(adjacent(rest));
            self.read_adjacent(&mut scratch, now, &mut found)?;
            rest = later;
        }
        self.scratch.lock().push(scratch);
        Ok(found)
    }

    fn read_adjacent(
        &self,
        scratch: &mut Scratch,
        wanted: &[(Place, ChunkId)],
        found: &mut Vec<Option<Bytes>>,
    ) -> Result<(), RepoError> {
        let span = wanted
            .first()
            .zip(wanted.last())
            .and_then(|((first, _), (last, _))| {
                let length = last.offset() + last.length()? as u64 - first.offset();
                Some((first, usize::try_from(length).ok()?))
            });
        let Some((first, length)) = span else {
            found.extend(wanted.iter().map(|_| None));
            return Ok(());
        };
        let Some(file) = self.file(first.pack)? else {
            found.extend(wanted.iter().map(|_| None));
            return Ok(());
        };
        let Scratch { buffer, decoder } = scratch;
        let start = first.offset() - first.offset() % PAGE_BYTES as u64;
        let skip = usize::try_from(first.offset() - start).unwrap_or(0);
        // What cannot be read is asked for one by one, which may know how to rebuild it.
        let bytes = fill(buffer, file.as_ref(), start, skip, length).unwrap_or_default();
        for (place, id) in wanted {
            let at = usize::try_from(place.offset() - first.offset()).unwrap_or(usize::MAX);
            let record = bytes.get(at..).unwrap_or_default();
            let opened = RecordHeader::decode(record).and_then(|header| {
                match header.id == *id && header.kind == RecordKind::Chunk {
                    true => decoder.open(&header, record),
                    false => Err("another record is there"),
                }
            });
            found.push(opened.ok());
        }
        Ok(())
    }

    /// The record named `id` as it is stored, its checksum proven. `None` if it is not at `place`.
    pub(crate) fn read_stored(
        &self,
        place: Place,
        id: ChunkId,
    ) -> Result<Option<Record>, RepoError> {
        let Some(file) = self.file(place.pack)? else {
            return Ok(None);
        };
        let mut buffer = AlignedBuffer::zeroed(SCRATCH_BYTES);
        let start = place.offset() - place.offset() % PAGE_BYTES as u64;
        let skip = usize::try_from(place.offset() - start).unwrap_or(0);
        let length = place.length().unwrap_or(SCRATCH_BYTES - PAGE_BYTES - skip);
        let record = fill(&mut buffer, file.as_ref(), start, skip, length)?;
        let header = match RecordHeader::decode(record) {
            Ok(header) if header.id == id => header,
            _ => return Ok(None),
        };
        match header.check(record) {
            Ok(_) => {
                let mut bytes = record.to_vec();
                bytes.resize(header.record_length(), 0);
                Ok(Some(Record::again(header, bytes)))
            }
            Err(detail) => Err(RepoError::Corrupt {
                what: format!(
                    "record {id} at byte {} of {}",
                    place.offset(),
                    self.set.describe(place.pack)
                ),
                detail: detail.to_owned(),
            }),
        }
    }

    /// Bytes of the record named `id`, if it is at `place`.
    pub(crate) fn record_length(
        &self,
        place: Place,
        id: ChunkId,
    ) -> Result<Option<u32>, RepoError> {
        let Some(file) = self.file(place.pack)? else {
            return Ok(None);
        };
        let mut page = AlignedBuffer::zeroed(2 * PAGE_BYTES);
        let start = place.offset() - place.offset() % PAGE_BYTES as u64;
        let skip = usize::try_from(place.offset() - start).unwrap_or(0);
        let head = fill(&mut page, file.as_ref(), start, skip, RECORD_HEAD_BYTES)?;
        Ok(match RecordHeader::decode(head) {
            Ok(header) if header.id == id => u32::try_from(header.record_length()).ok(),
            _ => None,
        })
    }

    /// Lets go of the file of a pack that is gone.
    pub(crate) fn let_go(&self, number: u32) {
        self.files.remove(&number);
    }

    /// The file of a pack, or `None` if there is no such pack.
    pub(crate) fn file(&self, number: u32) -> Result<Option<Arc<dyn DiskFile>>, RepoError> {
        if let Some(file) = self.files.get(&number) {
            return Ok(Some(file));
        }
        let Some(summary) = self.set.summary(number) else {
            return Ok(None);
        };
        let path = pack_path(number, summary.epoch);
        match self.disk.open(&path, Access::Read, Caching::Direct) {
            Ok(file) => {
                self.files.insert(number, Arc::clone(&file));
                Ok(Some(file))
            }
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn take_scratch(&self) -> Result<Scratch, RepoError> {
        if let Some(scratch) = self.scratch.lock().pop() {
            return Ok(scratch);
        }
        let decoder = RecordDecoder::new(Arc::clone(self.set.keys()))?;
        Ok(Scratch {
            buffer: AlignedBuffer::zeroed(SCRATCH_BYTES),
            decoder,
        })
    }
}

/// How many of the first records lie one after the other, so that one read gets them.
fn adjacent(wanted: &[(Place, ChunkId)]) -> usize {
    let Some((first, _)) = wanted.first() else {
        return 0;
    };
    let mut end = first.offset();
    let mut count = 0;
    for (place, _) in wanted {
        let Some(length) = place.length() else {
            break;
        };
        if place.pack != first.pack || place.offset() != end {
            break;
        }
        end += length as u64;
        if end - first.offset() > RUN_BYTES_MAX {
            break;
        }
        count += 1;
    }
    count.max(1)
}

/// Reads whole pages from `start` on and gives the bytes behind the first `skip`: `length` of them, or fewer at the
/// end of the file.
fn fill<'a>(
    buffer: &'a mut AlignedBuffer,
    file: &dyn DiskFile,
    start: u64,
    skip: usize,
    length: usize,
) -> Result<&'a [u8], RepoError> {
    let wanted = (skip + length)
        .next_multiple_of(PAGE_BYTES)
        .min(buffer.len());
    let target = buffer.get_mut(..wanted).unwrap_or_default();
    let got = file.read_at(start, target)?;
    Ok(target.get(skip..got).unwrap_or_default())
}

impl fmt::Debug for PackReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PackReader")
            .field("set", &self.set)
            .finish_non_exhaustive()
    }
}

/// Packs whose files are kept open.
const OPEN_FILES_MAX: usize = 512;

/// Packs for which rebuilt pages are kept, each up to its share of parity.
const VIEWS_MAX: usize = 4;

/// Bytes that one read for many records gets.
const RUN_BYTES_MAX: u64 = RAW_LENGTH_MAX as u64;

/// Room for the longest record wherever it starts in a page.
const SCRATCH_BYTES: usize = RAW_LENGTH_MAX + 3 * PAGE_BYTES;
