//! Space: UNMAP, WRITE SAME, GET LBA STATUS.

use bytes::{Bytes, BytesMut};
use export::{BlockState, Durability, Segments, ZeroMode};

use crate::nexus::Call;
use crate::primary::cut_to;
use crate::response::{Ending, Outcome};
use crate::sense::{Sense, code};
use crate::unit::Geometry;
use crate::wire;

use super::range::BlockRange;
use super::transfer::write_bytes;

/// UNMAP (SBC-3, 5.28). All descriptors are looked at before the first is done.
pub(crate) fn unmap(call: &Call<'_>) -> Outcome {
    let list = call.parameters(call.cdb.u16(7).into())?;
    if list.is_empty() {
        return Ok(Segments::new());
    }
    let described = usize::from(wire::u16_at(&list, 2));
    if list.len() < 8 || described > list.len() - 8 {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    // A descriptor in part is passed over.
    let ranges = descriptors(list.get(8..8 + described).unwrap_or_default(), call)?;
    call.must_not_wait()?;
    for range in ranges {
        call.go_on()?;
        let anchor = call.cdb.has(1, 0x01);
        deallocate(call, range, anchor)?;
    }
    Ok(Segments::new())
}

/// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
pub(crate) const UNMAP_DESCRIPTORS_MAX: u32 = 256;
/// MAXIMUM UNMAP LBA COUNT, all descriptors together.
pub(crate) const UNMAP_BLOCKS_MAX: u32 = 1 << 20;

fn descriptors(list: &[u8], call: &Call<'_>) -> Result<Vec<BlockRange>, Ending> {
    let too_many = |at| Ending::from(Sense::invalid_field_in_parameters(at, None));
    if list.len() / 16 > wire::to_usize(UNMAP_DESCRIPTORS_MAX.into()) {
        return Err(too_many(2));
    }
    let mut ranges = Vec::with_capacity(list.len() / 16);
    let mut blocks = 0;
    for descriptor in list.chunks_exact(16) {
        let range = BlockRange::new(
            wire::u64_at(descriptor, 0),
            wire::u32_at(descriptor, 8).into(),
            &call.unit.geometry,
        )?;
        blocks += range.blocks;
        if blocks > UNMAP_BLOCKS_MAX.into() {
            return Err(too_many(wire::to_u16(8 + 16 * ranges.len() + 8)));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

/// Gives the space of a range back; anchored blocks keep theirs. Either way they read as zeroes.
fn deallocate(call: &Call<'_>, range: BlockRange, anchor: bool) -> Result<(), Ending> {
    if range.blocks == 0 {
        return Ok(());
    }
    let geometry = &call.unit.geometry;
    let (offset, length) = (geometry.offset(range.lba), geometry.bytes(range.blocks));
    let _shared = call.unit.stripes.share(offset, length, call.patience)?;
    call.unit.touch(offset, length);
    let durability = call.unit.durability(false);
    let export = &call.unit.export;
    let answer = if anchor {
        export.write_zeroes(offset, length, ZeroMode::KeepAllocated, durability)
    } else {
        export.discard(offset, length, durability)
    };
    answer.map_err(|error| Ending::of_export(&error, range.lba))
}

/// WRITE SAME of both sizes (SBC-3, 5.45).
pub(crate) fn write_same(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let range = BlockRange::of(call.cdb, geometry)?;
    let (anchor, unmap) = (call.cdb.has(1, 0x10), call.cdb.has(1, 0x08));
    if anchor && !unmap {
        return Err(Sense::invalid_field_in_cdb(1, Some(4)).into());
    }
    // WSNZ: none is not all.
    if range.blocks == 0 || range.blocks > WRITE_SAME_BLOCKS_MAX.into() {
        let field = if call.cdb.opcode() == 0x41 { 7 } else { 10 };
        return Err(Sense::invalid_field_in_cdb(field, None).into());
    }
    let without_data = call.cdb.opcode() == 0x93 && call.cdb.has(1, 0x01);
    let pattern = if without_data {
        Bytes::new()
    } else {
        call.expect_exactly(geometry.block_bytes)?;
        Bytes::from(call.command.data_out.concat())
    };
    call.must_not_wait()?;
    let zeroes = pattern.iter().all(|&byte| byte == 0);
    if zeroes && unmap {
        deallocate(call, range, anchor)?;
        return Ok(Segments::new());
    }
    let (offset, length) = (geometry.offset(range.lba), geometry.bytes(range.blocks));
    let _shared = call.unit.stripes.share(offset, length, call.patience)?;
    let durability = call.unit.durability(false);
    if zeroes {
        call.unit.touch(offset, length);
        let mode = ZeroMode::KeepAllocated;
        let answer = call
            .unit
            .export
            .write_zeroes(offset, length, mode, durability);
        answer.map_err(|error| Ending::of_export(&error, range.lba))?;
    } else {
        repeat(call, offset, length, &pattern, durability)?;
    }
    Ok(Segments::new())
}

/// MAXIMUM WRITE SAME LENGTH.
pub(crate) const WRITE_SAME_BLOCKS_MAX: u32 = 65535;

/// Writes `pattern`, which is a divisor of a block or a block, again and again; the caller holds the stripes.
pub(crate) fn repeat(
    call: &Call<'_>,
    offset: u64,
    length: u64,
    pattern: &[u8],
    durability: Durability,
) -> Result<(), Ending> {
    let times = (REPEAT_BYTES / pattern.len().max(1)).max(1);
    let mut buffer = BytesMut::with_capacity(times * pattern.len());
    for _ in 0..times {
        buffer.extend_from_slice(pattern);
    }
    let buffer = buffer.freeze();
    let mut at = offset;
    while at < offset + length {
        call.go_on()?;
        let step = (offset + length - at).min(wire::to_u64(buffer.len()));
        let piece = buffer.slice(..wire::to_usize(step));
        write_bytes(call, at, &[piece], durability)?;
        at += step;
    }
    Ok(())
}

const REPEAT_BYTES: usize = 1 << 20;

/// GET LBA STATUS (SBC-3, 5.6): what is mapped, anchored or deallocated, from the block asked for on.
pub(crate) fn get_lba_status(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let first = call.cdb.u64(2);
    let range = BlockRange::new(first, u64::from(first < geometry.blocks), geometry)?;
    if range.blocks == 0 {
        return Err(Sense::illegal(code::LBA_OUT_OF_RANGE).at(first).into());
    }
    call.must_not_wait()?;
    let allocation_bytes = call.cdb.u32(10);
    let room = wire::to_usize(u64::from(allocation_bytes.saturating_sub(8)) / 16);
    let room = room.clamp(1, STATUS_DESCRIPTORS_MAX);
    let mut answer = vec![0; 8];
    let mut at = first;
    for (blocks, state) in states(call, first, room)?.into_iter().take(room) {
        let count = u32::try_from(blocks).unwrap_or(u32::MAX);
        answer.extend_from_slice(&at.to_be_bytes());
        answer.extend_from_slice(&count.to_be_bytes());
        let provisioning = match state {
            BlockState::Data => 0,
            BlockState::Hole => 1,
            BlockState::Zero => 2,
        };
        answer.extend_from_slice(&[provisioning, 0, 0, 0]);
        at += u64::from(count);
        if u64::from(count) < blocks {
            break;
        }
    }
    let rest_bytes = wire::to_u32(answer.len() - 4);
    wire::put(&mut answer, 0, &rest_bytes.to_be_bytes());
    Ok(cut_to(answer, allocation_bytes))
}

/// More stretches than anybody asks for at once.
const STATUS_DESCRIPTORS_MAX: usize = 2048;

/// Stretches of whole blocks from `first` on, at least one, each in one state. A block of which parts differ counts as
/// mapped.
fn states(call: &Call<'_>, first: u64, room: usize) -> Result<Vec<(u64, BlockState)>, Ending> {
    let geometry = &call.unit.geometry;
    let offset = geometry.offset(first);
    let length = geometry.bytes(geometry.blocks - first);
    let extents = call.unit.export.extents(offset, length, room);
    let extents = extents.map_err(|error| Ending::of_export(&error, first))?;
    let pieces = extents
        .into_iter()
        .map(|extent| (extent.length, extent.state));
    Ok(whole_blocks(pieces, geometry))
}

fn whole_blocks(
    pieces: impl Iterator<Item = (u64, BlockState)>,
    geometry: &Geometry,
) -> Vec<(u64, BlockState)> {
    let block = u64::from(geometry.block_bytes);
    let mut stretches: Vec<(u64, BlockState)> = Vec::new();
    let mut push = |blocks: u64, state| match stretches.last_mut() {
        _ if blocks == 0 => {}
        Some(last) if last.1 == state => last.0 += blocks,
        _ => stretches.push((blocks, state)),
    };
    let mut begun = 0;
    for (mut length, state) in pieces {
        if begun > 0 {
            let step = length.min(block - begun);
            begun += step;
            length -= step;
            if begun == block {
                push(1, BlockState::Data);
                begun = 0;
            }
        }
        push(length / block, state);
        if begun == 0 {
            begun = length % block;
        }
    }
    push(u64::from(begun > 0), BlockState::Data);
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_two_states_are_mapped() {
        let geometry = Geometry {
            block_bytes: 4096,
            blocks: 100,
            physical_exponent: 0,
            preferred_blocks: 1,
            read_only: false,
        };
        let check = |pieces: &[(u64, BlockState)], wanted: &[(u64, BlockState)]| {
            assert_eq!(whole_blocks(pieces.iter().copied(), &geometry), wanted);
        };
        let (data, hole, zero) = (BlockState::Data, BlockState::Hole, BlockState::Zero);
        check(&[(8192, hole), (4096, data)], &[(2, hole), (1, data)]);
        check(
            &[(4608, hole), (7680, zero)],
            &[(1, hole), (1, data), (1, zero)],
        );
        check(&[(512, hole), (512, zero), (3072, hole)], &[(1, data)]);
        check(&[(512, hole), (3584, data), (4096, data)], &[(2, data)]);
        check(&[(512, hole)], &[(1, data)]);
    }
}
