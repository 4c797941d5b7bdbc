//! SEND DIAGNOSTIC and RECEIVE DIAGNOSTIC RESULTS: the self-test that every device has, and the list of pages.

use export::Segments;

use crate::nexus::Call;
use crate::response::Outcome;
use crate::sense::Sense;

use super::cut_to;

/// SEND DIAGNOSTIC (SPC-4, 6.42). The self-test has nothing to find: what is stored proves itself when it is read.
pub(crate) fn send_diagnostic(call: &Call<'_>) -> Outcome {
    let length = call.cdb.u16(3);
    if call.cdb.has(1, 0x04) && length > 0 {
        return Err(Sense::invalid_field_in_cdb(3, None).into());
    }
    let list = call.parameters(length.into())?;
    match list.first() {
        // Asking for the supported pages, to be fetched by RECEIVE DIAGNOSTIC RESULTS.
        None | Some(0x00) => Ok(Segments::new()),
        Some(_) => Err(Sense::invalid_field_in_parameters(0, None).into()),
    }
}

/// RECEIVE DIAGNOSTIC RESULTS (SPC-4, 6.25): the list of pages, which has itself.
pub(crate) fn receive_diagnostic(call: &Call<'_>) -> Outcome {
    if call.cdb.u8(2) != 0 {
        return Err(Sense::invalid_field_in_cdb(2, None).into());
    }
    Ok(cut_to(vec![0, 0, 0, 1, 0], call.cdb.u16(3).into()))
}
