//! POPULATE TOKEN and WRITE USING TOKEN (SBC-3, 5.7 and 5.46).

use std::sync::Arc;

use export::Segments;

use crate::block::BlockRange;
use crate::nexus::Call;
use crate::response::{Ending, Outcome};
use crate::sense::{Sense, code};
use crate::unit::Guard;
use crate::wire;

use super::engine::{self, Place};
use super::records::{End, Kind, Record};
use super::tokens::{CHANGE_VULNERABLE, RANGES_MAX, TOKEN_BYTES, Token, ZEROES};

/// MAXIMUM TOKEN TRANSFER SIZE: what one token stands for, and what one command writes.
pub(crate) const TRANSFER_BYTES_MAX: u64 = 256 << 20;

/// POPULATE TOKEN: names what is in the ranges now.
pub(crate) fn populate_token(call: &Call<'_>) -> Outcome {
    let list = call.parameters(call.cdb.u32(10))?;
    if list.is_empty() {
        return Ok(Segments::new());
    }
    check_length(&list, 16)?;
    // RTV
    let kind = wire::u32_at(&list, 8);
    if wire::u8_at(&list, 2) & 0x02 != 0 && !matches!(kind, 0 | CHANGE_VULNERABLE) {
        return Err(Sense::invalid_field_in_parameters(8, None).into());
    }
    let ranges = ranges(call, &list, 14)?;
    call.must_not_wait()?;
    let unit = &call.itl.unit;
    let whole = unit.geometry.bytes(unit.geometry.blocks);
    let held = unit.stripes.hold(0, whole);
    let blocks = ranges.iter().map(|range| range.blocks).sum();
    let token = call.target.tokens.make(unit, ranges);
    unit.tokens.watch(&token);
    unit.set_guard(Guard::Tokens, true);
    drop(held);
    keep(call, blocks, Ok(()), Some(&token))
}

/// WRITE USING TOKEN: copies what a token names into the ranges.
pub(crate) fn write_using_token(call: &Call<'_>) -> Outcome {
    let list = call.parameters(call.cdb.u32(10))?;
    if list.is_empty() {
        return Ok(Segments::new());
    }
    check_length(&list, 536)?;
    let ranges = ranges(call, &list, 534)?;
    let blocks: u64 = ranges.iter().map(|range| range.blocks).sum();
    let bytes = list.get(16..16 + TOKEN_BYTES).unwrap_or_default();
    call.must_not_wait()?;
    let geometry = &call.unit.geometry;
    match wire::u32_at(bytes, 0) {
        ZEROES => {
            let done = ranges.iter().try_for_each(|range| {
                let to = Place {
                    unit: call.unit,
                    offset: geometry.offset(range.lba),
                };
                engine::zero(call, to, geometry.bytes(range.blocks))
            });
            keep(call, blocks, done, None)
        }
        CHANGE_VULNERABLE => {
            let token = call
                .target
                .tokens
                .find(bytes)
                .ok_or(Sense::illegal(code::TOKEN_UNKNOWN))?;
            let skipped = wire::u64_at(&list, 8);
            let done = write_token(call, &token, skipped, &ranges);
            // DEL_TKN
            if wire::u8_at(&list, 2) & 0x02 != 0 {
                call.target.tokens.delete(&token);
            }
            keep(call, blocks, done, None)
        }
        _ => Err(Sense::illegal(code::UNSUPPORTED_TOKEN_TYPE).into()),
    }
}

/// Copies from `token`, past `skipped` blocks of it, into `ranges`.
fn write_token(
    call: &Call<'_>,
    token: &Arc<Token>,
    skipped: u64,
    ranges: &[BlockRange],
) -> Result<(), Ending> {
    let revoked = || Ending::from(Sense::illegal(code::TOKEN_REVOKED));
    let source = token.unit.upgrade().ok_or_else(revoked)?;
    if token.is_revoked() {
        return Err(revoked());
    }
    let geometry = &call.unit.geometry;
    let there: u64 = token.ranges.iter().map(|range| range.blocks).sum();
    let there = source.geometry.bytes(there);
    let wanted = geometry.bytes(ranges.iter().map(|range| range.blocks).sum());
    let skipped = skipped.checked_mul(geometry.block_bytes.into());
    let end = skipped.and_then(|skipped| skipped.checked_add(wanted));
    let (Some(mut at), Some(_)) = (skipped, end.filter(|&end| end <= there)) else {
        return Err(Sense::invalid_field_in_parameters(8, None).into());
    };
    for range in ranges {
        let mut to = geometry.offset(range.lba);
        let mut left = geometry.bytes(range.blocks);
        while left > 0 {
            let (offset, length) = locate(token, &source.geometry, at).ok_or_else(revoked)?;
            let step = length.min(left);
            let from = Place {
                unit: &source,
                offset,
            };
            let destination = Place {
                unit: call.unit,
                offset: to,
            };
            engine::copy(call, from, destination, step)?;
            // What was copied is what the token stands for only if nobody wrote meanwhile; this write itself may have.
            if token.is_revoked() {
                return Err(revoked());
            }
            (at, to, left) = (at + step, to + step, left - step);
        }
    }
    Ok(())
}

/// Where byte `at` of a token lies on its unit, and how many follow it there.
fn locate(token: &Token, geometry: &crate::unit::Geometry, mut at: u64) -> Option<(u64, u64)> {
    for range in &token.ranges {
        let length = geometry.bytes(range.blocks);
        if at < length {
            return Some((geometry.offset(range.lba) + at, length - at));
        }
        at -= length;
    }
    None
}

/// Refuses a list that is shorter than its head, or than it says.
fn check_length(list: &[u8], head: usize) -> Result<(), Ending> {
    let said = usize::from(wire::u16_at(list, 0)) + 2;
    if list.len() < head || said < head || said > list.len() {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    Ok(())
}

/// The block device range descriptors, whose length stands at `at`.
fn ranges(call: &Call<'_>, list: &[u8], at: usize) -> Result<Vec<BlockRange>, Ending> {
    let length = usize::from(wire::u16_at(list, at));
    let descriptors = list.get(at + 2..at + 2 + length);
    let descriptors = descriptors.ok_or(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR))?;
    if length == 0 || length / 16 > usize::from(RANGES_MAX) {
        let sense = if length == 0 {
            Sense::invalid_field_in_parameters(wire::to_u16(at), None)
        } else {
            Sense::illegal(code::TOO_MANY_SEGMENT_DESCRIPTORS)
        };
        return Err(sense.into());
    }
    let mut ranges: Vec<BlockRange> = Vec::with_capacity(length / 16);
    let mut blocks = 0;
    for descriptor in descriptors.chunks_exact(16) {
        let range = BlockRange::new(
            wire::u64_at(descriptor, 0),
            wire::u32_at(descriptor, 8).into(),
            &call.unit.geometry,
        )?;
        blocks += range.blocks;
        let twice = ranges.iter().any(|other| other.overlaps(&range));
        if twice || call.unit.geometry.bytes(blocks) > TRANSFER_BYTES_MAX {
            let field = wire::to_u16(at + 2 + 16 * ranges.len());
            return Err(Sense::invalid_field_in_parameters(field, None).into());
        }
        ranges.push(range);
    }
    Ok(ranges)
}

/// Keeps how the copy ended, for RECEIVE ROD TOKEN INFORMATION, and ends the command.
fn keep(
    call: &Call<'_>,
    blocks: u64,
    done: Result<(), Ending>,
    token: Option<&Arc<Token>>,
) -> Outcome {
    call.nexus.copies.lock().keep(Record {
        kind: Kind::Wide,
        list_id: call.cdb.u32(6),
        action: call.cdb.service_action(),
        segments: 0,
        transferred: if done.is_ok() { blocks } else { 0 },
        end: End::of(&done),
        token: token.map(|token| token.bytes()),
    });
    done.map(|()| Segments::new())
}
