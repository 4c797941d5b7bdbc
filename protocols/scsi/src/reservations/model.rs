//! Reservations against a model that is too simple to be wrong: what is denied is derived from who is registered and
//! who holds what, and the rules that always hold are looked at after every step of a random walk.

use proptest::prelude::*;

use crate::nexus::NexusName;

use super::format;
use super::state::{Kind, Refusal, Request, State};

const KINDS: [Kind; 6] = [
    Kind::WriteExclusive,
    Kind::ExclusiveAccess,
    Kind::WriteExclusiveRegistrantsOnly,
    Kind::ExclusiveAccessRegistrantsOnly,
    Kind::WriteExclusiveAllRegistrants,
    Kind::ExclusiveAccessAllRegistrants,
];

fn nexus(number: usize) -> NexusName {
    NexusName {
        initiator_port: format!("iqn.x:{number},i,0x{number:012x}"),
        target_port: 1,
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    (0..KINDS.len()).prop_map(|index| KINDS[index])
}

fn requests() -> impl Strategy<Value = Request> {
    let key = || 0_u64..4;
    prop_oneof![
        (key(), key(), any::<bool>(), any::<bool>()).prop_map(
            |(key, new_key, ignore_existing, persists)| Request::Register {
                key,
                new_key,
                ignore_existing,
                others: Vec::new(),
                persists,
            }
        ),
        (key(), kinds()).prop_map(|(key, kind)| Request::Reserve { key, kind }),
        (key(), proptest::option::of(kinds()))
            .prop_map(|(key, kind)| Request::Release { key, kind }),
        key().prop_map(|key| Request::Clear { key }),
        (key(), key(), proptest::option::of(kinds())).prop_map(|(key, victim_key, kind)| {
            Request::Preempt {
                key,
                victim_key,
                kind,
            }
        }),
        (key(), key(), 0_usize..4, any::<bool>()).prop_map(|(key, new_key, to, unregister)| {
            Request::Move {
                key,
                new_key,
                to: nexus(to),
                unregister,
                persists: false,
            }
        }),
    ]
}

/// What must hold of every state.
fn check(state: &State) {
    for registrant in &state.registrants {
        assert_ne!(registrant.key, 0, "no key is zero: {state:?}");
        let same = state
            .registrants
            .iter()
            .filter(|other| other.nexus == registrant.nexus)
            .count();
        assert_eq!(same, 1, "registered once: {state:?}");
    }
    if let Some(reservation) = &state.reservation {
        assert!(
            state.key_of(&reservation.holder).is_some(),
            "a reservation has a registrant: {state:?}"
        );
    }
    let holders = (0..4)
        .filter(|&number| state.is_holder(&nexus(number)))
        .count();
    match &state.reservation {
        None => assert_eq!(holders, 0),
        Some(reservation) if reservation.kind.is_for_all() => {
            assert_eq!(holders, state.registrants.len());
        }
        Some(_) => assert_eq!(holders, 1),
    }
    for number in 0..4 {
        let name = nexus(number);
        let code = state.reservation.as_ref().map_or(0, |it| it.kind as u8);
        let admitted = match code {
            0 => true,
            1 | 3 => state.is_holder(&name),
            _ => state.key_of(&name).is_some(),
        };
        let denies_reads = !admitted && matches!(code, 3 | 6 | 8);
        assert_eq!(state.denies(&name), (denies_reads, !admitted), "{state:?}");
    }
}

proptest! {
    #[test]
    fn the_rules_hold_on_every_walk(steps in proptest::collection::vec((0_usize..4, requests()), 0..60)) {
        let mut state = State::default();
        for (number, request) in steps {
            let name = nexus(number);
            let before = state.clone();
            let registered = before.key_of(&name);
            match state.apply(&name, &request) {
                Err(refusal) => {
                    prop_assert_eq!(&state, &before, "a refusal changes nothing");
                    if registered.is_none() && !matches!(request, Request::Register { .. }) {
                        prop_assert_eq!(refusal, Refusal::Conflict);
                    }
                }
                Ok(effects) => {
                    prop_assert!(effects.attentions.iter().all(|(told, _)| *told != name), "nobody is told of its own");
                    for preempted in &effects.preempted {
                        prop_assert!(before.key_of(preempted).is_some() && state.key_of(preempted).is_none());
                    }
                    let plain = matches!(request, Request::Reserve { .. } | Request::Release { .. });
                    prop_assert_eq!(state.generation, before.generation + u32::from(!plain));
                }
            }
            check(&state);
            let mut kept = state.clone();
            kept.generation = 0;
            kept.persists = true;
            prop_assert_eq!(format::decode(&format::encode(&kept)), Ok(kept));
        }
    }

    #[test]
    fn any_bytes_are_a_document_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(format::decode(&bytes).is_err());
    }
}

/// The walks that the standard describes, by name.
#[test]
fn each_kind_is_released_as_the_standard_says() {
    let (one, two) = (nexus(1), nexus(2));
    let register = |key| Request::Register {
        key: 0,
        new_key: key,
        ignore_existing: false,
        others: Vec::new(),
        persists: false,
    };
    for kind in KINDS {
        let mut state = State::default();
        state.apply(&one, &register(1)).unwrap();
        state.apply(&two, &register(2)).unwrap();
        let reserve = Request::Reserve { key: 1, kind };
        state.apply(&one, &reserve).unwrap();
        state.apply(&one, &reserve).expect("again is fine");
        let other = Request::Reserve { key: 2, kind };
        assert_eq!(state.apply(&two, &other).is_ok(), kind.is_for_all());
        let wrong = KINDS.into_iter().find(|other| *other != kind);
        let release = |kind| Request::Release { key: 1, kind };
        assert_eq!(
            state.apply(&one, &release(wrong)),
            Err(Refusal::InvalidRelease)
        );
        let effects = state.apply(&one, &release(Some(kind))).unwrap();
        let told = !matches!(kind, Kind::WriteExclusive | Kind::ExclusiveAccess);
        assert_eq!(!effects.attentions.is_empty(), told, "{kind:?}");
        assert_eq!(state.reservation, None);
    }
}

#[test]
fn a_preempted_holder_loses_all_and_a_last_registrant_takes_its_reservation_along() {
    let (one, two) = (nexus(1), nexus(2));
    let mut state = State::default();
    for (name, key) in [(&one, 1), (&two, 2)] {
        let register = Request::Register {
            key: 0,
            new_key: key,
            ignore_existing: true,
            others: Vec::new(),
            persists: false,
        };
        state.apply(name, &register).unwrap();
    }
    let kind = Kind::WriteExclusive;
    state
        .apply(&one, &Request::Reserve { key: 1, kind })
        .unwrap();
    let preempt = Request::Preempt {
        key: 2,
        victim_key: 1,
        kind: Some(Kind::ExclusiveAccessAllRegistrants),
    };
    let effects = state.apply(&two, &preempt).unwrap();
    assert_eq!(effects.preempted, std::slice::from_ref(&one));
    assert!(state.is_holder(&two) && state.denies(&one) == (true, true));
    let leave = Request::Register {
        key: 2,
        new_key: 0,
        ignore_existing: false,
        others: Vec::new(),
        persists: false,
    };
    state.apply(&two, &leave).unwrap();
    assert_eq!(state.reservation, None);
}
