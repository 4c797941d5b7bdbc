//! The sessions of a server: how many there are, which takes the place of which, and who are neighbours.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::session::{Control, Neighbours, SessionName};

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    per_initiator: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_name: HashMap<SessionName, Entry>,
    last_tsih: u16,
}

#[derive(Debug)]
struct Entry {
    tsih: u16,
    /// Set once the session has begun.
    control: Option<UnboundedSender<Control>>,
    cut: CancellationToken,
    ended: CancellationToken,
}

/// A session's place, until it is dropped: then whoever waits for its end goes on.
#[derive(Debug)]
pub(super) struct Place {
    sessions: Arc<Sessions>,
    name: SessionName,
    pub(super) tsih: u16,
    /// Tells the session to end at once.
    pub(super) cut: CancellationToken,
}

/// Why there is no place.
#[derive(Debug)]
pub(super) enum NoPlace {
    /// There is a session of that name. It has been told to end; the token tells when it has.
    Taken(CancellationToken),
    /// The initiator has as many as it may.
    TooMany,
}

impl Sessions {
    pub(super) fn new(per_initiator: usize) -> Self {
        Self {
            per_initiator,
            state: Mutex::default(),
        }
    }

    /// Takes the place of a session.
    pub(super) fn take(self: &Arc<Self>, name: &SessionName) -> Result<Place, NoPlace> {
        let mut state = self.state.lock();
        if let Some(entry) = state.by_name.get(name) {
            entry.cut.cancel();
            return Err(NoPlace::Taken(entry.ended.clone()));
        }
        let of_initiator = |other: &&SessionName| other.initiator == name.initiator;
        if state.by_name.keys().filter(of_initiator).count() >= self.per_initiator
            || state.by_name.len() >= usize::from(u16::MAX) - 1
        {
            return Err(NoPlace::TooMany);
        }
        let tsih = state.next_tsih();
        let cut = CancellationToken::new();
        let entry = Entry {
            tsih,
            control: None,
            cut: cut.clone(),
            ended: CancellationToken::new(),
        };
        state.by_name.insert(name.clone(), entry);
        Ok(Place {
            sessions: Arc::clone(self),
            name: name.clone(),
            tsih,
            cut,
        })
    }

    /// Whether there is a session of this handle.
    pub(super) fn exists(&self, tsih: u16) -> bool {
        let state = self.state.lock();
        state.by_name.values().any(|entry| entry.tsih == tsih)
    }

    /// How many sessions a target has.
    pub(super) fn of_target(&self, target: &str) -> usize {
        let state = self.state.lock();
        state
            .by_name
            .iter()
            .filter(|(name, entry)| name.target == target && entry.control.is_some())
            .count()
    }

    /// Sends a message to every session.
    pub(super) fn tell_all(&self, message: &dyn Fn() -> Control) {
        for entry in self.state.lock().by_name.values() {
            entry.tell(message);
        }
    }
}

impl State {
    fn next_tsih(&mut self) -> u16 {
        loop {
            self.last_tsih = self.last_tsih.wrapping_add(1);
            let tsih = self.last_tsih;
            // 0 asks for a new session.
            if tsih != 0 && self.by_name.values().all(|entry| entry.tsih != tsih) {
                return tsih;
            }
        }
    }
}

impl Entry {
    fn tell(&self, message: &dyn Fn() -> Control) {
        if let Some(control) = &self.control {
            // A session that is ending needs no message.
            drop(control.send(message()));
        }
    }
}

impl Place {
    /// The session has begun and takes messages.
    pub(super) fn begin(&self, control: UnboundedSender<Control>) {
        if let Some(entry) = self.sessions.state.lock().by_name.get_mut(&self.name) {
            entry.control = Some(control);
        }
    }

    /// The other sessions of the same target.
    pub(super) fn neighbours(&self) -> impl Neighbours + use<> {
        Others {
            sessions: Arc::clone(&self.sessions),
            name: self.name.clone(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = self.sessions.state.lock().by_name.remove(&self.name);
        if let Some(entry) = removed {
            entry.ended.cancel();
        }
    }
}

struct Others {
    sessions: Arc<Sessions>,
    name: SessionName,
}

impl Neighbours for Others {
    fn tell(&self, message: &dyn Fn() -> Control) {
        let state = self.sessions.state.lock();
        for (name, entry) in &state.by_name {
            if name.target == self.name.target && *name != self.name {
                entry.tell(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(initiator: &str, isid: u8, portal_group: u16) -> SessionName {
        SessionName {
            target: "iqn.2026-01.t:a".to_owned(),
            initiator: initiator.to_owned(),
            isid: [isid; 6],
            portal_group,
        }
    }

    #[test]
    fn a_session_takes_the_place_of_another_when_that_has_ended() {
        let sessions = Arc::new(Sessions::new(4));
        let first = sessions.take(&name("a", 1, 1)).unwrap();
        assert!(sessions.exists(first.tsih) && !sessions.exists(first.tsih + 1));
        let other_portal = sessions.take(&name("a", 1, 2)).unwrap();
        assert_ne!(other_portal.tsih, first.tsih);
        let Err(NoPlace::Taken(ended)) = sessions.take(&name("a", 1, 1)) else {
            panic!("the place is taken");
        };
        assert!(first.cut.is_cancelled() && !ended.is_cancelled());
        assert!(!other_portal.cut.is_cancelled());
        drop(first);
        assert!(ended.is_cancelled());
        drop(sessions.take(&name("a", 1, 1)).unwrap());
    }

    #[test]
    fn an_initiator_has_so_many_and_no_more() {
        let sessions = Arc::new(Sessions::new(2));
        let places: Vec<Place> = (1..=2)
            .map(|isid| sessions.take(&name("a", isid, 1)).unwrap())
            .collect();
        assert!(matches!(
            sessions.take(&name("a", 3, 1)),
            Err(NoPlace::TooMany)
        ));
        drop(sessions.take(&name("b", 3, 1)).unwrap());
        drop(places);
        drop(sessions.take(&name("a", 3, 1)).unwrap());
    }

    #[test]
    fn messages_reach_the_others_of_the_target() {
        let sessions = Arc::new(Sessions::new(4));
        let places: Vec<Place> = (1..=2)
            .map(|isid| sessions.take(&name("a", isid, 1)).unwrap())
            .collect();
        let mut receivers: Vec<_> = places
            .iter()
            .map(|place| {
                let (control, receiver) = tokio::sync::mpsc::unbounded_channel();
                place.begin(control);
                receiver
            })
            .collect();
        assert_eq!(sessions.of_target("iqn.2026-01.t:a"), 2);
        places[0].neighbours().tell(&|| Control::Reset);
        assert!(receivers[0].try_recv().is_err());
        assert!(matches!(receivers[1].try_recv(), Ok(Control::Reset)));
    }
}
