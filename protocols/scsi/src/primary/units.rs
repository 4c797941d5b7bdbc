//! REPORT LUNS and REQUEST SENSE, and what is answered where no unit is.

use export::Segments;

use crate::cdb::Cdb;
use crate::lun::{Lun, REPORT_LUNS_FIELD, encode_lun};
use crate::nexus::{Call, NexusState};
use crate::response::{Command, Outcome};
use crate::sense::{Sense, SenseFormat, SenseKey, code};
use crate::table::{Definition, Operation};
use crate::unit::UnitOptions;
use crate::wire;

use super::{cut_to, inquiry};

/// REPORT LUNS (SPC-4, 6.33). It tells what REPORTED LUNS DATA HAS CHANGED would have told.
pub(crate) fn report_luns(nexus: &NexusState, cdb: &Cdb) -> Outcome {
    let allocation_bytes = cdb.u32(6);
    if allocation_bytes < 16 {
        return Err(Sense::invalid_field_in_cdb(6, None).into());
    }
    let (units, well_known) = match cdb.u8(2) {
        0x00 => (true, false),
        0x01 => (false, true),
        0x02 => (true, true),
        _ => return Err(Sense::invalid_field_in_cdb(2, None).into()),
    };
    let mut answer = vec![0; 8];
    for itl in nexus.units() {
        if units {
            answer.extend_from_slice(&encode_lun(itl.unit.number));
        }
        itl.attentions
            .withdraw(code::REPORTED_LUNS_DATA_HAS_CHANGED);
    }
    if well_known {
        answer.extend_from_slice(&REPORT_LUNS_FIELD);
    }
    let list_bytes = wire::to_u32(answer.len() - 8);
    wire::put(&mut answer, 0, &list_bytes.to_be_bytes());
    Ok(cut_to(answer, allocation_bytes))
}

/// REQUEST SENSE (SPC-4, 6.39): the oldest attention, or that there is nothing.
pub(crate) fn request_sense(call: &Call<'_>) -> Outcome {
    let sense = call
        .itl
        .attentions
        .take()
        .unwrap_or(Sense::new(SenseKey::NoSense, code::NO_ADDITIONAL_SENSE));
    Ok(sense_data(sense, call.cdb))
}

fn sense_data(mut sense: Sense, cdb: &Cdb) -> Segments {
    sense.format = match cdb.u8(1) & 0x01 {
        0 => SenseFormat::Fixed,
        _ => SenseFormat::Descriptor,
    };
    cut_to(sense.encode().to_vec(), cdb.u8(4).into())
}

/// A command for a LUN where this initiator sees no unit (SPC-4, 6.6.1; SAM-5, 4.7.4), or for the well-known unit.
pub(crate) fn without_unit(nexus: &NexusState, command: &Command) -> Outcome {
    let cdb = &command.cdb;
    let definition = Definition::of(cdb)?;
    let well_known = Lun::decode(command.lun) == Lun::ReportLuns;
    let missing = Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED);
    match definition.operation {
        Operation::ReportLuns => report_luns(nexus, cdb),
        Operation::TestUnitReady if well_known => Ok(Segments::new()),
        Operation::RequestSense if well_known => Ok(sense_data(
            Sense::new(SenseKey::NoSense, code::NO_ADDITIONAL_SENSE),
            cdb,
        )),
        Operation::RequestSense => Ok(sense_data(missing, cdb)),
        Operation::Inquiry => {
            inquiry::check(cdb.u8(1), cdb.u8(2))?;
            let peripheral = if well_known { 0x1e } else { 0x7f };
            let answer = match (cdb.u8(1) & 0x01, cdb.u8(2)) {
                (0, _) => inquiry::standard(peripheral, &UnitOptions::default()),
                (_, 0x00) => vec![peripheral, 0x00, 0, 1, 0x00],
                _ => return Err(Sense::invalid_field_in_cdb(2, None).into()),
            };
            Ok(cut_to(answer, cdb.u16(3).into()))
        }
        _ => Err(missing.into()),
    }
}
