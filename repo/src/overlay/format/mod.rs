//! The layouts of `docs/formats/overlay.md`.

mod proofs;
mod record;
mod segment;

pub(crate) use proofs::{Proofs, block_checks};
pub(crate) use record::{
    COPY_BYTES_MAX, CopySource, Found, HEAD_BYTES_MAX, PADDING_BYTES_MAX, PAYLOAD_BYTES_MAX,
    RECORD_ALIGNMENT, RECORD_MAGIC, Record, RecordKind, head_bytes,
};
pub(crate) use segment::{
    HeadProof, SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentError, SegmentHeader,
};

/// Unit of every offset and length of a disk.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// Bytes of payload under one check.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Sectors under one check.
pub(crate) const BLOCK_SECTORS: u32 = 8;
