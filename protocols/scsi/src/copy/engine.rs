//! Moving bytes from one unit to another.

use export::{Durability, ExportError};

use crate::nexus::{Call, ItlNexus};
use crate::reservations;
use crate::response::Ending;
use crate::sense::{Sense, SenseKey, code};
use crate::unit::{Guard, LogicalUnit, PairGuards, Stripes};

/// A place on a unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) unit: &'a LogicalUnit,
    pub(crate) offset: u64,
}

/// Copies `length` bytes. Where both ranges overlap, the result is as if all had been read first.
pub(crate) fn copy(
    call: &Call<'_>,
    from: Place<'_>,
    to: Place<'_>,
    length: u64,
) -> Result<(), Ending> {
    let backwards = std::ptr::eq(from.unit, to.unit)
        && to.offset > from.offset
        && to.offset < from.offset + length;
    let pieces = length.div_ceil(STEP_BYTES);
    for number in 0..pieces {
        let number = if backwards {
            pieces - 1 - number
        } else {
            number
        };
        let at = number * STEP_BYTES;
        let step = (length - at).min(STEP_BYTES);
        copy_step(call, from.skip(at), to.skip(at), step, backwards)?;
    }
    Ok(())
}

/// One piece, during which nobody sees a part of a command that holds its range alone.
fn copy_step(
    call: &Call<'_>,
    from: Place<'_>,
    to: Place<'_>,
    length: u64,
    backwards: bool,
) -> Result<(), Ending> {
    call.go_on()?;
    let _guards = share_both(from, to, length);
    to.unit.touch(to.offset, length);
    let durability = to.unit.durability(false);
    let (source, target) = (&*from.unit.export, &*to.unit.export);
    let referred = target.copy_from(to.offset, source, from.offset, length, durability);
    if referred.map_err(|error| failed(&error))? {
        return Ok(());
    }
    let pieces = length.div_ceil(PIECE_BYTES);
    for number in 0..pieces {
        let number = if backwards {
            pieces - 1 - number
        } else {
            number
        };
        let at = number * PIECE_BYTES;
        let step = (length - at).min(PIECE_BYTES);
        call.go_on()?;
        let bytes = source.read(from.offset + at, u32::try_from(step).unwrap_or(u32::MAX));
        bytes
            .and_then(|bytes| target.write(to.offset + at, bytes.pieces(), durability))
            .map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// Shares both ranges, in an order that is the same for everybody.
fn share_both<'a>(from: Place<'a>, to: Place<'a>, length: u64) -> PairGuards<'a> {
    let (one, two) = if from.unit.number <= to.unit.number {
        (from, to)
    } else {
        (to, from)
    };
    if std::ptr::eq(one.unit, two.unit) {
        let both = [(one.offset, length), (two.offset, length)];
        return (one.unit.stripes.share_all(&both), Stripes::nothing());
    }
    (
        one.unit.stripes.share_all(&[(one.offset, length)]),
        two.unit.stripes.share_all(&[(two.offset, length)]),
    )
}

/// Makes zeroes.
pub(crate) fn zero(call: &Call<'_>, to: Place<'_>, length: u64) -> Result<(), Ending> {
    call.go_on()?;
    let _guards = to.unit.stripes.share_all(&[(to.offset, length)]);
    to.unit.touch(to.offset, length);
    let durability: Durability = to.unit.durability(false);
    let mode = export::ZeroMode::Deallocate;
    let export = &to.unit.export;
    let answer = export.write_zeroes(to.offset, length, mode, durability);
    answer.map_err(|error| failed(&error))
}

impl Place<'_> {
    fn skip(self, bytes: u64) -> Self {
        Self {
            offset: self.offset + bytes,
            ..self
        }
    }
}

/// Refuses a source that the initiator must not read, by itself or by a command that names it.
pub(crate) fn check_source(source: &ItlNexus) -> Result<(), Ending> {
    let hidden = source.barred() & reservations::READ != 0
        || source.unit.guarded_by(Guard::MediumAbsent)
        || source.unit.guarded_by(Guard::Sanitizing);
    if hidden {
        return Err(aborted(code::THIRD_PARTY_DEVICE_FAILURE));
    }
    Ok(())
}

/// Refuses a destination that the initiator must not write.
pub(crate) fn check_destination(to: &ItlNexus) -> Result<(), Ending> {
    let unit = &to.unit;
    let closed = to.barred() & reservations::WRITE != 0
        || unit.geometry.read_only
        || unit.guarded_by(Guard::WriteProtected)
        || unit.guarded_by(Guard::MediumAbsent)
        || unit.guarded_by(Guard::Sanitizing);
    if closed {
        return Err(aborted(code::THIRD_PARTY_DEVICE_FAILURE));
    }
    Ok(())
}

/// COPY ABORTED.
pub(crate) fn aborted(code: (u8, u8)) -> Ending {
    Sense::new(SenseKey::CopyAborted, code).into()
}

/// How a copy ends of which a disk said `error`. That there is no room is told as for a write: hypervisors stop the guest
/// then, and go on when there is.
fn failed(error: &ExportError) -> Ending {
    match error {
        ExportError::NoSpace { .. } | ExportError::ShuttingDown => Ending::of_export(error, 0),
        _ => aborted(code::THIRD_PARTY_DEVICE_FAILURE),
    }
}

/// What is copied under one set of locks.
const STEP_BYTES: u64 = 16 << 20;
/// What is in memory of a copy that is read and written.
const PIECE_BYTES: u64 = 1 << 20;
