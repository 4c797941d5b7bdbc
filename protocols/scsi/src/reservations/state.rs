//! Persistent reservations as a function of what was and what is asked (SPC-4, 5.13). It knows no locks, no bytes and no
//! initiators that are connected; so a test can walk through all of it.

use crate::attention::Attention;
use crate::nexus::NexusName;
use crate::sense::code;

/// Everything that is registered and reserved at one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// PRGENERATION.
    pub(crate) generation: u32,
    /// Whether registrations survive power loss.
    pub(crate) persists: bool,
    pub(crate) registrants: Vec<Registrant>,
    pub(crate) reservation: Option<Reservation>,
}

/// One registered I_T nexus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registrant {
    pub(crate) nexus: NexusName,
    pub(crate) key: u64,
}

/// The reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) kind: Kind,
    /// Who holds it; of the types for all registrants, who made it.
    pub(crate) holder: NexusName,
}

/// The types of a reservation (SPC-4, table 65).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrantsOnly = 5,
    ExclusiveAccessRegistrantsOnly = 6,
    WriteExclusiveAllRegistrants = 7,
    ExclusiveAccessAllRegistrants = 8,
}

/// What a PERSISTENT RESERVE OUT asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Register {
        key: u64,
        new_key: u64,
        ignore_existing: bool,
        /// Whom else to register: by the ports named, or through all ports of the target.
        others: Vec<NexusName>,
        persists: bool,
    },
    Reserve {
        key: u64,
        kind: Kind,
    },
    Release {
        key: u64,
        kind: Option<Kind>,
    },
    Clear {
        key: u64,
    },
    Preempt {
        key: u64,
        victim_key: u64,
        kind: Option<Kind>,
    },
    Move {
        key: u64,
        new_key: u64,
        to: NexusName,
        unregister: bool,
        persists: bool,
    },
}

/// Why a request was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Conflict,
    /// A kind of reservation that does not exist, where one is needed.
    BadKind,
    /// The service action reservation key must not be what it is.
    BadKey,
    /// REGISTER AND MOVE to itself.
    BadDestination,
    /// The reservation is of another type than is released.
    InvalidRelease,
    /// More registrations than are kept.
    NoRoom,
}

/// What others have to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    pub(crate) attentions: Vec<(NexusName, Attention)>,
    /// Those whose registrations were taken from them.
    pub(crate) preempted: Vec<NexusName>,
}

/// Registrations that one unit keeps.
pub(crate) const REGISTRANTS_MAX: usize = 1024;

impl State {
    /// The key of `nexus`, if it is registered.
    pub(crate) fn key_of(&self, nexus: &NexusName) -> Option<u64> {
        let found = self
            .registrants
            .iter()
            .find(|registrant| registrant.nexus == *nexus);
        found.map(|registrant| registrant.key)
    }

    /// Whether `nexus` holds the reservation: of the types for all registrants, each of them does.
    pub(crate) fn is_holder(&self, nexus: &NexusName) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if reservation.kind.is_for_all() {
                self.key_of(nexus).is_some()
            } else {
                reservation.holder == *nexus
            }
        })
    }

    /// What the reservation denies `nexus`: reading, and writing.
    pub(crate) fn denies(&self, nexus: &NexusName) -> (bool, bool) {
        let Some(reservation) = &self.reservation else {
            return (false, false);
        };
        let admitted = match reservation.kind {
            Kind::WriteExclusive | Kind::ExclusiveAccess => reservation.holder == *nexus,
            _ => self.key_of(nexus).is_some(),
        };
        (!admitted && reservation.kind.is_exclusive(), !admitted)
    }

    /// Does what `nexus` asks for, or changes nothing.
    pub(crate) fn apply(
        &mut self,
        nexus: &NexusName,
        request: &Request,
    ) -> Result<Effects, Refusal> {
        match request {
            Request::Register {
                key,
                new_key,
                ignore_existing,
                others,
                persists,
            } => {
                if !ignore_existing && self.key_of(nexus).unwrap_or(0) != *key {
                    return Err(Refusal::Conflict);
                }
                self.register(nexus, *new_key, others, *persists)
            }
            Request::Reserve { key, kind } => self.reserve(nexus, *key, *kind),
            Request::Release { key, kind } => self.release(nexus, *key, *kind),
            Request::Clear { key } => {
                self.expect_key(nexus, *key)?;
                let mut effects = Effects::default();
                self.tell(&mut effects, nexus, code::RESERVATIONS_PREEMPTED);
                self.registrants.clear();
                self.reservation = None;
                self.step();
                Ok(effects)
            }
            Request::Preempt {
                key,
                victim_key,
                kind,
            } => self.preempt(nexus, *key, *victim_key, *kind),
            Request::Move {
                key,
                new_key,
                to,
                unregister,
                persists,
            } => {
                self.move_to(nexus, *key, *new_key, to)?;
                if *unregister {
                    self.registrants.retain(|other| other.nexus != *nexus);
                }
                self.persists = *persists;
                self.step();
                Ok(Effects::default())
            }
        }
    }

    fn register(
        &mut self,
        nexus: &NexusName,
        new_key: u64,
        others: &[NexusName],
        persists: bool,
    ) -> Result<Effects, Refusal> {
        let mut effects = Effects::default();
        if new_key == 0 {
            for nexus in std::iter::once(nexus).chain(others) {
                self.unregister(nexus, &mut effects);
            }
        } else {
            let new = std::iter::once(nexus)
                .chain(others)
                .filter(|nexus| self.key_of(nexus).is_none())
                .count();
            if self.registrants.len() + new > REGISTRANTS_MAX {
                return Err(Refusal::NoRoom);
            }
            for nexus in std::iter::once(nexus).chain(others) {
                self.set_key(nexus, new_key);
            }
        }
        self.persists = persists;
        self.step();
        Ok(effects)
    }

    fn set_key(&mut self, nexus: &NexusName, key: u64) {
        let found = self
            .registrants
            .iter_mut()
            .find(|registrant| registrant.nexus == *nexus);
        match found {
            Some(registrant) => registrant.key = key,
            None => self.registrants.push(Registrant {
                nexus: nexus.clone(),
                key,
            }),
        }
    }

    /// Takes a registration away, and the reservation with the one that it hung on (SPC-4, 5.13.11.3).
    fn unregister(&mut self, nexus: &NexusName, effects: &mut Effects) {
        let held = self.is_holder(nexus);
        self.registrants.retain(|other| other.nexus != *nexus);
        let Some(reservation) = self.reservation.as_mut().filter(|_| held) else {
            return;
        };
        if reservation.kind.is_for_all()
            && let Some(next) = self.registrants.first()
        {
            reservation.holder = next.nexus.clone();
            return;
        }
        let tells = reservation.kind.is_for_registrants();
        self.reservation = None;
        if tells {
            self.tell(effects, nexus, code::RESERVATIONS_RELEASED);
        }
    }

    fn reserve(&mut self, nexus: &NexusName, key: u64, kind: Kind) -> Result<Effects, Refusal> {
        self.expect_key(nexus, key)?;
        match &self.reservation {
            Some(reservation) if !self.is_holder(nexus) || reservation.kind != kind => {
                return Err(Refusal::Conflict);
            }
            Some(_) => {}
            None => {
                self.reservation = Some(Reservation {
                    kind,
                    holder: nexus.clone(),
                });
            }
        }
        Ok(Effects::default())
    }

    fn release(
        &mut self,
        nexus: &NexusName,
        key: u64,
        kind: Option<Kind>,
    ) -> Result<Effects, Refusal> {
        self.expect_key(nexus, key)?;
        let mut effects = Effects::default();
        if !self.is_holder(nexus) {
            return Ok(effects);
        }
        let Some(reservation) = self.reservation.take() else {
            return Ok(effects);
        };
        if Some(reservation.kind) != kind {
            self.reservation = Some(reservation);
            return Err(Refusal::InvalidRelease);
        }
        if reservation.kind.is_for_registrants() {
            self.tell(&mut effects, nexus, code::RESERVATIONS_RELEASED);
        }
        Ok(effects)
    }

    fn preempt(
        &mut self,
        nexus: &NexusName,
        key: u64,
        victim_key: u64,
        kind: Option<Kind>,
    ) -> Result<Effects, Refusal> {
        self.expect_key(nexus, key)?;
        let mut effects = Effects::default();
        let for_all = self
            .reservation
            .as_ref()
            .is_some_and(|reservation| reservation.kind.is_for_all());
        let holder_key = self
            .reservation
            .as_ref()
            .and_then(|reservation| self.key_of(&reservation.holder));
        let takes_over = if for_all {
            victim_key == 0
        } else {
            holder_key.is_some_and(|holder_key| holder_key == victim_key)
        };
        if takes_over {
            let kind = kind.ok_or(Refusal::BadKind)?;
            let before = self
                .reservation
                .as_ref()
                .map(|reservation| reservation.kind);
            let keeps =
                |other: &Registrant| other.nexus == *nexus || (!for_all && other.key != victim_key);
            self.drop_registrants(nexus, keeps, &mut effects);
            if before != Some(kind) {
                self.tell(&mut effects, nexus, code::RESERVATIONS_RELEASED);
            }
            self.reservation = Some(Reservation {
                kind,
                holder: nexus.clone(),
            });
        } else {
            if victim_key == 0 {
                return Err(Refusal::BadKey);
            }
            if !self.registrants.iter().any(|other| other.key == victim_key) {
                return Err(Refusal::Conflict);
            }
            let held = self.reservation.is_some();
            self.drop_registrants(nexus, |other| other.key != victim_key, &mut effects);
            self.settle_reservation(held);
        }
        self.step();
        Ok(effects)
    }

    /// After registrants were dropped under a reservation for all of them: it stays while there are any.
    fn settle_reservation(&mut self, held: bool) {
        let gone = held
            && self
                .reservation
                .as_ref()
                .is_some_and(|reservation| self.key_of(&reservation.holder).is_none());
        if !gone {
            return;
        }
        match (self.registrants.first(), self.reservation.as_mut()) {
            (Some(next), Some(reservation)) => reservation.holder = next.nexus.clone(),
            _ => self.reservation = None,
        }
    }

    fn drop_registrants(
        &mut self,
        by: &NexusName,
        keeps: impl Fn(&Registrant) -> bool,
        effects: &mut Effects,
    ) {
        self.registrants.retain(|other| {
            let kept = keeps(other);
            if !kept && other.nexus != *by {
                let attention = code::REGISTRATIONS_PREEMPTED;
                effects.attentions.push((other.nexus.clone(), attention));
                effects.preempted.push(other.nexus.clone());
            }
            kept
        });
    }

    fn move_to(
        &mut self,
        nexus: &NexusName,
        key: u64,
        new_key: u64,
        to: &NexusName,
    ) -> Result<(), Refusal> {
        self.expect_key(nexus, key)?;
        let holds_alone = self.reservation.as_ref().is_some_and(|reservation| {
            !reservation.kind.is_for_all() && reservation.holder == *nexus
        });
        if !holds_alone {
            return Err(Refusal::Conflict);
        }
        if new_key == 0 {
            return Err(Refusal::BadKey);
        }
        if to == nexus {
            return Err(Refusal::BadDestination);
        }
        if self.key_of(to).is_none() && self.registrants.len() >= REGISTRANTS_MAX {
            return Err(Refusal::NoRoom);
        }
        self.set_key(to, new_key);
        if let Some(reservation) = &mut self.reservation {
            reservation.holder = to.clone();
        }
        Ok(())
    }

    fn expect_key(&self, nexus: &NexusName, key: u64) -> Result<(), Refusal> {
        if self.key_of(nexus) == Some(key) {
            Ok(())
        } else {
            Err(Refusal::Conflict)
        }
    }

    /// Notes `attention` for every registrant but `by`.
    fn tell(&self, effects: &mut Effects, by: &NexusName, attention: Attention) {
        for registrant in self.registrants.iter().filter(|other| other.nexus != *by) {
            effects
                .attentions
                .push((registrant.nexus.clone(), attention));
        }
    }

    fn step(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

impl Kind {
    /// The type of that number; `None` if there is none.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [
            Self::WriteExclusive,
            Self::ExclusiveAccess,
            Self::WriteExclusiveRegistrantsOnly,
            Self::ExclusiveAccessRegistrantsOnly,
            Self::WriteExclusiveAllRegistrants,
            Self::ExclusiveAccessAllRegistrants,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == code)
    }

    /// Whether every registrant holds it.
    pub(crate) fn is_for_all(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// Whether registrants are admitted without holding it.
    fn is_for_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether reading is denied, too.
    fn is_exclusive(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess
                | Self::ExclusiveAccessRegistrantsOnly
                | Self::ExclusiveAccessAllRegistrants
        )
    }
}
