//! VERIFY and WRITE AND VERIFY.

use bytes::Bytes;
use export::{Durability, Segments};

use crate::nexus::Call;
use crate::response::{Ending, Outcome};
use crate::sense::{Sense, SenseKey, code};
use crate::wire;

use super::range::BlockRange;
use super::transfer::{payload, read_bytes, write_bytes};

/// VERIFY of all sizes: that blocks can be read (BYTCHK 0), are what came (1), or are all the block that came (3).
pub(crate) fn verify(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let range = BlockRange::of(call.cdb, geometry)?;
    let length = range.transfer_bytes(geometry)?;
    let check = byte_check(call)?;
    let block = geometry.block_bytes;
    let wanted = match check {
        ByteCheck::Readable => 0,
        ByteCheck::Same => length,
        ByteCheck::Repeated => block,
    };
    if length == 0 {
        return Ok(Segments::new());
    }
    let data = payload(call, wanted)?;
    let whole = data.iter().map(Bytes::len).sum::<usize>();
    call.must_not_wait()?;
    let offset = geometry.offset(range.lba);
    let _shared = call
        .unit
        .stripes
        .share(offset, length.into(), call.patience)?;
    if check == ByteCheck::Repeated {
        let pattern = data.concat();
        let mut at = offset;
        while at < offset + u64::from(length) && !pattern.is_empty() {
            call.go_on()?;
            compare(call, at, &[Bytes::copy_from_slice(&pattern)])?;
            at += u64::from(block);
        }
        return Ok(Segments::new());
    }
    if check == ByteCheck::Same {
        compare(call, offset, &data)?;
    }
    let rest = u64::from(length) - wire::to_u64(whole).min(length.into());
    read_through(call, offset + u64::from(length) - rest, rest)?;
    Ok(Segments::new())
}

/// WRITE AND VERIFY of all sizes: the blocks are on stable storage and have been read back.
pub(crate) fn write_and_verify(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let range = BlockRange::of(call.cdb, geometry)?;
    let length = range.transfer_bytes(geometry)?;
    let check = byte_check(call)?;
    if check == ByteCheck::Repeated {
        return Err(Sense::invalid_field_in_cdb(1, Some(2)).into());
    }
    let data = payload(call, length)?;
    let length = data.iter().map(|piece| wire::to_u64(piece.len())).sum();
    if length == 0 {
        return Ok(Segments::new());
    }
    call.must_not_wait()?;
    let offset = geometry.offset(range.lba);
    let _held = call.unit.stripes.hold(offset, length);
    write_bytes(call, offset, &data, Durability::Stable)?;
    match check {
        ByteCheck::Same => compare(call, offset, &data)?,
        ByteCheck::Readable | ByteCheck::Repeated => read_through(call, offset, length)?,
    }
    Ok(Segments::new())
}

/// BYTCHK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteCheck {
    Readable,
    Same,
    Repeated,
}

fn byte_check(call: &Call<'_>) -> Result<ByteCheck, Ending> {
    match call.cdb.u8(1) & 0x06 {
        0 => Ok(ByteCheck::Readable),
        2 => Ok(ByteCheck::Same),
        6 => Ok(ByteCheck::Repeated),
        _ => Err(Sense::invalid_field_in_cdb(1, Some(2)).into()),
    }
}

/// Reads a range to see whether it can be read.
fn read_through(call: &Call<'_>, offset: u64, length: u64) -> Result<(), Ending> {
    let mut at = offset;
    while at < offset + length {
        call.go_on()?;
        let step = (offset + length - at).min(PIECE_BYTES);
        read_bytes(call, at, u32::try_from(step).unwrap_or(u32::MAX))?;
        at += step;
    }
    Ok(())
}

/// Compares what the unit has at `offset` with `data`.
fn compare(call: &Call<'_>, offset: u64, data: &[Bytes]) -> Result<(), Ending> {
    match first_difference(call, offset, data)? {
        None => Ok(()),
        Some(_) => Err(Sense::new(SenseKey::Miscompare, code::MISCOMPARE_DURING_VERIFY).into()),
    }
}

/// Where `data` first differs from what the unit has at `offset`, in bytes from its beginning.
pub(crate) fn first_difference(
    call: &Call<'_>,
    offset: u64,
    data: &[Bytes],
) -> Result<Option<u64>, Ending> {
    let length = data.iter().map(Bytes::len).sum::<usize>();
    if length == 0 {
        return Ok(None);
    }
    let there = read_bytes(call, offset, wire::to_u32(length))?;
    let theirs = data.iter().flat_map(|piece| piece.iter());
    let ours = there.pieces().iter().flat_map(|piece| piece.iter());
    Ok(theirs
        .zip(ours)
        .position(|(theirs, ours)| theirs != ours)
        .map(wire::to_u64))
}

const PIECE_BYTES: u64 = 4 << 20;
