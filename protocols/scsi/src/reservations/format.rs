//! What is kept of registrations that survive power loss: `docs/formats/reservations.md`.

use std::collections::HashSet;

use crc_fast::crc32_iscsi;

use crate::nexus::NexusName;

use super::state::{Kind, REGISTRANTS_MAX, Registrant, Reservation, State};
use super::transport_id::NAME_BYTES_MAX;

/// Why a document cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it does not begin as one")]
    Magic,
    #[error("version {0} is not known here")]
    Version(u32),
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its content makes no sense")]
    Content,
}

const MAGIC: [u8; 8] = *b"HFPRSV\r\n";
const VERSION: u32 = 1;
/// HOLDER where nobody holds a reservation.
const NOBODY: u16 = u16::MAX;

/// The document for `state`.
pub(crate) fn encode(state: &State) -> Vec<u8> {
    let reservation = state.reservation.as_ref();
    let holder = reservation
        .and_then(|reservation| {
            let mut registrants = state.registrants.iter();
            registrants.position(|registrant| registrant.nexus == reservation.holder)
        })
        .and_then(|position| u16::try_from(position).ok())
        .unwrap_or(NOBODY);
    let kind = reservation.map_or(0, |reservation| reservation.kind as u8);
    let count = u16::try_from(state.registrants.len()).unwrap_or(NOBODY);
    let mut content = vec![kind, 0];
    content.extend_from_slice(&holder.to_le_bytes());
    content.extend_from_slice(&count.to_le_bytes());
    content.extend_from_slice(&[0; 2]);
    for registrant in &state.registrants {
        let name = registrant.nexus.initiator_port.as_bytes();
        content.extend_from_slice(&registrant.key.to_le_bytes());
        content.extend_from_slice(&registrant.nexus.target_port.to_le_bytes());
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        content.extend_from_slice(&length.to_le_bytes());
        content.extend_from_slice(name);
    }
    let mut document = MAGIC.to_vec();
    document.extend_from_slice(&VERSION.to_le_bytes());
    document.extend_from_slice(&crc32_iscsi(&content).to_le_bytes());
    document.extend_from_slice(&content);
    document
}

/// Reads a document back, to the last byte.
pub(crate) fn decode(document: &[u8]) -> Result<State, Unreadable> {
    let mut rest = Rest(document);
    if rest.take::<8>() != Ok(MAGIC) {
        return Err(Unreadable::Magic);
    }
    let version = u32::from_le_bytes(rest.take()?);
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    if u32::from_le_bytes(rest.take()?) != crc32_iscsi(rest.0) {
        return Err(Unreadable::Checksum);
    }
    let [kind, _] = rest.take()?;
    let holder = u16::from_le_bytes(rest.take()?);
    let count = usize::from(u16::from_le_bytes(rest.take()?));
    rest.take::<2>()?;
    if count > REGISTRANTS_MAX || count > document.len() / 12 {
        return Err(Unreadable::Content);
    }
    let mut registrants = Vec::with_capacity(count);
    for _ in 0..count {
        registrants.push(registrant(&mut rest)?);
    }
    let names: HashSet<&NexusName> = registrants.iter().map(|one| &one.nexus).collect();
    if !rest.0.is_empty() || names.len() != count {
        return Err(Unreadable::Content);
    }
    let holder = registrants.get(usize::from(holder));
    let reservation = match (Kind::from_code(kind), holder) {
        (Some(kind), Some(holder)) => Some(Reservation {
            kind,
            holder: holder.nexus.clone(),
        }),
        (None, None) if kind == 0 => None,
        _ => return Err(Unreadable::Content),
    };
    Ok(State {
        generation: 0,
        persists: true,
        registrants,
        reservation,
    })
}

fn registrant(rest: &mut Rest<'_>) -> Result<Registrant, Unreadable> {
    let key = u64::from_le_bytes(rest.take()?);
    let target_port = u16::from_le_bytes(rest.take()?);
    let length = usize::from(u16::from_le_bytes(rest.take()?));
    if key == 0 || length > NAME_BYTES_MAX {
        return Err(Unreadable::Content);
    }
    let (name, after) = rest.0.split_at_checked(length).ok_or(Unreadable::Content)?;
    rest.0 = after;
    let initiator_port = String::from_utf8(name.to_vec()).map_err(|_| Unreadable::Content)?;
    Ok(Registrant {
        nexus: NexusName {
            initiator_port,
            target_port,
        },
        key,
    })
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Unreadable::Content)?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> State {
        let nexus = |name: &str, target_port| NexusName {
            initiator_port: name.into(),
            target_port,
        };
        State {
            generation: 0,
            persists: true,
            registrants: vec![
                Registrant {
                    nexus: nexus("iqn.x:a,i,0x1", 1),
                    key: 7,
                },
                Registrant {
                    nexus: nexus("iqn.x:b,i,0x1", 2),
                    key: u64::MAX,
                },
            ],
            reservation: Some(Reservation {
                kind: Kind::WriteExclusiveRegistrantsOnly,
                holder: nexus("iqn.x:b,i,0x1", 2),
            }),
        }
    }

    #[test]
    fn documents_come_back() {
        let mut state = sample();
        let document = encode(&state);
        assert_eq!(document.len(), 24 + 2 * (12 + 13));
        assert_eq!(decode(&document), Ok(state.clone()));
        state.reservation = None;
        assert_eq!(decode(&encode(&state)), Ok(state));
        let empty = State {
            persists: true,
            ..State::default()
        };
        assert_eq!(decode(&encode(&empty)), Ok(empty));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let document = encode(&sample());
        for at in 0..document.len() {
            let mut bad = document.clone();
            bad[at] ^= 0x10;
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&document[..at]).is_err(), "cut at {at}");
        }
        let mut longer = document.clone();
        longer.push(0);
        assert!(decode(&longer).is_err());
    }

    #[test]
    fn the_document_of_version_1_is_read() {
        let document = include_bytes!("../../tests/fixtures/reservations-v1.bin");
        assert_eq!(decode(document), Ok(sample()));
    }
}
