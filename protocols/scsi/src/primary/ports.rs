//! REPORT TARGET PORT GROUPS: every port is as good as any other.

use crate::nexus::Call;
use crate::response::Outcome;
use crate::sense::Sense;
use crate::wire;

use super::cut_to;
use super::vital::PORT_GROUP;

/// REPORT TARGET PORT GROUPS (SPC-4, 6.37), with or without the extended header.
pub(crate) fn report_port_groups(call: &Call<'_>) -> Outcome {
    let mut answer = vec![0; 4];
    match call.cdb.u8(1) >> 5 {
        0 => {}
        1 => answer.extend_from_slice(&[0x10, 0, 0, 0]),
        _ => return Err(Sense::invalid_field_in_cdb(1, Some(7)).into()),
    }
    let ports = &call.target.identity().ports;
    // Active/optimized, and that is the one state there is.
    answer.extend_from_slice(&[0, 0x01, 0, PORT_GROUP, 0, 0, 0, wire::to_u8(ports.len())]);
    for port in ports.iter().take(255) {
        answer.extend_from_slice(&[0, 0]);
        answer.extend_from_slice(&port.relative_id.to_be_bytes());
    }
    let rest_bytes = wire::to_u32(answer.len() - 4);
    wire::put(&mut answer, 0, &rest_bytes.to_be_bytes());
    Ok(cut_to(answer, call.cdb.u32(6)))
}
