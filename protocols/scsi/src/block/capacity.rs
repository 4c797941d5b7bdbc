//! READ CAPACITY and READ DEFECT DATA.

use bytes::Bytes;
use export::Segments;

use crate::cdb::Cdb;
use crate::nexus::Call;
use crate::primary::cut_to;
use crate::response::Outcome;
use crate::wire;

/// READ CAPACITY of both sizes.
pub(crate) fn read_capacity(call: &Call<'_>) -> Outcome {
    let geometry = &call.unit.geometry;
    let last = geometry.blocks - 1;
    let mut answer = vec![0; 32];
    if call.cdb.opcode() == 0x25 {
        let last = u32::try_from(last).unwrap_or(u32::MAX);
        wire::put(&mut answer, 0, &last.to_be_bytes());
        wire::put(&mut answer, 4, &geometry.block_bytes.to_be_bytes());
        answer.truncate(8);
        return Ok(Segments::from(Bytes::from(answer)));
    }
    wire::put(&mut answer, 0, &last.to_be_bytes());
    wire::put(&mut answer, 8, &geometry.block_bytes.to_be_bytes());
    wire::put(&mut answer, 13, &[geometry.physical_exponent]);
    // LBPME and LBPRZ: blocks can be given back, and read as zeroes then.
    wire::put(&mut answer, 14, &[0xc0]);
    Ok(cut_to(answer, call.cdb.u32(10)))
}

/// READ DEFECT DATA of both sizes: lists without entries, in the format asked for.
pub(crate) fn read_defect_data(cdb: &Cdb) -> Segments {
    if cdb.opcode() == 0x37 {
        return cut_to(vec![0, cdb.u8(2) & 0x1f, 0, 0], cdb.u16(7).into());
    }
    cut_to(vec![0, cdb.u8(1) & 0x1f, 0, 0, 0, 0, 0, 0], cdb.u32(6))
}
