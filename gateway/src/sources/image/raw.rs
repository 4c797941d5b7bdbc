//! Raw files and block devices.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;

use bytes::BytesMut;
use rustix::fs::SeekFrom as Hole;

use super::{PIECE_BYTES, Piece, SourceError};

/// Opens a file or block device, and says how long it is.
pub(super) fn open(path: &Path) -> Result<(File, u64), SourceError> {
    let failed = |action| {
        move |source| SourceError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let kind = std::fs::metadata(path).map_err(failed("open"))?.file_type();
    let not_a_file = |what| {
        Err(SourceError::NotAFile {
            path: path.to_owned(),
            what,
        })
    };
    if kind.is_dir() {
        return not_a_file("a folder");
    }
    if kind.is_fifo() || kind.is_socket() {
        return not_a_file("a pipe or socket");
    }
    if kind.is_char_device() {
        return not_a_file("a character device");
    }
    let file = File::open(path).map_err(failed("open"))?;
    let size_bytes = size(&file).map_err(failed("look at"))?;
    if size_bytes == 0 {
        return Err(SourceError::Empty {
            path: path.to_owned(),
        });
    }
    Ok((file, size_bytes))
}

/// Length of a file or block device.
pub(super) fn size(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

pub(super) fn check_size(path: &Path, size_bytes: u64) -> Result<(), SourceError> {
    match size_bytes {
        0 => Err(SourceError::Empty {
            path: path.to_owned(),
        }),
        size_bytes if !size_bytes.is_multiple_of(512) => Err(SourceError::NotSectors {
            path: path.to_owned(),
            size_bytes,
        }),
        _ => Ok(()),
    }
}

/// Refuses files that are plainly something else: an archive or a document restored as a disk helps nobody.
pub(super) fn refuse_other_files(path: &Path, file: &File) -> Result<(), SourceError> {
    let mut start = [0; 16];
    if file.read_at(&mut start, 0).is_err() {
        return Ok(());
    }
    match OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, what)) => Err(SourceError::NotAnImage {
            path: path.to_owned(),
            what: (*what).to_owned(),
        }),
        None => Ok(()),
    }
}

/// Gives the pieces of a range; holes are not read.
pub(super) fn read(
    file: &File,
    range: Range<u64>,
    take: &mut dyn FnMut(u64, Piece) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let data = next(file, Hole::Data(at), range.end);
        if data > at {
            take(at, Piece::Zero(data - at))?;
            at = data;
            continue;
        }
        let hole = next(file, Hole::Hole(at), range.end)
            .max(at + 512)
            .min(range.end);
        while at < hole {
            let length = PIECE_BYTES.min(hole - at);
            let mut buffer = BytesMut::zeroed(usize::try_from(length).unwrap_or_default());
            file.read_exact_at(&mut buffer, at)?;
            let zero = buffer.iter().all(|&byte| byte == 0);
            take(
                at,
                if zero {
                    Piece::Zero(length)
                } else {
                    Piece::Data(buffer.freeze())
                },
            )?;
            at += length;
        }
    }
    Ok(())
}

/// Where the next data or hole begins, in whole sectors; everything is data where the system cannot tell.
fn next(file: &File, what: Hole, end: u64) -> u64 {
    let (from, data) = match what {
        Hole::Data(from) => (from, true),
        Hole::Hole(from) => (from, false),
        _ => return end,
    };
    match rustix::fs::seek(file, what) {
        Ok(found) if data => (found - found % 512).clamp(from, end),
        Ok(found) => found.next_multiple_of(512).min(end),
        // No data until the end of the file.
        Err(rustix::io::Errno::NXIO) => end,
        Err(_) if data => from,
        Err(_) => end,
    }
}

/// What begins so is no disk.
const OTHERS: [(&[u8], &str); 12] = [
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"\x7fELF", "a program"),
    (b"%PDF", "a document"),
    (b"#!", "a script"),
    (b"<?xml", "an XML document"),
    (b"\x89PNG", "a picture"),
    (
        b"# Disk DescriptorFile",
        "a VMDK description that qemu-img cannot read; is the extent beside it?",
    ),
];
