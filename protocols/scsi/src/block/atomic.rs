//! Commands that no other command sees half done: COMPARE AND WRITE, ORWRITE, WRITE ATOMIC.

use bytes::{Bytes, BytesMut};
use export::Segments;

use crate::nexus::Call;
use crate::response::Outcome;
use crate::sense::{Sense, SenseKey, code};
use crate::unit::LogicalUnit;
use crate::wire;

use super::TRANSFER_BYTES_MAX;
use super::range::BlockRange;
use super::transfer::{has_fua, payload, read_bytes, write_bytes};
use super::verify::first_difference;

/// COMPARE AND WRITE (SBC-3, 5.2): the second half of the data is written if the first half is what is there.
pub(crate) fn compare_and_write(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let range = BlockRange::of(call.cdb, geometry)?;
    if range.blocks > COMPARE_BLOCKS_MAX.into() {
        return Err(Sense::invalid_field_in_cdb(13, None).into());
    }
    let half = wire::to_usize(geometry.bytes(range.blocks));
    // The length has 8 bits: more data than it can say is told as a wrong length.
    if call.expect_exactly(wire::to_u32(2 * half)).is_err() {
        return Err(Sense::invalid_field_in_cdb(13, None).into());
    }
    if half == 0 {
        return Ok(Segments::new());
    }
    call.must_not_wait()?;
    let (compared, written) = split(&call.command.data_out, half);
    let offset = geometry.offset(range.lba);
    let _held = call.unit.stripes.hold(offset, wire::to_u64(half));
    if let Some(at) = first_difference(call, offset, &compared)? {
        let sense = Sense::new(SenseKey::Miscompare, code::MISCOMPARE_DURING_VERIFY);
        return Err(sense.at(at).into());
    }
    let durability = call.unit.durability(has_fua(call));
    write_bytes(call, offset, &written, durability)?;
    Ok(Segments::new())
}

/// MAXIMUM COMPARE AND WRITE LENGTH: more than any cluster needs.
pub(crate) const COMPARE_BLOCKS_MAX: u8 = 128;

/// Cuts pieces in two after `at` bytes.
fn split(pieces: &[Bytes], mut at: usize) -> (Vec<Bytes>, Vec<Bytes>) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for piece in pieces {
        let cut = at.min(piece.len());
        at -= cut;
        first.push(piece.slice(..cut));
        second.push(piece.slice(cut..));
    }
    first.retain(|piece| !piece.is_empty());
    second.retain(|piece| !piece.is_empty());
    (first, second)
}

/// ORWRITE (SBC-3, 5.8): sets the bits of the data in what is there.
pub(crate) fn or_write(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let range = BlockRange::of(call.cdb, geometry)?;
    let data = payload(call, range.transfer_bytes(geometry)?)?;
    let length = data.iter().map(Bytes::len).sum::<usize>();
    if length == 0 {
        return Ok(Segments::new());
    }
    call.must_not_wait()?;
    let offset = geometry.offset(range.lba);
    let _held = call.unit.stripes.hold(offset, wire::to_u64(length));
    let there = read_bytes(call, offset, wire::to_u32(length))?;
    let mut merged = BytesMut::zeroed(length);
    there.copy_to(&mut merged);
    let bits = data.iter().flat_map(|piece| piece.iter());
    for (byte, bits) in merged.iter_mut().zip(bits) {
        *byte |= bits;
    }
    let durability = call.unit.durability(has_fua(call));
    write_bytes(call, offset, &[merged.freeze()], durability)?;
    Ok(Segments::new())
}

/// WRITE ATOMIC (SBC-4, 5.48): a write that is there in whole or not at all, whatever happens.
pub(crate) fn write_atomic(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let range = BlockRange::of(call.cdb, geometry)?;
    if range.blocks > atomic_blocks_max(call.unit).into() {
        return Err(Sense::invalid_field_in_cdb(12, None).into());
    }
    let length = range.transfer_bytes(geometry)?;
    call.expect_exactly(length)?;
    if length == 0 {
        return Ok(Segments::new());
    }
    call.must_not_wait()?;
    let offset = geometry.offset(range.lba);
    let _held = call.unit.stripes.hold(offset, length.into());
    let durability = call.unit.durability(has_fua(call));
    write_bytes(call, offset, &call.command.data_out, durability)?;
    Ok(Segments::new())
}

/// MAXIMUM ATOMIC TRANSFER LENGTH: as far as the disk below keeps a write whole when power fails, wherever it begins. So
/// there is neither alignment nor granularity to keep.
pub(crate) fn atomic_blocks_max(unit: &LogicalUnit) -> u32 {
    let bytes = unit.export.atomic_write_bytes().min(TRANSFER_BYTES_MAX);
    (bytes / unit.geometry.block_bytes).min(u16::MAX.into())
}
