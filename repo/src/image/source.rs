//! Reading a disk image that lies outside of the repository.

use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{CWD, Mode, OFlags, SeekFrom};

use super::ahead::{ReadAhead, Stretch};
use super::pipeline::UnitData;
use super::writer::ImageWriter;
use crate::chunk::CHUNK_BYTES;
use crate::error::RepoError;

impl ImageWriter {
    /// Reads `ranges` of a file or block device, in ascending order, and writes them to the image at the same
    /// offsets, widened to whole chunks. Holes of the file are not read. Reads go past the page cache where they can,
    /// and several are under way at once. `progress` hears up to where all is on its way, and may end the copy.
    ///
    /// `excluded` are stretches to be [left out](Self::exclude), also where a widened range has them.
    ///
    /// # Errors
    /// If a read fails, the file ends early, or storing failed; [`RepoError::Stopped`] if `progress` ended it; and as
    /// for [`write`](Self::write).
    pub fn copy_file(
        &mut self,
        file: &File,
        ranges: &[Range<u64>],
        excluded: &[Range<u64>],
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), RepoError> {
        self.check_extents(ranges)?;
        self.check_extents(excluded)?;
        let mut excluded = Cursor(excluded.iter().cloned(), None);
        let source = Source::new(file);
        std::thread::scope(|scope| {
            let mut ahead = ReadAhead::start(scope, &source)?;
            let mut plan = Plan::new(&source, ranges, self.position(), self.size_bytes());
            loop {
                while !ahead.is_full()
                    && let Some(part) = plan.next()
                {
                    match part {
                        Part::Hole(range) => ahead.pass_zeroes(range),
                        Part::Data(range) => ahead.read(range, self.take_spare()),
                    }
                }
                let Some(stretch) = ahead.next() else {
                    return self.exclude_until(self.size_bytes(), &mut excluded);
                };
                self.take_stretch(stretch, &mut excluded)?;
                if progress(self.position()).is_break() {
                    return Err(RepoError::Stopped);
                }
            }
        })
    }

    /// Sends on what comes next of the disk.
    fn take_stretch(
        &mut self,
        stretch: Stretch,
        excluded: &mut Cursor<'_>,
    ) -> Result<(), RepoError> {
        let (Stretch::Zeroes(range) | Stretch::Data { range, .. }) = &stretch;
        self.exclude_until(range.start, excluded)?;
        let parts = excluded.until(range.end);
        self.note(range.clone(), &parts);
        match stretch {
            Stretch::Zeroes(range) => self.clear(range.start, range.end - range.start),
            Stretch::Data { range, buffer } => {
                let mut buffer = buffer?;
                let length = range.end - range.start;
                self.move_to(range.start)?;
                let within = |at: u64| usize::try_from(at - range.start).unwrap_or(READ_BYTES);
                for part in &parts {
                    if let Some(part) = buffer.get_mut(within(part.start)..within(part.end)) {
                        part.fill(0);
                    }
                }
                let left_out: u64 = parts.iter().map(|part| part.end - part.start).sum();
                self.count_sent(length - left_out);
                self.advance(range.end);
                let length = usize::try_from(length).unwrap_or(READ_BYTES);
                let unit = UnitData::Aligned(buffer, length);
                self.send(range.start / CHUNK_BYTES as u64, unit)
            }
        }
    }

    /// Leaves out what is to be left out before `end`.
    fn exclude_until(&mut self, end: u64, excluded: &mut Cursor<'_>) -> Result<(), RepoError> {
        for part in excluded.until(end) {
            self.exclude(part.start, part.end - part.start)?;
        }
        Ok(())
    }

    fn check_extents(&self, ranges: &[Range<u64>]) -> Result<(), RepoError> {
        let mut behind = 0;
        let chunk = CHUNK_BYTES as u64;
        if self.position() < self.size_bytes() && !self.position().is_multiple_of(chunk) {
            return Err(RepoError::BadRange {
                offset: self.position(),
                length: 0,
                size_bytes: self.size_bytes(),
                rule: "a file is copied from where a chunk starts",
            });
        }
        for range in ranges {
            if range.start < behind || range.end > self.size_bytes() || range.start >= range.end {
                return Err(RepoError::BadRange {
                    offset: range.start,
                    length: range.end.saturating_sub(range.start),
                    size_bytes: self.size_bytes(),
                    rule: "extents are inside the disk, not empty, in ascending order, and do not overlap",
                });
            }
            behind = range.end;
        }
        Ok(())
    }
}

/// Ranges in ascending order, taken piece by piece.
struct Cursor<'a>(
    std::iter::Cloned<std::slice::Iter<'a, Range<u64>>>,
    Option<Range<u64>>,
);

impl Cursor<'_> {
    /// What lies before `end` and was not taken yet.
    fn until(&mut self, end: u64) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        while let Some(range) = self.1.take().or_else(|| self.0.next()) {
            if range.start >= end {
                self.1 = Some(range);
                break;
            }
            parts.push(range.start..range.end.min(end));
            if range.end > end {
                self.1 = Some(end..range.end);
                break;
            }
        }
        parts
    }
}

/// What is to be read, in ascending order.
struct Plan<'a> {
    source: &'a Source<'a>,
    ranges: std::slice::Iter<'a, Range<u64>>,
    size_bytes: u64,
    /// All before it is planned.
    position: u64,
    /// The rest of the present range.
    range: Range<u64>,
    /// The rest of the present data within it.
    data: Range<u64>,
}

enum Part {
    Hole(Range<u64>),
    /// At most [`READ_BYTES`].
    Data(Range<u64>),
}

impl<'a> Plan<'a> {
    fn new(
        source: &'a Source<'a>,
        ranges: &'a [Range<u64>],
        position: u64,
        size_bytes: u64,
    ) -> Self {
        Self {
            source,
            ranges: ranges.iter(),
            size_bytes,
            position,
            range: 0..0,
            data: 0..0,
        }
    }

    /// Changed extents may have any alignment; reading more of the same disk is always right. What an extent before
    /// brings already is left out.
    fn widen_to_grid(&self, range: &Range<u64>) -> Range<u64> {
        let chunk = CHUNK_BYTES as u64;
        let start = (range.start - range.start % chunk).max(self.position);
        start..range.end.next_multiple_of(chunk).min(self.size_bytes)
    }
}

impl Iterator for Plan<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        while self.data.is_empty() {
            while self.range.is_empty() {
                let range = self.ranges.next()?;
                self.range = self.widen_to_grid(range);
            }
            let Range { start, end } = self.range;
            self.data = self.source.next_data(start, end);
            self.range.start = self.data.end;
            self.position = self.data.start;
            if self.data.start > start {
                return Some(Part::Hole(start..self.data.start));
            }
        }
        let end = self.data.end.min(self.data.start + READ_BYTES as u64);
        let part = self.data.start..end;
        self.data.start = end;
        self.position = end;
        Some(Part::Data(part))
    }
}

/// A file to read, directly if its file system can.
pub(super) struct Source<'a> {
    file: &'a File,
    direct: Option<File>,
}

impl<'a> Source<'a> {
    fn new(file: &'a File) -> Self {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let direct = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .ok()
            .map(File::from);
        Self { file, direct }
    }

    /// The next stretch that holds data, from `at` on and at most to `end`, on the chunk grid; empty at `end` if there
    /// is none. A file that cannot tell holds data everywhere.
    fn next_data(&self, at: u64, end: u64) -> Range<u64> {
        let chunk = CHUNK_BYTES as u64;
        let data = match rustix::fs::seek(self.file, SeekFrom::Data(at)) {
            Ok(data) if data < end => data,
            Ok(_) => return end..end,
            // No data follows; a file that ends before the disk does must not pass for zeroes.
            Err(rustix::io::Errno::NXIO) if self.reaches(end) => return end..end,
            Err(_) => return at..end,
        };
        // From the data itself: the start of its chunk may lie in a hole.
        let hole = rustix::fs::seek(self.file, SeekFrom::Hole(data)).unwrap_or(end);
        let stop = hole.max(data + 1).checked_next_multiple_of(chunk);
        (data - data % chunk).max(at)..stop.unwrap_or(end).min(end)
    }

    fn reaches(&self, end: u64) -> bool {
        rustix::fs::seek(self.file, SeekFrom::End(0)).is_ok_and(|length| length >= end)
    }

    /// Fills the first `length` bytes of `buffer`, whose rest is there for alignment.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8], length: usize) -> Result<(), RepoError> {
        let mut done = 0;
        if let Some(direct) = &self.direct {
            done = read_up_to(direct, at, buffer).unwrap_or(0);
        }
        if done < length {
            let rest = buffer.get_mut(done..length).unwrap_or_default();
            let fault = |source| RepoError::Transfer {
                action: "read the source",
                offset: at,
                source,
            };
            done += read_up_to(self.file, at + done as u64, rest).map_err(fault)?;
        }
        if done < length {
            let source = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file ends before the disk does",
            );
            return Err(RepoError::Transfer {
                action: "read the source",
                offset: at + done as u64,
                source,
            });
        }
        if let Some(rest) = buffer.get_mut(length..) {
            rest.fill(0);
        }
        Ok(())
    }
}

fn read_up_to(file: &File, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Bytes of one read.
pub(super) const READ_BYTES: usize = 2 << 20;
