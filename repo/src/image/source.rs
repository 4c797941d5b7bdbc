//! Reading a disk image that lies outside of the repository.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{CWD, Mode, OFlags, SeekFrom};

use super::pipeline::UnitData;
use super::writer::ImageWriter;
use crate::chunk::CHUNK_BYTES;
use crate::disk::{AlignedBuffer, DIRECT_ALIGNMENT};
use crate::error::RepoError;

impl ImageWriter {
    /// Reads `ranges` of a file or block device, in ascending order, and writes them to the image at the same
    /// offsets, widened to whole chunks. Holes of the file are not read. Reads go past the page cache where they can.
    ///
    /// # Errors
    /// If a read fails, the file ends early, or storing failed; and as for [`write`](Self::write).
    pub fn copy_file(&mut self, file: &File, ranges: &[Range<u64>]) -> Result<(), RepoError> {
        let source = Source::new(file);
        let mut behind = 0;
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
            self.copy_range(&source, &self.widen_to_grid(range))?;
        }
        Ok(())
    }

    fn copy_range(&mut self, source: &Source<'_>, range: &Range<u64>) -> Result<(), RepoError> {
        let mut at = range.start;
        while at < range.end {
            let data = source.next_data(at, range.end);
            if data.start > at {
                self.write_zeroes(at, data.start - at)?;
            }
            at = data.start;
            while at < data.end {
                at += self.copy_unit(source, at, data.end)?;
            }
        }
        Ok(())
    }

    /// Reads one unit and sends it on; says how many bytes it had.
    fn copy_unit(&mut self, source: &Source<'_>, at: u64, end: u64) -> Result<u64, RepoError> {
        let length = (end - at).min(READ_BYTES as u64);
        let wanted = usize::try_from(length).unwrap_or(READ_BYTES);
        let mut buffer = AlignedBuffer::zeroed(wanted.next_multiple_of(DIRECT_ALIGNMENT));
        source.read(at, &mut buffer, wanted)?;
        self.move_to(at)?;
        self.count_sent(length);
        self.advance(at + length);
        self.send(at / CHUNK_BYTES as u64, UnitData::Aligned(buffer, wanted))?;
        Ok(length)
    }

    /// Changed extents may have any alignment; reading more of the same disk is always right. What an extent before
    /// has brought already is left out.
    fn widen_to_grid(&self, range: &Range<u64>) -> Range<u64> {
        let chunk = CHUNK_BYTES as u64;
        let start = (range.start - range.start % chunk).max(self.position());
        start..range.end.next_multiple_of(chunk).min(self.size_bytes())
    }
}

/// A file to read, directly if its file system can.
struct Source<'a> {
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
            Ok(_) | Err(rustix::io::Errno::NXIO) => return end..end,
            Err(_) => return at..end,
        };
        // From the data itself: the start of its chunk may lie in a hole.
        let hole = rustix::fs::seek(self.file, SeekFrom::Hole(data)).unwrap_or(end);
        let stop = hole.max(data + 1).checked_next_multiple_of(chunk);
        (data - data % chunk).max(at)..stop.unwrap_or(end).min(end)
    }

    /// Fills the first `length` bytes of `buffer`, whose rest is there for alignment.
    fn read(&self, at: u64, buffer: &mut AlignedBuffer, length: usize) -> Result<(), RepoError> {
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
const READ_BYTES: usize = 2 << 20;
