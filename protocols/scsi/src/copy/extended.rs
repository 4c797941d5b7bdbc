//! EXTENDED COPY with list identifiers of 8 and of 32 bits (SPC-4, 6.4 and 6.5).

use std::sync::Arc;

use export::Segments;

use crate::nexus::{Call, ItlNexus};
use crate::primary::naa;
use crate::response::{Ending, Outcome};
use crate::sense::{Sense, code};
use crate::wire;

use super::engine::{self, Place};
use super::records::{End, Kind, Record};

/// MAXIMUM CSCD DESCRIPTOR COUNT.
pub(crate) const CSCDS_MAX: u16 = 8;
/// MAXIMUM SEGMENT DESCRIPTOR COUNT.
pub(crate) const SEGMENTS_MAX: u16 = 64;
/// MAXIMUM DESCRIPTOR LIST LENGTH: both lists together.
pub(crate) const LISTS_BYTES_MAX: u32 = 32 * CSCDS_MAX as u32 + 28 * SEGMENTS_MAX as u32;

/// The codes of the descriptors that are understood: identification, and block device to block device.
pub(crate) const DESCRIPTOR_CODES: [u8; 2] = [BLOCK_TO_BLOCK, IDENTIFICATION];
const IDENTIFICATION: u8 = 0xe4;
const BLOCK_TO_BLOCK: u8 = 0x02;

/// EXTENDED COPY of both kinds.
pub(crate) fn extended_copy(call: &Call<'_>) -> Outcome {
    let list = call.parameters(call.cdb.u32(10))?;
    if list.is_empty() {
        return Ok(Segments::new());
    }
    let header = Header::read(&list, call.cdb.service_action())?;
    let cscds = cscds(call, &list, &header)?;
    let segments = segments(&list, &header)?;
    call.must_not_wait()?;
    let (mut done, mut bytes) = (0, 0);
    let mut ending = Ok(());
    for segment in &segments {
        match copy_segment(call, segment, &cscds) {
            Ok(copied) => bytes += copied,
            Err(error) => {
                ending = Err(error);
                break;
            }
        }
        done += 1;
    }
    if let Some((kind, list_id)) = header.list_id {
        call.nexus.copies.lock().keep(Record {
            kind,
            list_id,
            action: call.cdb.service_action(),
            segments: done,
            transferred: bytes,
            end: End::of(&ending),
            token: None,
        });
    }
    ending.map(|()| Segments::new())
}

/// What a parameter list begins with.
struct Header {
    /// The list identifier, unless none is used.
    list_id: Option<(Kind, u32)>,
    /// Where the descriptors begin.
    start: usize,
    cscd_bytes: usize,
    segment_bytes: usize,
}

impl Header {
    fn read(list: &[u8], action: u8) -> Result<Self, Ending> {
        let wide = action == 0x01;
        let start = if wide { 48 } else { 16 };
        if list.len() < start {
            return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        let usage = wire::u8_at(list, 1) >> 3 & 0x03;
        let (list_id, kind, id_at) = if wide {
            (wire::u32_at(list, 20), Kind::Wide, 20)
        } else {
            (u32::from(wire::u8_at(list, 0)), Kind::Narrow, 0)
        };
        if wide && wire::u8_at(list, 0) != 0x01 {
            return Err(Sense::invalid_field_in_parameters(0, None).into());
        }
        let list_id = match usage {
            0 | 2 => Some((kind, list_id)),
            3 if list_id == 0 => None,
            3 => return Err(Sense::invalid_field_in_parameters(id_at, None).into()),
            _ => return Err(Sense::invalid_field_in_parameters(1, Some(4)).into()),
        };
        let (cscd_bytes, segment_bytes, inline_bytes) = if wide {
            let field = |at| u32::from(wire::u16_at(list, at));
            (field(42), field(44), field(46))
        } else {
            let segments = wire::u32_at(list, 8);
            (
                u32::from(wire::u16_at(list, 2)),
                segments,
                wire::u32_at(list, 12),
            )
        };
        if inline_bytes > 0 {
            return Err(Sense::illegal(code::INLINE_DATA_LENGTH_EXCEEDED).into());
        }
        let lists = u64::from(cscd_bytes) + u64::from(segment_bytes);
        let there = wire::to_u64(list.len() - start);
        if lists > LISTS_BYTES_MAX.into() || lists > there {
            return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        Ok(Self {
            list_id,
            start,
            cscd_bytes: wire::to_usize(cscd_bytes.into()),
            segment_bytes: wire::to_usize(segment_bytes.into()),
        })
    }
}

/// The units that are named; `None` for one that cannot be reached, which matters only if a segment uses it.
fn cscds(
    call: &Call<'_>,
    list: &[u8],
    header: &Header,
) -> Result<Vec<Option<Arc<ItlNexus>>>, Ending> {
    if !header.cscd_bytes.is_multiple_of(32) {
        return Err(Sense::invalid_field_in_parameters(2, None).into());
    }
    if header.cscd_bytes / 32 > usize::from(CSCDS_MAX) {
        return Err(Sense::illegal(code::TOO_MANY_TARGET_DESCRIPTORS).into());
    }
    let descriptors = list.get(header.start..header.start + header.cscd_bytes);
    descriptors
        .unwrap_or_default()
        .chunks_exact(32)
        .zip((header.start..).step_by(32))
        .map(|(descriptor, at)| cscd(call, descriptor, wire::to_u16(at)))
        .collect()
}

fn cscd(call: &Call<'_>, descriptor: &[u8], at: u16) -> Result<Option<Arc<ItlNexus>>, Ending> {
    let bad = |field: u16| Ending::from(Sense::invalid_field_in_parameters(at + field, None));
    if wire::u8_at(descriptor, 0) != IDENTIFICATION {
        return Err(Sense::illegal(code::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE).into());
    }
    let flags = wire::u8_at(descriptor, 1);
    // LU ID TYPE means nothing in a descriptor of this type.
    if flags & 0x1f != 0 {
        return Err(bad(1));
    }
    let length = usize::from(wire::u8_at(descriptor, 7));
    let designator = descriptor.get(8..8 + length).filter(|_| length <= 20);
    let designator = designator.ok_or(bad(7))?;
    if flags & 0x20 != 0 {
        return Ok(None);
    }
    let of_unit = wire::u8_at(descriptor, 5) & 0x3f == 0x03;
    let mut seen = call.nexus.units().into_iter();
    let found = seen.find(|itl| of_unit && naa(itl.unit.identity) == *designator);
    if let Some(itl) = &found
        && wire::u24_at(descriptor, 29) != itl.unit.geometry.block_bytes
    {
        return Err(bad(29));
    }
    Ok(found)
}

/// One segment from block device to block device.
struct Segment {
    source: usize,
    destination: usize,
    /// Whether the count is in blocks of the destination.
    counts_destination: bool,
    blocks: u64,
    source_lba: u64,
    destination_lba: u64,
}

fn segments(list: &[u8], header: &Header) -> Result<Vec<Segment>, Ending> {
    let start = header.start + header.cscd_bytes;
    let mut at = start;
    let end = start + header.segment_bytes;
    let mut segments = Vec::new();
    while at < end {
        let descriptor = list.get(at..end).unwrap_or_default();
        if segments.len() == usize::from(SEGMENTS_MAX) {
            return Err(Sense::illegal(code::TOO_MANY_SEGMENT_DESCRIPTORS).into());
        }
        if wire::u8_at(descriptor, 0) != BLOCK_TO_BLOCK {
            return Err(Sense::illegal(code::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE).into());
        }
        if wire::u16_at(descriptor, 2) != 0x18 {
            let field = wire::to_u16(at + 2);
            return Err(Sense::invalid_field_in_parameters(field, None).into());
        }
        if descriptor.len() < 28 {
            return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        segments.push(Segment {
            source: wire::u16_at(descriptor, 4).into(),
            destination: wire::u16_at(descriptor, 6).into(),
            counts_destination: wire::u8_at(descriptor, 1) & 0x02 != 0,
            blocks: wire::u16_at(descriptor, 10).into(),
            source_lba: wire::u64_at(descriptor, 12),
            destination_lba: wire::u64_at(descriptor, 20),
        });
        at += 28;
    }
    Ok(segments)
}

/// Copies one segment; gives its bytes.
fn copy_segment(
    call: &Call<'_>,
    segment: &Segment,
    cscds: &[Option<Arc<ItlNexus>>],
) -> Result<u64, Ending> {
    let reach = |index: usize| {
        let itl = cscds.get(index).and_then(Option::as_ref);
        itl.ok_or(engine::aborted(code::COPY_TARGET_DEVICE_NOT_REACHABLE))
    };
    let (source, destination) = (reach(segment.source)?, reach(segment.destination)?);
    engine::check_source(source)?;
    engine::check_destination(destination)?;
    let counted = if segment.counts_destination {
        destination
    } else {
        source
    };
    let length = counted.unit.geometry.bytes(segment.blocks);
    if length == 0 {
        return Ok(0);
    }
    let place = |itl: &'_ ItlNexus, lba: u64| {
        let geometry = &itl.unit.geometry;
        if !length.is_multiple_of(geometry.block_bytes.into()) {
            return Err(engine::aborted(code::UNEXPECTED_INEXACT_SEGMENT));
        }
        let blocks = length / u64::from(geometry.block_bytes);
        match lba.checked_add(blocks) {
            Some(end) if end <= geometry.blocks => Ok(geometry.offset(lba)),
            // The class of the fault is all there is to tell: the LBA is not one of this command's unit.
            _ => Err(engine::aborted(code::NO_ADDITIONAL_SENSE)),
        }
    };
    let from = Place {
        unit: &source.unit,
        offset: place(source, segment.source_lba)?,
    };
    let to = Place {
        unit: &destination.unit,
        offset: place(destination, segment.destination_lba)?,
    };
    engine::copy(call, from, to, length)?;
    Ok(length)
}
