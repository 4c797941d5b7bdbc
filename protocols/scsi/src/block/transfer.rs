//! READ, WRITE and SYNCHRONIZE CACHE.

use std::borrow::Cow;

use bytes::Bytes;
use export::{Durability, ExportError, Segments};

use crate::nexus::Call;
use crate::response::{Ending, Outcome};
use crate::sense::{Sense, code};
use crate::unit::Patience;
use crate::wire;

use super::range::BlockRange;

/// READ of all sizes.
pub(crate) fn read(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let range = BlockRange::of(call.cdb, geometry)?;
    let length = range.transfer_bytes(geometry)?;
    if length == 0 {
        return Ok(Segments::new());
    }
    // What FUA reads has to come from stable storage (SBC-3, 5.9), so that has to have everything first.
    if has_fua(call) && call.unit.modes.write_cache() {
        call.must_not_wait()?;
        flush(call)?;
    }
    let offset = geometry.offset(range.lba);
    let _shared = call
        .unit
        .stripes
        .share(offset, length.into(), call.patience)?;
    read_bytes(call, offset, length)
}

/// Reads bytes of the unit; the caller holds the stripes.
pub(crate) fn read_bytes(call: &Call<'_>, offset: u64, length: u32) -> Outcome {
    let export = &call.unit.export;
    let answer = match call.patience {
        Patience::Waits => export.read(offset, length),
        Patience::None => export
            .read_cached(offset, length)
            .ok_or(Ending::WouldWait)?,
    };
    answer.map_err(|error| {
        let lba = match error {
            ExportError::Corrupt { .. } => first_bad(call, offset, length),
            _ => offset / u64::from(call.unit.geometry.block_bytes),
        };
        Ending::of_export(&error, lba)
    })
}

/// The first block of a range that cannot be read, found by halves: each fault is told with its place.
fn first_bad(call: &Call<'_>, offset: u64, length: u32) -> u64 {
    let block = u64::from(call.unit.geometry.block_bytes);
    let (mut first, mut blocks) = (offset / block, u64::from(length) / block);
    while blocks > 1 && call.patience == Patience::Waits {
        let half = blocks / 2;
        let bytes = u32::try_from(half * block).unwrap_or(u32::MAX);
        if call.unit.export.read(first * block, bytes).is_ok() {
            first += half;
            blocks -= half;
        } else {
            blocks = half;
        }
    }
    first
}

/// WRITE of all sizes.
pub(crate) fn write(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let range = BlockRange::of(call.cdb, geometry)?;
    let length = range.transfer_bytes(geometry)?;
    let data = payload(call, length)?;
    let length = data.iter().map(|piece| wire::to_u64(piece.len())).sum();
    if length == 0 {
        return Ok(Segments::new());
    }
    let offset = geometry.offset(range.lba);
    let durability = call.unit.durability(has_fua(call));
    let _shared = call.unit.stripes.share(offset, length, call.patience)?;
    write_bytes(call, offset, &data, durability)?;
    Ok(Segments::new())
}

/// Writes bytes of the unit; the caller holds the stripes.
pub(crate) fn write_bytes(
    call: &Call<'_>,
    offset: u64,
    data: &[Bytes],
    durability: Durability,
) -> Result<(), Ending> {
    call.unit.touch(
        offset,
        data.iter().map(|piece| wire::to_u64(piece.len())).sum(),
    );
    let export = &call.unit.export;
    let answer = match (call.patience, durability) {
        (Patience::Waits, _) => export.write(offset, data, durability),
        (Patience::None, Durability::Unstable) => {
            export.try_write(offset, data).ok_or(Ending::WouldWait)?
        }
        (Patience::None, Durability::Stable) => return Err(Ending::WouldWait),
    };
    answer.map_err(|error| {
        Ending::of_export(&error, offset / u64::from(call.unit.geometry.block_bytes))
    })
}

/// The data of a write of `length_bytes`: all of it, or the whole blocks of it that the initiator wanted to send (the
/// transport tells it the residual). A block in part is refused.
pub(crate) fn payload<'a>(call: &Call<'a>, length_bytes: u32) -> Result<Cow<'a, [Bytes]>, Ending> {
    let data = &call.command.data_out;
    let wanted = wire::to_usize(length_bytes.into());
    let there = call.command.data_bytes();
    if there == wanted {
        return Ok(Cow::Borrowed(data));
    }
    let block = wire::to_usize(call.unit.geometry.block_bytes.into());
    if there < wanted && !there.is_multiple_of(block) {
        return Err(Sense::illegal(code::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT).into());
    }
    let mut left = there.min(wanted);
    let cut = data.iter().map_while(|piece| {
        let step = left.min(piece.len());
        left -= step;
        (step > 0).then(|| piece.slice(..step))
    });
    Ok(Cow::Owned(cut.collect()))
}

/// SYNCHRONIZE CACHE of both sizes. IMMED is not taken at its word: the answer comes when all is safe.
pub(crate) fn synchronize_cache(call: &Call<'_>) -> Outcome {
    BlockRange::to_the_end(call.cdb, &call.unit.geometry)?;
    if call.unit.geometry.read_only {
        return Ok(Segments::new());
    }
    call.must_not_wait()?;
    flush(call)?;
    Ok(Segments::new())
}

/// PRE-FETCH of both sizes. Whether all fits the cache is nobody's promise, so the answer is GOOD, not CONDITION MET.
pub(crate) fn prefetch(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let range = BlockRange::to_the_end(call.cdb, geometry)?;
    if range.blocks > 0 {
        let length = geometry.bytes(range.blocks).min(PREFETCH_BYTES_MAX);
        call.unit
            .export
            .prefetch(geometry.offset(range.lba), length);
    }
    Ok(Segments::new())
}

/// More is not fetched at once: it would push out what others need.
const PREFETCH_BYTES_MAX: u64 = 64 << 20;

pub(crate) fn flush(call: &Call<'_>) -> Result<(), Ending> {
    let answer = call.unit.export.flush();
    answer.map_err(|error| Ending::of_export(&error, 0))
}

/// FUA, of commands that have it in bit 3 of byte 1.
pub(crate) fn has_fua(call: &Call<'_>) -> bool {
    call.cdb.opcode() > 0x1f && call.cdb.has(1, 0x08)
}
