//! PERSISTENT RESERVE IN and OUT (SPC-4, 6.15 and 6.16), RESERVE and RELEASE (SPC-2, 7.21).

use export::Segments;

use crate::nexus::{Call, NexusName};
use crate::primary::cut_to;
use crate::response::{Ending, Outcome, Status};
use crate::sense::{Sense, SenseKey, code};
use crate::wire;

use super::state::{Kind, Refusal, Request, State};
use super::{Failure, transport_id};

/// PERSISTENT RESERVE IN, all service actions.
pub(crate) fn persistent_reserve_in(call: &Call<'_>) -> Outcome {
    let reservations = &call.unit.reservations;
    let state = reservations.snapshot();
    let answer = match call.cdb.service_action() {
        0x00 => read_keys(&state),
        0x01 => read_reservation(&state),
        0x02 => capabilities(&state, reservations.can_persist()),
        _ => read_full_status(&state),
    };
    Ok(cut_to(answer, call.cdb.u16(7).into()))
}

fn read_keys(state: &State) -> Vec<u8> {
    let keys = state
        .registrants
        .iter()
        .flat_map(|registrant| registrant.key.to_be_bytes());
    with_header(state, keys.collect())
}

fn read_reservation(state: &State) -> Vec<u8> {
    let Some(reservation) = &state.reservation else {
        return with_header(state, Vec::new());
    };
    // One that all hold has no key of its own.
    let key = if reservation.kind.is_for_all() {
        0
    } else {
        state.key_of(&reservation.holder).unwrap_or(0)
    };
    let mut content = vec![0; 16];
    wire::put(&mut content, 0, &key.to_be_bytes());
    wire::put(&mut content, 13, &[reservation.kind as u8]);
    with_header(state, content)
}

fn capabilities(state: &State, can_persist: bool) -> Vec<u8> {
    // CRH, SIP_C, ATP_C, and PTPL_C if there is a store.
    let flags = 0x1c | u8::from(can_persist);
    // TMV, PTPL_A; then all six types.
    let now = 0x80 | u8::from(state.persists);
    vec![0, 8, flags, now, 0xea, 0x01, 0, 0]
}

fn read_full_status(state: &State) -> Vec<u8> {
    let mut content = Vec::new();
    for registrant in &state.registrants {
        let mut descriptor = vec![0; 24];
        wire::put(&mut descriptor, 0, &registrant.key.to_be_bytes());
        if let Some(reservation) = &state.reservation
            && state.is_holder(&registrant.nexus)
        {
            wire::put(&mut descriptor, 12, &[0x01, reservation.kind as u8]);
        }
        let port = registrant.nexus.target_port.to_be_bytes();
        wire::put(&mut descriptor, 18, &port);
        let id = transport_id::encode(&registrant.nexus.initiator_port);
        wire::put(&mut descriptor, 20, &wire::to_u32(id.len()).to_be_bytes());
        content.extend_from_slice(&descriptor);
        content.extend_from_slice(&id);
    }
    with_header(state, content)
}

fn with_header(state: &State, content: Vec<u8>) -> Vec<u8> {
    let mut answer = state.generation.to_be_bytes().to_vec();
    answer.extend_from_slice(&wire::to_u32(content.len()).to_be_bytes());
    answer.extend_from_slice(&content);
    answer
}

/// PERSISTENT RESERVE OUT, all service actions.
pub(crate) fn persistent_reserve_out(call: &Call<'_>) -> Outcome {
    let request = request(call)?;
    // What is to survive power loss goes to a disk first.
    if call.unit.reservations.can_persist() {
        call.must_not_wait()?;
    }
    let aborts = call.cdb.service_action() == 0x05;
    let name = &call.nexus.name;
    let done = call
        .unit
        .reservations
        .apply(name, &request, |kept, effects| {
            call.unit.reservations_changed(kept, &effects, aborts);
        });
    match done {
        Ok(()) => Ok(Segments::new()),
        Err(Failure::NotSaved) => {
            let sense = Sense::new(SenseKey::HardwareError, code::INTERNAL_TARGET_FAILURE);
            Err(sense.into())
        }
        Err(Failure::Refused(refusal)) => Err(ending(refusal)),
    }
}

fn ending(refusal: Refusal) -> Ending {
    match refusal {
        Refusal::Conflict => Ending::Status(Status::ReservationConflict),
        Refusal::BadKind => Sense::invalid_field_in_cdb(2, Some(3)).into(),
        Refusal::BadKey => Sense::invalid_field_in_parameters(8, None).into(),
        Refusal::BadDestination => Sense::invalid_field_in_parameters(24, None).into(),
        Refusal::InvalidRelease => {
            Sense::illegal(code::INVALID_RELEASE_OF_PERSISTENT_RESERVATION).into()
        }
        Refusal::NoRoom => Sense::illegal(code::INSUFFICIENT_REGISTRATION_RESOURCES).into(),
    }
}

/// Reads CDB and parameter list.
fn request(call: &Call<'_>) -> Result<Request, Ending> {
    let action = call.cdb.service_action();
    let list_bytes = call.cdb.u32(5);
    let list = call.parameters(list_bytes)?;
    let (key, service_key) = (wire::u64_at(&list, 0), wire::u64_at(&list, 8));
    let named = list_bytes > 24 && matches!(action, 0x00 | 0x07);
    if list_bytes < 24 || (list_bytes > 24 && !named) {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    if matches!(action, 0x01 | 0x02 | 0x04 | 0x05) && call.cdb.u8(2) >> 4 != 0 {
        return Err(Sense::invalid_field_in_cdb(2, Some(7)).into());
    }
    let kind = Kind::from_code(call.cdb.u8(2) & 0x0f);
    let needed_kind = || kind.ok_or(Ending::from(Sense::invalid_field_in_cdb(2, Some(3))));
    match action {
        0x00 | 0x06 => register(call, &list, key, service_key),
        0x01 => Ok(Request::Reserve {
            key,
            kind: needed_kind()?,
        }),
        0x02 => Ok(Request::Release { key, kind }),
        0x03 => Ok(Request::Clear { key }),
        0x04 | 0x05 => Ok(Request::Preempt {
            key,
            victim_key: service_key,
            kind,
        }),
        _ => register_and_move(call, &list, key, service_key),
    }
}

/// REGISTER, and REGISTER AND IGNORE EXISTING KEY.
fn register(call: &Call<'_>, list: &[u8], key: u64, new_key: u64) -> Result<Request, Ending> {
    let ignore_existing = call.cdb.service_action() == 0x06;
    let flags = wire::u8_at(list, 20);
    let (named, all_ports, persists) = (flags & 0x08 != 0, flags & 0x04 != 0, flags & 0x01 != 0);
    if persists && !call.unit.reservations.can_persist() {
        return Err(Sense::invalid_field_in_parameters(20, Some(0)).into());
    }
    let registered = call
        .unit
        .reservations
        .snapshot()
        .key_of(&call.nexus.name)
        .is_some();
    // Naming others is for newcomers alone (SPC-4, 5.13.7).
    if named && (ignore_existing || registered) {
        return Err(Sense::invalid_field_in_parameters(20, Some(3)).into());
    }
    if !named && list.len() > 24 {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let mut initiators = vec![call.nexus.name.initiator_port.clone()];
    if named {
        initiators.extend(named_initiators(list)?);
    }
    let mut ports = vec![call.nexus.name.target_port];
    if all_ports {
        let all = call.target.identity().ports.iter();
        ports.extend(all.map(|port| port.relative_id));
    }
    let mut others = Vec::new();
    for initiator_port in &initiators {
        for &target_port in &ports {
            let name = NexusName {
                initiator_port: initiator_port.clone(),
                target_port,
            };
            if name != call.nexus.name && !others.contains(&name) {
                others.push(name);
            }
        }
    }
    Ok(Request::Register {
        key,
        new_key,
        ignore_existing,
        others,
        persists,
    })
}

/// The TransportIDs behind the parameter list of a REGISTER with SPEC_I_PT.
fn named_initiators(list: &[u8]) -> Result<Vec<String>, Ending> {
    let length = wire::to_usize(wire::u32_at(list, 24).into());
    let ids = list.get(28..).unwrap_or_default();
    if ids.len() != length || length > NAMED_BYTES_MAX {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let mut names = Vec::new();
    let mut at = 0;
    while at < ids.len() {
        let rest = ids.get(at..).unwrap_or_default();
        let (name, length) = transport_id::decode(rest, wire::to_u16(28 + at))?;
        names.push(name);
        at += length;
    }
    Ok(names)
}

/// More initiators than a cluster has are not registered at once.
const NAMED_BYTES_MAX: usize = 16 * 1024;

fn register_and_move(
    call: &Call<'_>,
    list: &[u8],
    key: u64,
    new_key: u64,
) -> Result<Request, Ending> {
    let flags = wire::u8_at(list, 17);
    let persists = flags & 0x01 != 0;
    if persists && !call.unit.reservations.can_persist() {
        return Err(Sense::invalid_field_in_parameters(17, Some(0)).into());
    }
    let target_port = wire::u16_at(list, 18);
    let ports = &call.target.identity().ports;
    if !ports.iter().any(|port| port.relative_id == target_port) {
        return Err(Sense::invalid_field_in_parameters(18, None).into());
    }
    let length = wire::to_usize(wire::u32_at(list, 20).into());
    let id = list.get(24..).unwrap_or_default();
    let (initiator_port, taken) = transport_id::decode(id, 24)?;
    if taken != length || length != id.len() {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    Ok(Request::Move {
        key,
        new_key,
        to: NexusName {
            initiator_port,
            target_port,
        },
        unregister: flags & 0x02 != 0,
        persists,
    })
}

/// RESERVE of both sizes.
pub(crate) fn reserve(call: &Call<'_>) -> Outcome {
    let (name, id) = (&call.nexus.name, call.nexus.id);
    let done = call.unit.reservations.reserve(name, id, |kept| {
        call.unit.access_changed(kept);
    });
    done_or_conflict(done)
}

/// RELEASE of both sizes.
pub(crate) fn release(call: &Call<'_>) -> Outcome {
    let (name, id) = (&call.nexus.name, call.nexus.id);
    let done = call.unit.reservations.release(name, id, |kept| {
        call.unit.access_changed(kept);
    });
    done_or_conflict(done)
}

fn done_or_conflict(done: bool) -> Outcome {
    if done {
        Ok(Segments::new())
    } else {
        Err(Ending::Status(Status::ReservationConflict))
    }
}
