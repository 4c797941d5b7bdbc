//! SANITIZE (SBC-3, 5.26), of units whose host says that it makes sense.

use export::{Durability, Segments};

use crate::nexus::Call;
use crate::response::{Ending, Outcome};
use crate::unit::Guard;

use super::transfer::flush;

/// BLOCK ERASE: everything is given back and reads as zeroes. That is a step of the map and takes no time, so IMMED is
/// not taken at its word. Everybody else is told that it is under way. No task management ends it (SBC-3, 4.11).
pub(crate) fn block_erase(call: &Call<'_>) -> Outcome {
    call.must_not_wait()?;
    let geometry = &call.unit.geometry;
    let size = geometry.bytes(geometry.blocks);
    if !call.unit.begin(Guard::Sanitizing) {
        return Err(Ending::sanitizing());
    }
    let done = erase(call, size).and_then(|()| flush(call));
    call.unit.set_guard(Guard::Sanitizing, false);
    done?;
    Ok(Segments::new())
}

fn erase(call: &Call<'_>, size: u64) -> Result<(), Ending> {
    let _held = call.unit.stripes.hold(0, size);
    call.unit.touch(0, size);
    let mut at = 0;
    while at < size {
        let step = (size - at).min(STEP_BYTES);
        let answer = call.unit.export.discard(at, step, Durability::Unstable);
        let lba = at / u64::from(call.unit.geometry.block_bytes);
        answer.map_err(|error| Ending::of_export(&error, lba))?;
        at += step;
    }
    Ok(())
}

const STEP_BYTES: u64 = 1 << 30;

/// EXIT FAILURE MODE: there is none to leave, since nothing is ever half sanitized and in the way.
pub(crate) fn exit_failure_mode() -> Outcome {
    Ok(Segments::new())
}
