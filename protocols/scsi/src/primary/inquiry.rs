//! INQUIRY (SPC-4, 6.6).

use crate::nexus::Call;
use crate::response::{Ending, Outcome};
use crate::sense::Sense;
use crate::unit::UnitOptions;
use crate::wire;

use super::{cut_to, vital};

/// INQUIRY at a unit that is there.
pub(crate) fn inquiry(call: &Call<'_>) -> Outcome {
    check(call.cdb.u8(1), call.cdb.u8(2))?;
    let answer = match call.cdb.u8(1) & 0x01 {
        0 => at_unit(call),
        _ => vital::page(call, call.cdb.u8(2)).ok_or(Sense::invalid_field_in_cdb(2, None))?,
    };
    Ok(cut_to(answer, call.cdb.u16(3).into()))
}

/// The standard answer of a unit.
fn at_unit(call: &Call<'_>) -> Vec<u8> {
    let mut answer = standard(0x00, &call.unit.options);
    if !call.target.has_ports() {
        // Neither groups of ports nor a transport are known: 3PC alone, and no version descriptor of iSCSI.
        wire::put(&mut answer, 5, &[0x08]);
        wire::put(&mut answer, 60, &[0; 2]);
    }
    answer
}

/// Refuses a page code without EVPD.
pub(crate) fn check(flags: u8, page: u8) -> Result<(), Ending> {
    if flags & 0x01 == 0 && page != 0 {
        return Err(Sense::invalid_field_in_cdb(2, None).into());
    }
    Ok(())
}

/// The standard answer. `peripheral` says what stands at the LUN.
pub(crate) fn standard(peripheral: u8, options: &UnitOptions) -> Vec<u8> {
    let mut answer = vec![0; 96];
    let removable = if options.removable { 0x80 } else { 0 };
    // SPC-4; HISUP and response format 2; 91 more bytes.
    wire::put(&mut answer, 0, &[peripheral, removable, 0x06, 0x12, 91]);
    // TPGS: implicit; 3PC. MULTIP. CMDQUE.
    wire::put(&mut answer, 5, &[0x18, 0x10, 0x02]);
    wire::put(&mut answer, 8, &wire::ascii::<8>(&options.vendor));
    wire::put(&mut answer, 16, &wire::ascii::<16>(&options.product));
    wire::put(&mut answer, 32, &wire::ascii::<4>(&options.revision));
    for (version, at) in VERSIONS.iter().zip((58..).step_by(2)) {
        wire::put(&mut answer, at, &version.to_be_bytes());
    }
    answer
}

/// VERSION DESCRIPTORs: SAM-5, iSCSI, SPC-4, SBC-3.
const VERSIONS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];
