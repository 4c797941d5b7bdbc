//! Files that Windows' overlay filter compressed: chunks in a named stream, behind a table of where each ends.

use export::Segments;

use super::Ntfs;
use super::node::Node;
use super::reparse::PackedFormat;
use crate::GuestError;

/// The stream that holds the chunks.
pub(super) fn stream() -> Vec<u16> {
    "WofCompressedData".encode_utf16().collect()
}

impl Ntfs {
    pub(super) fn read_packed(
        &self,
        _node: &Node,
        _format: PackedFormat,
        _offset: u64,
        _length: u64,
    ) -> Result<Segments, GuestError> {
        Err(GuestError::unsupported(
            "content that Windows' overlay filter compressed",
        ))
    }
}
