//! Reads as exports answer them: the range is checked, and pieces go out as they lie in the cache.

use bytes::Bytes;
use export::{BlockProperties, ExportError, Segments};
use repo::RepoError;

use super::status::status;

/// Answers a read with what `read` collects.
pub(super) fn read(
    properties: &BlockProperties,
    offset: u64,
    length: u32,
    read: impl FnOnce(&mut Vec<Bytes>) -> Result<(), RepoError>,
) -> Result<Segments, ExportError> {
    properties.check(offset, u64::from(length))?;
    let mut pieces = Vec::new();
    read(&mut pieces).map_err(|error| status(&error))?;
    Ok(segments(pieces))
}

/// Answers a read with what `read` finds in memory; `None` if that is not all of it.
pub(super) fn read_cached(
    properties: &BlockProperties,
    offset: u64,
    length: u32,
    read: impl FnOnce(&mut Vec<Bytes>) -> bool,
) -> Option<Result<Segments, ExportError>> {
    if let Err(refused) = properties.check(offset, u64::from(length)) {
        return Some(Err(refused));
    }
    let mut pieces = Vec::new();
    read(&mut pieces).then(|| Ok(segments(pieces)))
}

fn segments(pieces: Vec<Bytes>) -> Segments {
    let mut segments = Segments::new();
    for piece in pieces {
        segments.push(piece);
    }
    segments
}
