//! Zip archives that are written as they go, to whatever cannot be sought in.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

use export::{Attributes, Timestamp};
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::archive::Archive;

/// An archive under way. Names are UTF-8, as the format has it; bytes that are no text are replaced.
pub(super) struct ZipArchive<W: Write>(ZipWriter<StreamWriter<W>>);

impl<W: Write> ZipArchive<W> {
    pub(super) fn new(to: W) -> Self {
        Self(ZipWriter::new_stream(to))
    }

    /// Writes the directory of the archive.
    pub(super) fn finish(self) -> io::Result<()> {
        Ok(self.0.finish().map(drop)?)
    }
}

impl<W: Write> Archive for ZipArchive<W> {
    fn folder(&mut self, path: &Path, attributes: &Attributes) -> io::Result<()> {
        Ok(self
            .0
            .add_directory(path.to_string_lossy(), options(attributes))?)
    }

    fn link(&mut self, path: &Path, attributes: &Attributes, target: &OsStr) -> io::Result<()> {
        let target = target.to_string_lossy();
        let options = options(attributes);
        Ok(self
            .0
            .add_symlink(path.to_string_lossy(), target, options)?)
    }

    fn file(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        content: &mut dyn io::Read,
    ) -> io::Result<()> {
        // Of what is longer than 4 GiB minus what compression may add, lengths need 64 bits.
        let is_long = attributes.size_bytes >= u64::from(u32::MAX) - (16 << 20);
        let options = options(attributes).large_file(is_long);
        self.0.start_file(path.to_string_lossy(), options)?;
        io::copy(content, &mut self.0).map(drop)
    }
}

fn options(attributes: &Attributes) -> SimpleFileOptions {
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(LEVEL))
        .unix_permissions(attributes.mode & 0o777)
        .last_modified_time(time(attributes.modified))
}

/// The format has years from 1980 to 2107, and seconds in twos.
fn time(at: Timestamp) -> DateTime {
    let at = i64::try_from(at.seconds).ok();
    let at = at.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    at.and_then(|at| {
        let at = at.to_zoned(jiff::tz::TimeZone::UTC);
        let number = |field: i8| u8::try_from(field).ok();
        DateTime::from_date_and_time(
            u16::try_from(at.year()).ok()?,
            number(at.month())?,
            number(at.day())?,
            number(at.hour())?,
            number(at.minute())?,
            number(at.second())?,
        )
        .ok()
    })
    .unwrap_or_default()
}

/// Fast rather than small: whoever waits for a file has lost it.
const LEVEL: i64 = 1;
