//! Sets of entries: what is known of a file.

use export::{FileKind, Timestamp};

use crate::bytes::View;
use crate::dos::{DosAttributes, timestamp};
use crate::unicode::name_of;
use crate::{GuestError, Place};

/// A file or folder.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// Where its set of entries begins, in units of an entry; [`ROOT`] for the folder at the top.
    pub id: u64,
    pub attributes: DosAttributes,
    pub stream: Stream,
    pub modified: Timestamp,
    pub accessed: Timestamp,
    pub created: Option<Timestamp>,
    /// What is wrong with it.
    pub fault: Option<&'static str>,
}

/// Where the content of something lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stream {
    pub cluster: u32,
    pub length_bytes: u64,
    /// How much of it was written; the rest is zeroes.
    pub valid_bytes: u64,
    /// Whether its clusters lie one after the other, so that the table says nothing of them.
    pub is_contiguous: bool,
}

/// A set of entries that was taken apart.
pub(super) struct Set {
    pub object: Object,
    pub name: Vec<u8>,
}

impl Object {
    pub(super) fn kind(&self) -> FileKind {
        if self.attributes.is_folder() {
            FileKind::Directory
        } else {
            FileKind::File
        }
    }

    pub(super) fn place(&self) -> Place {
        place_of(self.id)
    }

    /// The folder at the top, which has no entry.
    pub(super) fn top(cluster: u32, length_bytes: u64) -> Self {
        let first = timestamp(0, 0, 0, 0);
        Self {
            id: ROOT,
            attributes: DosAttributes(DosAttributes::FOLDER),
            stream: Stream {
                cluster,
                length_bytes,
                valid_bytes: length_bytes,
                is_contiguous: false,
            },
            modified: first,
            accessed: first,
            created: None,
            fault: None,
        }
    }
}

impl Stream {
    /// From an entry that leads to content.
    pub(super) fn decode(view: View<'_>, at: usize) -> Result<Self, GuestError> {
        let length_bytes = view.u64(at + 24)?;
        let cluster = view.u32(at + 20)?;
        Ok(Self {
            cluster,
            length_bytes,
            valid_bytes: length_bytes,
            is_contiguous: view.u8(at + 1)? & CONTIGUOUS != 0,
        })
    }
}

impl Set {
    /// From all entries of a set, the first of which lies at `id`. A set whose checksum is wrong, or that contradicts
    /// itself, is an object with a fault, and has a name as far as there is one.
    pub(super) fn decode(id: u64, entries: &[u8]) -> Result<Self, GuestError> {
        let view = View::new(entries, place_of(id));
        let is_proven = checksum(entries) == view.u16(2)?;
        let time = |at: usize, hundredths: u8, east: u8| -> Result<Timestamp, GuestError> {
            let (time, date) = (view.u16(at)?, view.u16(at + 2)?);
            Ok(timestamp(date, time, hundredths, seconds_east(east)))
        };
        let mut set = Self {
            object: Object {
                id,
                attributes: DosAttributes(view.u16(4)?),
                stream: Stream::default(),
                created: Some(time(8, view.u8(20)?, view.u8(22)?)?),
                modified: time(12, view.u8(21)?, view.u8(23)?)?,
                accessed: time(16, 0, view.u8(24)?)?,
                fault: (!is_proven).then_some("the checksum is wrong"),
            },
            name: Vec::new(),
        };
        let named = set.read_stream_and_name(view)?;
        set.object.fault = set.object.fault.or(named.err());
        if set.name.is_empty() {
            set.name = format!("damaged entry {id:x}").into_bytes();
        }
        Ok(set)
    }

    fn read_stream_and_name(
        &mut self,
        view: View<'_>,
    ) -> Result<Result<(), &'static str>, GuestError> {
        if view.len() < 3 * ENTRY_BYTES || view.u8(ENTRY_BYTES)? != STREAM {
            return Ok(Err("it does not lead to content"));
        }
        let mut stream = Stream::decode(view, ENTRY_BYTES)?;
        stream.valid_bytes = view.u64(ENTRY_BYTES + 8)?;
        self.object.stream = stream;
        let units = usize::from(view.u8(ENTRY_BYTES + 3)?);
        let parts = units.div_ceil(UNITS_A_PART);
        let mut name = Vec::with_capacity(parts * UNITS_A_PART);
        for part in 2..2 + parts {
            let at = part * ENTRY_BYTES;
            if at >= view.len() || view.u8(at)? != NAME {
                return Ok(Err("its name is not whole"));
            }
            for unit in 0..UNITS_A_PART {
                name.push(view.u16(at + 2 + unit * 2)?);
            }
        }
        name.truncate(units);
        if name.is_empty() {
            return Ok(Err("it has no name"));
        }
        self.name = name_of(name);
        if stream.valid_bytes > stream.length_bytes {
            return Ok(Err("more of it is written than there is"));
        }
        if stream.length_bytes > 0 && view.u8(ENTRY_BYTES + 1)? & HAS_CLUSTERS == 0 {
            return Ok(Err("it has a length and no room on the disk"));
        }
        Ok(Ok(()))
    }
}

/// How far a clock was before UTC; one that does not say is taken for UTC itself.
fn seconds_east(offset: u8) -> i64 {
    if offset & 0x80 == 0 {
        return 0;
    }
    let quarters = i64::from(offset & 0x7F);
    let quarters = if quarters >= 64 {
        quarters - 128
    } else {
        quarters
    };
    quarters * 900
}

/// The checksum of a set of entries, without the bytes in which it stands.
pub(super) fn checksum(entries: &[u8]) -> u16 {
    let bytes = entries.iter().enumerate();
    let proven = bytes.filter(|(at, _)| !matches!(at, 2 | 3));
    proven.fold(0, |sum: u16, (_, byte)| {
        sum.rotate_right(1).wrapping_add((*byte).into())
    })
}

pub(super) fn place_of(id: u64) -> Place {
    Place::Entry {
        offset_bytes: id.saturating_mul(ENTRY_BYTES as u64),
    }
}

/// The name of the folder at the top: there is no entry in the boot region.
pub(super) const ROOT: u64 = 1;
pub(super) const ENTRY_BYTES: usize = 32;
/// Kinds of entries.
pub(super) const END: u8 = 0;
pub(super) const BITMAP: u8 = 0x81;
pub(super) const UP_CASE: u8 = 0x82;
pub(super) const LABEL: u8 = 0x83;
pub(super) const FILE: u8 = 0x85;
pub(super) const STREAM: u8 = 0xC0;
const NAME: u8 = 0xC1;
const HAS_CLUSTERS: u8 = 1;
const CONTIGUOUS: u8 = 2;
const UNITS_A_PART: usize = 15;
