//! RECEIVE COPY RESULTS and RECEIVE ROD TOKEN INFORMATION (SPC-4, 6.19 to 6.29), and the page that says what can be
//! copied (SPC-4, 7.8.17).

use crate::nexus::Call;
use crate::primary::cut_to;
use crate::response::Outcome;
use crate::sense::Sense;
use crate::table::{DEFINITIONS, Operation};
use crate::unit::LogicalUnit;
use crate::wire;

use super::extended::{CSCDS_MAX, DESCRIPTOR_CODES, LISTS_BYTES_MAX, SEGMENTS_MAX};
use super::records::{End, Kind, Record};
use super::rod::TRANSFER_BYTES_MAX;
use super::tokens::{CHANGE_VULNERABLE, RANGES_MAX, TOKEN_BYTES, ZEROES};

/// RECEIVE COPY RESULTS, all service actions, and RECEIVE ROD TOKEN INFORMATION.
pub(crate) fn receive_copy_results(call: &Call<'_>) -> Outcome {
    let cdb = call.cdb;
    let allocation_bytes = cdb.u32(10);
    let (kind, list_id) = match cdb.service_action() {
        0x03 => return Ok(cut_to(operating_parameters(), allocation_bytes)),
        0x00 | 0x04 => (Kind::Narrow, u32::from(cdb.u8(2))),
        _ => (Kind::Wide, cdb.u32(2)),
    };
    let copies = call.nexus.copies.lock();
    let record = copies
        .find(kind, list_id)
        .ok_or(Sense::invalid_field_in_cdb(2, None))?;
    let answer = match cdb.service_action() {
        0x00 => copy_status(record),
        0x04 => failed_segment(record),
        0x05 => wide_status(record),
        _ if matches!(record.action, 0x10 | 0x11) => token_information(record),
        _ => return Err(Sense::invalid_field_in_cdb(2, None).into()),
    };
    Ok(cut_to(answer, allocation_bytes))
}

/// COPY STATUS for identifiers of 8 bits.
fn copy_status(record: &Record) -> Vec<u8> {
    let mut answer = vec![0; 12];
    // Of one that was terminated there is no more to say than that it is over and not whole.
    let status = match record.end {
        End::Done => 0x01,
        End::Failed(_) | End::Terminated => 0x02,
    };
    wire::put(&mut answer, 0, &8_u32.to_be_bytes());
    wire::put(&mut answer, 4, &[status]);
    wire::put(&mut answer, 5, &record.segments.to_be_bytes());
    let (units, count) = narrow_count(record.transferred);
    wire::put(&mut answer, 7, &[units]);
    wire::put(&mut answer, 8, &count.to_be_bytes());
    answer
}

/// A number of bytes in the smallest unit in which it fits: bytes, KiB, MiB and so on.
fn narrow_count(bytes: u64) -> (u8, u32) {
    let mut count = bytes;
    let mut units = 0;
    while count > u32::MAX.into() {
        count >>= 10;
        units += 1;
    }
    (units, u32::try_from(count).unwrap_or(u32::MAX))
}

/// FAILED SEGMENT DETAILS: the sense data again.
fn failed_segment(record: &Record) -> Vec<u8> {
    let Some(sense) = record.end.sense() else {
        return vec![0; 4];
    };
    let sense_data = sense.encode();
    let mut answer = vec![0; 60];
    wire::put(&mut answer, 56, &[0x02, 0]);
    let length = wire::to_u16(sense_data.len());
    wire::put(&mut answer, 58, &length.to_be_bytes());
    answer.extend_from_slice(&sense_data);
    with_length(answer)
}

/// COPY STATUS for identifiers of 32 bits.
fn wide_status(record: &Record) -> Vec<u8> {
    with_length(status_head(record))
}

/// What the answers about identifiers of 32 bits begin with, with the sense data.
fn status_head(record: &Record) -> Vec<u8> {
    let mut answer = vec![0; 32];
    let status = match record.end {
        End::Done => 0x01,
        End::Failed(_) => 0x02,
        End::Terminated => 0x60,
    };
    wire::put(&mut answer, 4, &[record.action & 0x1f, status]);
    // Bytes, or blocks.
    let units = if matches!(record.action, 0x10 | 0x11) {
        0xf1
    } else {
        0x00
    };
    if let Some(sense) = record.end.sense() {
        let sense_data = sense.encode();
        let length = wire::to_u8(sense_data.len());
        wire::put(&mut answer, 12, &[0x02, length, length]);
        answer.extend_from_slice(&sense_data);
    }
    wire::put(&mut answer, 15, &[units]);
    wire::put(&mut answer, 16, &record.transferred.to_be_bytes());
    wire::put(&mut answer, 24, &record.segments.to_be_bytes());
    answer
}

/// RECEIVE ROD TOKEN INFORMATION: the same, and the token.
fn token_information(record: &Record) -> Vec<u8> {
    let mut answer = status_head(record);
    match &record.token {
        Some(token) => {
            let length = wire::to_u32(2 + TOKEN_BYTES);
            answer.extend_from_slice(&length.to_be_bytes());
            answer.extend_from_slice(&[0; 2]);
            answer.extend_from_slice(&token[..]);
        }
        None => answer.extend_from_slice(&[0; 4]),
    }
    with_length(answer)
}

/// OPERATING PARAMETERS.
fn operating_parameters() -> Vec<u8> {
    let mut answer = vec![0; 44];
    // SNLID: copies without an identifier.
    wire::put(&mut answer, 4, &[0x01]);
    wire::put(&mut answer, 8, &CSCDS_MAX.to_be_bytes());
    wire::put(&mut answer, 10, &SEGMENTS_MAX.to_be_bytes());
    wire::put(&mut answer, 12, &LISTS_BYTES_MAX.to_be_bytes());
    wire::put(&mut answer, 16, &SEGMENT_BYTES_MAX.to_be_bytes());
    wire::put(&mut answer, 34, &CONCURRENT_MAX.to_be_bytes());
    wire::put(&mut answer, 36, &[wire::to_u8(CONCURRENT_MAX.into()), 9]);
    wire::put(&mut answer, 43, &[wire::to_u8(DESCRIPTOR_CODES.len())]);
    answer.extend_from_slice(&DESCRIPTOR_CODES);
    with_length(answer)
}

/// 65535 blocks of 4096 bytes.
const SEGMENT_BYTES_MAX: u32 = 65535 * 4096;
/// As many as commands can be executed at once; nothing here counts them.
const CONCURRENT_MAX: u16 = 255;

/// The answer with its own length, less four, in the first four bytes.
fn with_length(mut answer: Vec<u8>) -> Vec<u8> {
    let length = wire::to_u32(answer.len().saturating_sub(4));
    wire::put(&mut answer, 0, &length.to_be_bytes());
    answer
}

/// The page Third-party Copy, without its header.
pub(crate) fn third_party_copy_page(unit: &LogicalUnit) -> Vec<u8> {
    let mut page = Vec::new();
    descriptor(&mut page, 0x0000, &token_limits(unit));
    descriptor(&mut page, 0x0001, &supported_commands());
    let mut parameters = vec![0; 28];
    wire::put(&mut parameters, 4, &CSCDS_MAX.to_be_bytes());
    wire::put(&mut parameters, 6, &SEGMENTS_MAX.to_be_bytes());
    wire::put(&mut parameters, 8, &LISTS_BYTES_MAX.to_be_bytes());
    descriptor(&mut page, 0x0004, &parameters);
    let mut codes = vec![wire::to_u8(DESCRIPTOR_CODES.len())];
    codes.extend_from_slice(&DESCRIPTOR_CODES);
    descriptor(&mut page, 0x0008, &codes);
    // No CSCD descriptor IDs beyond those of a parameter list.
    descriptor(&mut page, 0x000c, &[0; 2]);
    descriptor(&mut page, 0x0106, &token_features());
    descriptor(&mut page, 0x0108, &token_types());
    let mut general = vec![0; 32];
    let concurrent = u32::from(CONCURRENT_MAX).to_be_bytes();
    wire::put(&mut general, 0, &concurrent);
    wire::put(&mut general, 4, &concurrent);
    wire::put(&mut general, 8, &SEGMENT_BYTES_MAX.to_be_bytes());
    wire::put(&mut general, 12, &[9]);
    descriptor(&mut page, 0x8001, &general);
    page
}

fn descriptor(page: &mut Vec<u8>, kind: u16, content: &[u8]) {
    let padded = (content.len() + 4).next_multiple_of(4) - 4;
    page.extend_from_slice(&kind.to_be_bytes());
    page.extend_from_slice(&wire::to_u16(padded).to_be_bytes());
    page.extend_from_slice(content);
    page.resize(page.len() + padded - content.len(), 0);
}

/// Block Device ROD Token Limits (SBC-3, 6.6.6).
fn token_limits(unit: &LogicalUnit) -> Vec<u8> {
    let block = u64::from(unit.geometry.block_bytes);
    let mut limits = vec![0; 32];
    wire::put(&mut limits, 6, &RANGES_MAX.to_be_bytes());
    wire::put(&mut limits, 8, &TOKEN_LIFE_SECS.to_be_bytes());
    wire::put(&mut limits, 12, &TOKEN_LIFE_SECS.to_be_bytes());
    let most = (TRANSFER_BYTES_MAX / block).to_be_bytes();
    wire::put(&mut limits, 16, &most);
    wire::put(&mut limits, 24, &(OPTIMAL_BYTES / block).to_be_bytes());
    limits
}

/// What is said about how long an unused token is kept. There is no clock here: it is kept until a newer one needs its
/// place.
const TOKEN_LIFE_SECS: u32 = 600;
const OPTIMAL_BYTES: u64 = 64 << 20;

/// The commands of the copy manager, from the table: each opcode with its service actions.
fn supported_commands() -> Vec<u8> {
    let mut list = Vec::new();
    for opcode in [0x83, 0x84] {
        let mut actions: Vec<u8> = DEFINITIONS
            .iter()
            .filter(|definition| definition.opcode == opcode)
            .filter(|definition| definition.operation.is_copy())
            .filter_map(|definition| definition.action)
            .collect();
        actions.sort_unstable();
        list.extend_from_slice(&[opcode, wire::to_u8(actions.len())]);
        list.extend_from_slice(&actions);
    }
    let mut content = vec![wire::to_u8(list.len())];
    content.append(&mut list);
    content
}

/// ROD Token Features.
fn token_features() -> Vec<u8> {
    let mut features = vec![0; 92];
    // Tokens of other copy managers are not taken.
    wire::put(&mut features, 16, &TOKEN_LIFE_SECS.to_be_bytes());
    wire::put(&mut features, 20, &TOKEN_LIFE_SECS.to_be_bytes());
    wire::put(&mut features, 42, &48_u16.to_be_bytes());
    // For block devices: the most, and what is best.
    wire::put(&mut features, 46, &0x2c_u16.to_be_bytes());
    for (at, bytes) in [
        (52, TRANSFER_BYTES_MAX),
        (60, OPTIMAL_BYTES),
        (68, OPTIMAL_BYTES),
        (76, OPTIMAL_BYTES),
    ] {
        wire::put(&mut features, at, &bytes.to_be_bytes());
    }
    features
}

/// Supported ROD Token and ROD Types: which are made, and which are taken.
fn token_types() -> Vec<u8> {
    let mut types = vec![0; 4];
    wire::put(&mut types, 2, &128_u16.to_be_bytes());
    for (kind, uses) in [(CHANGE_VULNERABLE, 0x03), (ZEROES, 0x02)] {
        let mut entry = vec![0; 64];
        wire::put(&mut entry, 0, &kind.to_be_bytes());
        wire::put(&mut entry, 4, &[uses]);
        types.append(&mut entry);
    }
    types
}

impl Operation {
    fn is_copy(self) -> bool {
        matches!(
            self,
            Self::ExtendedCopy | Self::PopulateToken | Self::ReceiveCopy | Self::WriteUsingToken
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_in_the_unit_that_fits() {
        assert_eq!(narrow_count(7), (0, 7));
        assert_eq!(narrow_count(u32::MAX.into()), (0, u32::MAX));
        assert_eq!(narrow_count(1 << 32), (1, 1 << 22));
        assert_eq!(narrow_count(1 << 42), (2, 1 << 22));
    }

    #[test]
    fn descriptors_are_padded() {
        let mut page = Vec::new();
        descriptor(&mut page, 1, &[9; 3]);
        descriptor(&mut page, 2, &[]);
        assert_eq!(page, [0, 1, 0, 4, 9, 9, 9, 0, 0, 2, 0, 0]);
    }
}
