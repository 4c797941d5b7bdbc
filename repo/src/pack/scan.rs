//! Reading a pack record by record, for what has no table and for proving what has one.

use std::fmt;
use std::ops::Range;

use super::format::{PACK_BYTES_MAX, PAGE_BYTES, PackHeader, Place, RECORD_ALIGNMENT};
use super::record::RecordHeader;
use super::table::{Ending, TableOrigin, read_ending};
use super::window::{Fetch, Window};
use crate::disk::{AlignedBuffer, DiskFile};
use crate::error::RepoError;

/// A record found by a scan.
#[derive(Debug)]
pub(crate) struct ScannedRecord<'a> {
    /// Where it lies.
    pub(crate) place: Place,
    /// What its head says; its checksum was right.
    pub(crate) header: RecordHeader,
    /// Head, payload and filling.
    pub(crate) bytes: &'a [u8],
}

/// Calls `visit` for each whole record of pack `number` between `start` and `end`, in order. Stretches without a
/// record are stepped over, so that damage hides nothing behind it; their bytes are counted in the result.
pub(crate) fn scan_records(
    file: &dyn DiskFile,
    number: u32,
    start: u64,
    end: u64,
    fetch: Fetch,
    visit: &mut dyn FnMut(&ScannedRecord<'_>) -> Result<(), RepoError>,
) -> Result<u64, RepoError> {
    let end = end.min(PACK_BYTES_MAX * 2);
    std::thread::scope(|scope| {
        let window = Window::open(scope, file, start, end, fetch)?;
        scan_window(window, number, start..end, visit)
    })
}

fn scan_window(
    mut window: Window<'_>,
    number: u32,
    range: Range<u64>,
    visit: &mut dyn FnMut(&ScannedRecord<'_>) -> Result<(), RepoError>,
) -> Result<u64, RepoError> {
    let mut offset = range.start;
    let mut strange_bytes = 0;
    while offset < range.end {
        let whole = window.at_least(offset, RECORD_ALIGNMENT)?;
        let found = RecordHeader::decode(whole);
        let length = found
            .as_ref()
            .map_or(RECORD_ALIGNMENT, RecordHeader::record_length);
        let bytes = window.at_least(offset, length)?;
        match found.and_then(|header| header.check(bytes).map(|_| header)) {
            Ok(header) => {
                let in_pack = u32::try_from(offset).expect("a pack is smaller than 4 GiB");
                let bytes = bytes.get(..length.min(bytes.len())).unwrap_or(bytes);
                visit(&ScannedRecord {
                    place: Place::new(number, in_pack, length),
                    header,
                    bytes,
                })?;
                offset += length as u64;
            }
            Err(_) => {
                strange_bytes += RECORD_ALIGNMENT as u64;
                offset += RECORD_ALIGNMENT as u64;
            }
        }
    }
    Ok(strange_bytes)
}

/// Something wrong with a pack as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PackFault {
    /// The first page.
    Header(&'static str),
    /// Bytes between records that are no records.
    Strange { bytes: u64 },
    /// A trailer is there and its table is not sound.
    Table,
}

impl fmt::Display for PackFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(detail) => formatter.write_str(detail),
            Self::Strange { bytes } => {
                write!(formatter, "{bytes} bytes among the records are no records")
            }
            Self::Table => formatter.write_str("the table at the end is damaged"),
        }
    }
}

/// Calls `visit` for each whole record of a pack, and says what is wrong with the rest.
pub(crate) fn scan_pack(
    file: &dyn DiskFile,
    number: u32,
    fetch: Fetch,
    visit: &mut dyn FnMut(&ScannedRecord<'_>) -> Result<(), RepoError>,
) -> Result<Vec<PackFault>, RepoError> {
    let mut faults = Vec::new();
    let mut first = AlignedBuffer::zeroed(PAGE_BYTES);
    let got = file.read_at(0, &mut first)?;
    match PackHeader::decode(first.get(..got).unwrap_or_default()) {
        Err(detail) => faults.push(PackFault::Header(detail)),
        Ok(header) if header.number.get() != number => {
            faults.push(PackFault::Header("it has another pack's header"))
        }
        Ok(_) => {}
    }
    let length = file.length()?;
    // Behind a crash there are bytes that were never acknowledged; and a pack still open may be growing.
    let (records_end, all_records) = match read_ending(file)? {
        Ending::Sealed {
            table_offset,
            origin,
            ..
        } => (table_offset, origin == TableOrigin::Writer),
        Ending::Damaged { table_offset } => {
            faults.push(PackFault::Table);
            (table_offset, false)
        }
        Ending::Open => (length, false),
    };
    let bytes = scan_records(file, number, PAGE_BYTES as u64, records_end, fetch, visit)?;
    if bytes > 0 && all_records {
        faults.push(PackFault::Strange { bytes });
    }
    Ok(faults)
}

/// Feeds `bytes` to every decoder of packs. Whatever they are, nothing panics.
#[doc(hidden)]
pub fn fuzz_pack(bytes: &[u8]) {
    use crate::disk::{Caching, Disk as _, SimulatedDisk};
    use crate::keys::{KeyRing, MasterKey};
    use crate::pack::format::{PackTrailer, TRAILER_BYTES};
    use crate::pack::record::RecordDecoder;
    use crate::pack::table::PackTable;
    use std::io::IoSlice;
    use std::path::Path;
    use std::sync::Arc;
    use uuid::Uuid;

    drop(PackHeader::decode(bytes));
    if let Some((table, end)) = bytes.split_last_chunk::<TRAILER_BYTES>()
        && let Some(trailer) = PackTrailer::decode(end)
    {
        drop(PackTable::stored_length(&trailer, bytes.len() as u64).map(Vec::<u8>::with_capacity));
        drop(PackTable::decode(&trailer, table));
    }
    let disk = SimulatedDisk::new();
    let file = disk
        .create(Path::new("pack"), Caching::Cached)
        .expect("the disk is empty");
    file.write_at(0, &[IoSlice::new(bytes)])
        .expect("the disk has room");
    let encrypted = KeyRing::new(MasterKey::from_bytes([7; 32]), Uuid::nil());
    for keys in [KeyRing::plain(), encrypted] {
        let mut decoder = RecordDecoder::new(Arc::new(keys)).expect("memory for a decoder");
        let end = bytes.len() as u64;
        scan_records(file.as_ref(), 1, 0, end, Fetch::Ahead, &mut |record| {
            drop(decoder.open(&record.header, record.bytes));
            Ok(())
        })
        .expect("a scan steps over what is no record");
    }
}
