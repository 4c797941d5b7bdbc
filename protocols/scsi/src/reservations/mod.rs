//! Who may use a unit: persistent reservations, and those of RESERVE (SPC-2).

mod commands;
mod format;
mod state;
mod transport_id;

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::attention::Attention;
use crate::nexus::NexusName;

pub(crate) use commands::{persistent_reserve_in, persistent_reserve_out, release, reserve};
pub(crate) use state::Effects;
use state::{Refusal, Request, State};

#[cfg(test)]
mod model;

/// Where registrations are kept that survive power loss (APTPL). What is stored is opaque bytes, a few at a time.
pub trait ReservationStore: Send + Sync {
    /// What was saved last; `None` if nothing ever was.
    fn load(&self) -> io::Result<Option<Vec<u8>>>;

    /// Replaces what is kept, whole or not at all; on stable storage when it returns.
    fn save(&self, document: &[u8]) -> io::Result<()>;
}

/// The reservations of one unit.
pub(crate) struct Reservations {
    kept: Mutex<Kept>,
    store: Option<Arc<dyn ReservationStore>>,
}

#[derive(Debug, Default)]
pub(crate) struct Kept {
    state: State,
    /// The nexus that holds the unit by RESERVE.
    reserved_by: Option<u64>,
}

/// What a nexus may not do at a unit; zero for nothing, which is the usual case.
pub(crate) type Barred = u8;

/// Barred from commands that respect RESERVE alone.
pub(crate) const QUERY: Barred = 1;
/// Barred from reading.
pub(crate) const READ: Barred = 2;
/// Barred from changing.
pub(crate) const WRITE: Barred = 4;

/// Why a PERSISTENT RESERVE OUT was not done.
pub(crate) enum Failure {
    Refused(Refusal),
    /// It could not be made durable.
    NotSaved,
}

impl Reservations {
    /// Takes over what the store has from before.
    pub(crate) fn open(store: Option<Arc<dyn ReservationStore>>) -> Result<Self, String> {
        let document = match &store {
            Some(store) => store.load().map_err(|error| error.to_string())?,
            None => None,
        };
        let state = match document {
            Some(document) => format::decode(&document).map_err(|error| error.to_string())?,
            None => State::default(),
        };
        Ok(Self {
            kept: Mutex::new(Kept {
                state,
                reserved_by: None,
            }),
            store,
        })
    }

    /// Whether registrations can survive power loss.
    pub(crate) fn can_persist(&self) -> bool {
        self.store.is_some()
    }

    /// A copy of what is registered and reserved.
    pub(crate) fn snapshot(&self) -> State {
        self.kept.lock().state.clone()
    }

    /// Lets `look` see everything while nothing changes.
    pub(crate) fn look(&self, look: impl FnOnce(&Kept)) {
        look(&self.kept.lock());
    }

    /// Does a request and calls `after` with what others have to be told before anybody else's request is done.
    pub(crate) fn apply(
        &self,
        nexus: &NexusName,
        request: &Request,
        after: impl FnOnce(&Kept, Effects),
    ) -> Result<(), Failure> {
        let mut kept = self.kept.lock();
        if kept.reserved_by.is_some() {
            return Err(Failure::Refused(Refusal::Conflict));
        }
        let mut next = kept.state.clone();
        let effects = next.apply(nexus, request).map_err(Failure::Refused)?;
        if let Some(store) = &self.store
            && (next.persists || kept.state.persists)
        {
            let document = if next.persists {
                format::encode(&next)
            } else {
                format::encode(&State::default())
            };
            store.save(&document).map_err(|error| {
                tracing::error!(%error, "reservations could not be saved");
                Failure::NotSaved
            })?;
        }
        kept.state = next;
        after(&kept, effects);
        Ok(())
    }

    /// RESERVE: whether the nexus has the unit now. `after` is called if that changed anything.
    pub(crate) fn reserve(&self, name: &NexusName, id: u64, after: impl FnOnce(&Kept)) -> bool {
        let mut kept = self.kept.lock();
        if !kept.state.registrants.is_empty() {
            // Compatible handling (SPC-4, 5.13.3): registrants are told yes, and the registrations count.
            return kept.state.key_of(name).is_some();
        }
        match kept.reserved_by {
            Some(holder) => holder == id,
            None => {
                kept.reserved_by = Some(id);
                after(&kept);
                true
            }
        }
    }

    /// RELEASE: whether it is not a conflict.
    pub(crate) fn release(&self, name: &NexusName, id: u64, after: impl FnOnce(&Kept)) -> bool {
        let mut kept = self.kept.lock();
        if !kept.state.registrants.is_empty() {
            return kept.state.key_of(name).is_some();
        }
        if kept.reserved_by == Some(id) {
            kept.reserved_by = None;
            after(&kept);
        }
        true
    }

    /// Lets go of RESERVE, whoever holds it, or only if `holder` does.
    pub(crate) fn clear_reserve(&self, holder: Option<u64>, after: impl FnOnce(&Kept)) {
        let mut kept = self.kept.lock();
        if kept.reserved_by.is_some() && (holder.is_none() || kept.reserved_by == holder) {
            kept.reserved_by = None;
            after(&kept);
        }
    }
}

impl Kept {
    /// What the nexus called `name`, number `id`, may not do.
    pub(crate) fn barred(&self, name: &NexusName, id: u64) -> Barred {
        if self.reserved_by.is_some_and(|holder| holder != id) {
            return QUERY | READ | WRITE;
        }
        let (read, write) = self.state.denies(name);
        (if read { READ } else { 0 }) | (if write { WRITE } else { 0 })
    }
}

impl Effects {
    /// What `name` has to be told.
    pub(crate) fn attentions_for(&self, name: &NexusName) -> impl Iterator<Item = Attention> {
        self.attentions
            .iter()
            .filter(move |(told, _)| told == name)
            .map(|(_, attention)| *attention)
    }
}

impl std::fmt::Debug for Reservations {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Reservations")
            .field("kept", &*self.kept.lock())
            .finish_non_exhaustive()
    }
}
