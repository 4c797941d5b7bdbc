//! START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL.

use std::sync::atomic::Ordering;

use export::Segments;

use crate::nexus::Call;
use crate::response::{Ending, Outcome};
use crate::sense::{Sense, code};
use crate::unit::Guard;

/// START STOP UNIT (SBC-3, 5.25). A disk that many may use is not stopped because one of them asks: stopping is a flush,
/// and power conditions change nothing. A removable medium is taken out and put in.
pub(crate) fn start_stop(call: &Call<'_>) -> Outcome {
    let flags = call.cdb.u8(4);
    let (power, no_flush) = (flags >> 4, flags & 0x04 != 0);
    let (eject, start) = (flags & 0x02 != 0, flags & 0x01 != 0);
    if power != 0 {
        return Ok(Segments::new());
    }
    if !start && !no_flush && !call.unit.geometry.read_only {
        call.must_not_wait()?;
        let answer = call.unit.export.flush();
        answer.map_err(|error| Ending::of_export(&error, 0))?;
    }
    if !eject {
        return Ok(Segments::new());
    }
    if !call.unit.options.removable {
        return Err(Sense::invalid_field_in_cdb(4, Some(1)).into());
    }
    if call.unit.removal_is_prevented() {
        return Err(Sense::illegal(code::MEDIUM_REMOVAL_PREVENTED).into());
    }
    let was_absent = call.unit.guarded_by(Guard::MediumAbsent);
    call.unit.set_guard(Guard::MediumAbsent, !start);
    if start && was_absent {
        call.unit
            .raise(code::MEDIUM_MAY_HAVE_CHANGED, Some(call.nexus.id));
    }
    Ok(Segments::new())
}

/// PREVENT ALLOW MEDIUM REMOVAL (SPC-4, 6.17): each nexus for itself.
pub(crate) fn prevent_allow(call: &Call<'_>) -> Outcome {
    let prevent = call.cdb.u8(4) & 0x03;
    if prevent > 1 {
        return Err(Sense::invalid_field_in_cdb(4, Some(1)).into());
    }
    call.itl.prevents.store(prevent == 1, Ordering::Release);
    Ok(Segments::new())
}
