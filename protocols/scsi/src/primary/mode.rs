//! MODE SENSE and MODE SELECT (SPC-4, 6.11 to 6.14).

use export::Segments;

use crate::modes::{PAGES, PageControl};
use crate::nexus::Call;
use crate::response::{Ending, Outcome};
use crate::sense::{Sense, code};
use crate::unit::{Geometry, Guard};
use crate::wire;

use super::cut_to;

/// MODE SENSE of both sizes.
pub(crate) fn mode_sense(call: &Call<'_>) -> Outcome {
    let cdb = call.cdb;
    let long = cdb.opcode() == 0x5a;
    let control = match cdb.u8(2) >> 6 {
        0 => PageControl::Current,
        1 => PageControl::Changeable,
        2 => PageControl::Default,
        _ => return Err(Sense::illegal(code::SAVING_PARAMETERS_NOT_SUPPORTED).into()),
    };
    let pages = pages(call, cdb.u8(2) & 0x3f, cdb.u8(3), control)?;
    let descriptor = match (cdb.has(1, 0x08), long && cdb.has(1, 0x10)) {
        (true, _) => Vec::new(),
        (false, false) => short_descriptor(&call.unit.geometry).to_vec(),
        (false, true) => long_descriptor(&call.unit.geometry).to_vec(),
    };
    let protected = call.unit.geometry.read_only || call.unit.modes.write_protect();
    // DPOFUA; WP.
    let specific = if protected { 0x90 } else { 0x10 };
    let rest = descriptor.len() + pages.len();
    let mut answer = Vec::with_capacity(8 + rest);
    if long {
        let long_blocks = u8::from(descriptor.len() == 16);
        answer.extend_from_slice(&wire::to_u16(rest + 6).to_be_bytes());
        answer.extend_from_slice(&[0, specific, long_blocks, 0]);
        answer.extend_from_slice(&wire::to_u16(descriptor.len()).to_be_bytes());
    } else {
        let length = wire::to_u8(rest + 3);
        answer.extend_from_slice(&[length, 0, specific, wire::to_u8(descriptor.len())]);
    }
    answer.extend_from_slice(&descriptor);
    answer.extend_from_slice(&pages);
    let allocation_bytes = if long {
        u32::from(cdb.u16(7))
    } else {
        u32::from(cdb.u8(4))
    };
    Ok(cut_to(answer, allocation_bytes))
}

/// One page, or all.
fn pages(call: &Call<'_>, page: u8, subpage: u8, control: PageControl) -> Result<Vec<u8>, Ending> {
    let known: &[u8] = match (page, subpage) {
        (0x3f, 0x00 | 0xff) => &PAGES,
        (_, 0x00 | 0xff) => &[page],
        _ => return Err(Sense::invalid_field_in_cdb(3, None).into()),
    };
    let mut answer = Vec::new();
    for &page in known {
        let content = call.unit.modes.page(page, control);
        let content = content.ok_or(Sense::invalid_field_in_cdb(2, Some(5)))?;
        answer.extend_from_slice(&[page, wire::to_u8(content.len())]);
        answer.extend_from_slice(&content);
    }
    Ok(answer)
}

fn short_descriptor(geometry: &Geometry) -> [u8; 8] {
    let mut descriptor = [0; 8];
    let blocks = u32::try_from(geometry.blocks).unwrap_or(u32::MAX);
    wire::put(&mut descriptor, 0, &blocks.to_be_bytes());
    wire::put(&mut descriptor, 4, &geometry.block_bytes.to_be_bytes());
    descriptor
}

fn long_descriptor(geometry: &Geometry) -> [u8; 16] {
    let mut descriptor = [0; 16];
    wire::put(&mut descriptor, 0, &geometry.blocks.to_be_bytes());
    wire::put(&mut descriptor, 12, &geometry.block_bytes.to_be_bytes());
    descriptor
}

/// MODE SELECT of both sizes. All pages are looked at before the first is changed.
pub(crate) fn mode_select(call: &Call<'_>) -> Outcome {
    let cdb = call.cdb;
    let long = cdb.opcode() == 0x55;
    let list_bytes = if long {
        u32::from(cdb.u16(7))
    } else {
        u32::from(cdb.u8(4))
    };
    let list = call.parameters(list_bytes)?;
    if list.is_empty() {
        return Ok(Segments::new());
    }
    let (header_bytes, descriptor_bytes) = if long {
        (8, usize::from(wire::u16_at(&list, 6)))
    } else {
        (4, usize::from(wire::u8_at(&list, 3)))
    };
    if list.len() < header_bytes + descriptor_bytes {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    check_descriptor(call, &list, header_bytes, descriptor_bytes)?;
    if !cdb.has(1, 0x10) && list.len() > header_bytes + descriptor_bytes {
        return Err(Sense::invalid_field_in_cdb(1, Some(4)).into());
    }
    let trial = crate::modes::Modes::copy_of(&call.unit.modes);
    let changed = change_pages(&trial, &list, header_bytes + descriptor_bytes)?;
    if changed {
        call.unit.modes.take_over(&trial);
        let protected = call.unit.modes.write_protect();
        call.unit.set_guard(Guard::WriteProtected, protected);
        call.unit
            .raise(code::MODE_PARAMETERS_CHANGED, Some(call.nexus.id));
    }
    Ok(Segments::new())
}

/// A block descriptor may only say what is so.
fn check_descriptor(
    call: &Call<'_>,
    list: &[u8],
    at: usize,
    descriptor_bytes: usize,
) -> Result<(), Ending> {
    let geometry = &call.unit.geometry;
    let (same_count, same_size) = match descriptor_bytes {
        0 => return Ok(()),
        8 => {
            let count = u64::from(wire::u32_at(list, at));
            let all = geometry.blocks.min(u32::MAX.into());
            (
                count == 0 || count == all || count == u64::from(u32::MAX),
                wire::u24_at(list, at + 5) == geometry.block_bytes,
            )
        }
        16 => {
            let count = wire::u64_at(list, at);
            (
                count == 0 || count == geometry.blocks || count == u64::MAX,
                wire::u32_at(list, at + 12) == geometry.block_bytes,
            )
        }
        _ => return Err(Sense::invalid_field_in_parameters(wire::to_u16(at - 1), None).into()),
    };
    if same_count && same_size {
        return Ok(());
    }
    let field = if same_count { at + 4 } else { at };
    Err(Sense::invalid_field_in_parameters(wire::to_u16(field), None).into())
}

/// Changes the pages that stand in `list` from `at`; whether any changed.
fn change_pages(modes: &crate::modes::Modes, list: &[u8], mut at: usize) -> Result<bool, Ending> {
    let mut changed = false;
    while at < list.len() {
        let page = wire::u8_at(list, at);
        let here = |offset: u16| {
            let field = wire::to_u16(at).saturating_add(offset);
            Ending::from(Sense::invalid_field_in_parameters(field, None))
        };
        // PS is reserved here, and no page has subpages.
        if page & 0xc0 != 0 {
            return Err(here(0));
        }
        let content_bytes = usize::from(wire::u8_at(list, at + 1));
        let content = list
            .get(at + 2..at + 2 + content_bytes)
            .ok_or(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR))?;
        changed |= modes.change(page, content).map_err(here)?;
        at += 2 + content_bytes;
    }
    Ok(changed)
}
