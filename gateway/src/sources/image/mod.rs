//! Disk images: raw files and block devices are read as they are; qcow2, VMDK, VHD and VHDX through `qemu-nbd`.
//!
//! The parsers of foreign formats are QEMU's, in a process of their own: they are kept by many and see hostile files
//! every day.

mod changed;
mod program;
mod raw;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

pub use changed::{ChangedError, ChangedExtents};
pub use program::NbdProgram;

/// An image that can be read as a disk.
#[derive(Debug)]
pub struct ImageSource {
    path: PathBuf,
    size_bytes: u64,
    reader: Reader,
}

/// A form of disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ImageFormat {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// Virtual PC's and Hyper-V's older one.
    Vhd,
    /// Hyper-V's.
    Vhdx,
}

impl ImageFormat {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
        }
    }

    /// What QEMU calls it.
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::Vhd => "vpc",
            format => format.name(),
        }
    }
}

/// How it is read.
#[derive(Debug)]
enum Reader {
    /// The file itself.
    Raw(File),
    /// Through a program that serves it.
    Program(NbdProgram),
}

/// A piece of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// So many zeroes.
    Zero(u64),
}

/// An image that cannot be backed up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It cannot be opened or read.
    #[error("cannot {action} {}: {source}; check the path and its rights", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// A folder, a socket, and so on.
    #[error("{} is not a disk image: it is {what}; give a file or a block device", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Nothing in it.
    #[error("{} is empty: there is nothing to back up", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Not whole sectors.
    #[error("{} has {size_bytes} bytes, which is no multiple of 512, so it is no disk image; if it was cut, get it again; if it only lacks the end of its last sector, run `truncate -s %512` on a copy", path.display())]
    NotSectors {
        /// The file.
        path: PathBuf,
        /// Its length.
        size_bytes: u64,
    },
    /// It is something else.
    #[error("{} is not a disk image: it is {what}; give a raw, qcow2, VMDK, VHD or VHDX image or a block device", path.display())]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// Its name says one format, and its first bytes another.
    #[error("{} is called .{extension}, and nothing in it is of that format; get the file again if it was cut, and if it holds the disk's bytes and nothing else, say --format raw", path.display())]
    NotAsNamed {
        /// The file.
        path: PathBuf,
        /// The end of its name.
        extension: String,
    },
    /// Its size changed while it was read.
    #[error("{} changed its size from {before} to {after} bytes while it was read; stop what writes to it, or back up a snapshot", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Bytes at first.
        before: u64,
        /// Bytes now.
        after: u64,
    },
    /// It stands on another file that is out of bounds.
    #[error("{} stands on the file {}, which is not in its folder; copy that beside it, or flatten the image with `qemu-img convert`", path.display(), backing.display())]
    Backing {
        /// The file.
        path: PathBuf,
        /// What it stands on.
        backing: PathBuf,
    },
    /// A program is missing or failed.
    #[error("cannot read {} as {format}: {detail}", path.display())]
    Program {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: String,
        /// What happened and what to do.
        detail: String,
    },
}

impl ImageSource {
    /// Opens an image, of the format given or of the one that it shows.
    ///
    /// # Errors
    /// If it is no image, or the program that reads its format is missing.
    pub fn open(path: &Path, format: Option<ImageFormat>) -> Result<Self, SourceError> {
        let (file, size_bytes) = raw::open(path)?;
        let format = match format {
            Some(format) => format,
            None => program::detect(path, &file)?,
        };
        if format == ImageFormat::Raw {
            raw::check_size(path, size_bytes)?;
            raw::refuse_other_files(path, &file)?;
            return Ok(Self {
                path: path.to_owned(),
                size_bytes,
                reader: Reader::Raw(file),
            });
        }
        program::check_backing(path)?;
        let program = NbdProgram::start(path, format)?;
        let size_bytes = program.size_bytes();
        raw::check_size(path, size_bytes)?;
        Ok(Self {
            path: path.to_owned(),
            size_bytes,
            reader: Reader::Program(program),
        })
    }

    /// Capacity of the disk.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, if the daemon can read it as it is.
    pub fn file(&self) -> Option<&File> {
        match &self.reader {
            Reader::Raw(file) => Some(file),
            Reader::Program(_) => None,
        }
    }

    /// Gives all pieces of a range in order; zeroes that the format knows of are not read.
    ///
    /// # Errors
    /// If reading fails, or `take` does.
    pub fn read(
        &mut self,
        range: std::ops::Range<u64>,
        take: &mut dyn FnMut(u64, Piece) -> io::Result<()>,
    ) -> Result<(), SourceError> {
        let path = self.path.clone();
        let read = match &mut self.reader {
            Reader::Raw(file) => raw::read(file, range, take),
            Reader::Program(program) => program.read(range, take),
        };
        read.map_err(|source| SourceError::Io {
            action: "read",
            path,
            source,
        })
    }

    /// Reads `length` bytes at `offset`.
    ///
    /// # Errors
    /// If reading fails.
    pub fn read_at(&mut self, offset: u64, length: usize) -> Result<Bytes, SourceError> {
        let end = offset.saturating_add(length as u64);
        // What other formats are read through counts in sectors.
        let start = offset - offset % SECTOR_BYTES;
        let aligned = start..end.next_multiple_of(SECTOR_BYTES).min(self.size_bytes);
        let mut bytes = BytesMut::with_capacity(length + 2 * 512);
        self.read(aligned, &mut |_, piece| {
            match piece {
                Piece::Data(data) => bytes.extend_from_slice(&data),
                Piece::Zero(count) => {
                    let count = usize::try_from(count).map_err(io::Error::other)?;
                    bytes.resize(bytes.len() + count, 0);
                }
            }
            Ok(())
        })?;
        let skipped = usize::try_from(offset - start).unwrap_or_default();
        match skipped + length <= bytes.len() {
            true => Ok(bytes.freeze().slice(skipped..skipped + length)),
            false => Err(SourceError::Io {
                action: "read",
                path: self.path.clone(),
                source: io::ErrorKind::UnexpectedEof.into(),
            }),
        }
    }

    /// Refuses an image whose size changed since it was opened.
    ///
    /// # Errors
    /// [`SourceError::Changed`].
    pub fn check_unchanged(&self) -> Result<(), SourceError> {
        let Reader::Raw(file) = &self.reader else {
            return Ok(());
        };
        let after = raw::size(file).map_err(|source| SourceError::Io {
            action: "look at",
            path: self.path.clone(),
            source,
        })?;
        if after == self.size_bytes {
            return Ok(());
        }
        Err(SourceError::Changed {
            path: self.path.clone(),
            before: self.size_bytes,
            after,
        })
    }
}

const SECTOR_BYTES: u64 = 512;

/// Bytes of one piece at most.
const PIECE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests;
