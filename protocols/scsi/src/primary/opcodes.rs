//! REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.

use crate::nexus::Call;
use crate::response::{Ending, Outcome};
use crate::sense::Sense;
use crate::table::{DEFINITIONS, Definition};
use crate::wire;

use super::cut_to;

/// REPORT SUPPORTED OPERATION CODES (SPC-4, 6.35): the table, as it is.
pub(crate) fn report_opcodes(call: &Call<'_>) -> Outcome {
    let cdb = call.cdb;
    let mut known: Vec<&Definition> = DEFINITIONS
        .iter()
        .filter(|definition| call.target.offers(call.unit, definition.operation))
        .collect();
    known.sort_by_key(|definition| (definition.opcode, definition.action));
    let timeouts = cdb.has(2, 0x80);
    let (opcode, action) = (cdb.u8(3), cdb.u16(4));
    let answer = match cdb.u8(2) & 0x07 {
        0 => all(&known, timeouts),
        1 => one(find_plain(&known, opcode)?, timeouts),
        2 => one(find_with_action(&known, opcode, action)?, timeouts),
        3 => {
            let found = known.iter().copied().find(|definition| {
                let its_action = u16::from(definition.action.unwrap_or(0));
                definition.opcode == opcode && its_action == action
            });
            one(found, timeouts)
        }
        _ => return Err(Sense::invalid_field_in_cdb(2, Some(2)).into()),
    };
    Ok(cut_to(answer, cdb.u32(6)))
}

/// A command without service actions; one that has them is asked for the wrong way.
fn find_plain<'a>(known: &[&'a Definition], opcode: u8) -> Result<Option<&'a Definition>, Ending> {
    let mut all = known.iter().copied();
    let found = all.find(|definition| definition.opcode == opcode);
    match found {
        Some(definition) if definition.action.is_some() => {
            Err(Sense::invalid_field_in_cdb(2, Some(2)).into())
        }
        found => Ok(found),
    }
}

/// A command with a service action; one that has none is asked for the wrong way.
fn find_with_action<'a>(
    known: &[&'a Definition],
    opcode: u8,
    action: u16,
) -> Result<Option<&'a Definition>, Ending> {
    let of_opcode = || {
        let all = known.iter().copied();
        all.filter(move |definition| definition.opcode == opcode)
    };
    if of_opcode().any(|definition| definition.action.is_none()) {
        return Err(Sense::invalid_field_in_cdb(2, Some(2)).into());
    }
    Ok(of_opcode().find(|definition| definition.action.map(u16::from) == Some(action)))
}

/// All commands.
fn all(known: &[&Definition], timeouts: bool) -> Vec<u8> {
    let mut answer = vec![0; 4];
    for definition in known {
        let action = definition.action.unwrap_or(0);
        let mut flags = u8::from(definition.action.is_some());
        if timeouts {
            flags |= 0x02;
        }
        answer.extend_from_slice(&[definition.opcode, 0, 0, action, 0, flags]);
        answer.extend_from_slice(&wire::to_u16(definition.usage.len()).to_be_bytes());
        if timeouts {
            answer.extend_from_slice(&NO_TIMEOUTS);
        }
    }
    let rest_bytes = wire::to_u32(answer.len() - 4);
    wire::put(&mut answer, 0, &rest_bytes.to_be_bytes());
    answer
}

/// One command, or that there is none.
fn one(definition: Option<&Definition>, timeouts: bool) -> Vec<u8> {
    let timeouts = timeouts && definition.is_some();
    let timeouts_present = if timeouts { 0x80 } else { 0 };
    let Some(definition) = definition else {
        return vec![0, 0x01, 0, 0];
    };
    let mut answer = vec![0, timeouts_present | 0x03];
    answer.extend_from_slice(&wire::to_u16(definition.usage.len()).to_be_bytes());
    let mut usage = definition.usage.to_vec();
    for (byte, fixed) in usage
        .iter_mut()
        .zip([definition.opcode, definition.action.unwrap_or(0)])
    {
        *byte |= fixed;
    }
    answer.extend_from_slice(&usage);
    if timeouts {
        answer.extend_from_slice(&NO_TIMEOUTS);
    }
    answer
}

/// A command timeouts descriptor that says nothing about how long a command takes.
const NO_TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4, 6.36).
pub(crate) fn report_task_management(call: &Call<'_>) -> Outcome {
    let allocation_bytes = call.cdb.u32(6);
    if allocation_bytes < 4 {
        return Err(Sense::invalid_field_in_cdb(6, None).into());
    }
    // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET.
    let mut answer = vec![0xda, 0, 0, 0];
    if call.cdb.has(2, 0x80) {
        wire::put(&mut answer, 3, &[12]);
        answer.resize(16, 0);
    }
    Ok(cut_to(answer, allocation_bytes))
}
