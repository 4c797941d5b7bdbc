//! Writing an image to a file that lies outside of the repository.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{CWD, Mode, OFlags};

use super::reader::Image;
use crate::disk::{AlignedBuffer, DIRECT_ALIGNMENT};
use crate::error::RepoError;

impl Image {
    /// Writes the image to a file or device that reads as zeroes now, and makes a file as long as the disk. Zeroes
    /// stay holes. Writes go past the page cache where they can.
    ///
    /// # Errors
    /// As for [`restore`](Self::restore).
    pub fn restore_to_file(&self, file: &File) -> Result<(), RepoError> {
        let fault = |action, source| RepoError::Transfer {
            action,
            offset: self.size_bytes(),
            source,
        };
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            file.set_len(self.size_bytes())
                .map_err(|error| fault("set the length of the target", error))?;
        }
        let mut target = Target::new(file);
        self.restore(0..self.size_bytes(), &mut |offset, bytes| {
            target.write(offset, bytes)
        })?;
        target
            .flush()
            .map_err(|error| fault("write to the target", error))?;
        file.sync_data()
            .map_err(|error| fault("sync the target", error))
    }
}

/// Gathers consecutive pieces into writes of some size.
struct Target<'a> {
    file: &'a File,
    direct: Option<File>,
    buffer: AlignedBuffer,
    start: u64,
    filled: usize,
}

impl<'a> Target<'a> {
    fn new(file: &'a File) -> Self {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let direct = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .ok()
            .map(File::from);
        Self {
            file,
            direct,
            buffer: AlignedBuffer::zeroed(WRITE_BYTES),
            start: 0,
            filled: 0,
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.filled > 0 && offset != self.start + self.filled as u64 {
            self.flush()?;
        }
        let mut rest = bytes;
        let mut offset = offset;
        while !rest.is_empty() {
            if self.filled == 0 {
                self.start = offset;
            }
            let (now, later) = rest.split_at(rest.len().min(self.buffer.len() - self.filled));
            if let Some(room) = self.buffer.get_mut(self.filled..self.filled + now.len()) {
                room.copy_from_slice(now);
            }
            self.filled += now.len();
            offset += now.len() as u64;
            rest = later;
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what was gathered: whole pages directly, the end of a disk that ends within a page as usual.
    fn flush(&mut self) -> io::Result<()> {
        let bytes = self.buffer.get(..self.filled).unwrap_or_default();
        let aligned = self.start.is_multiple_of(DIRECT_ALIGNMENT as u64);
        let whole = bytes.len() - bytes.len() % DIRECT_ALIGNMENT;
        let (head, tail) = bytes.split_at(if aligned { whole } else { 0 });
        let done = match &self.direct {
            Some(direct) if !head.is_empty() => direct.write_all_at(head, self.start).is_ok(),
            _ => false,
        };
        if !done {
            self.file.write_all_at(head, self.start)?;
        }
        self.file
            .write_all_at(tail, self.start + head.len() as u64)?;
        self.filled = 0;
        Ok(())
    }
}

/// Bytes of one write.
const WRITE_BYTES: usize = 2 << 20;
