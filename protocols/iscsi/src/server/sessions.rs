//! The sessions of a server: how many there are, which takes the place of which, and who are neighbours.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use scsi::Nexus;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::error::LoginFailure;
use crate::session::{Control, FullFeature, Neighbours, SessionName};

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
    /// The number of its one connection.
    cid: u16,
    /// Set once the session has begun.
    control: Option<UnboundedSender<Control>>,
    /// The same, unless it is a discovery session.
    nexus: Option<Weak<Nexus>>,
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

/// What is left of a connection in whose place another comes.
#[derive(Debug)]
pub(super) struct Replaced {
    /// Tells when nothing of it runs any more.
    pub(super) ended: CancellationToken,
    /// What the initiator still is to the target.
    pub(super) nexus: Option<Arc<Nexus>>,
}

/// Why there is no place.
#[derive(Debug)]
pub(super) enum NoPlace {
    /// There is a session of that name. It has been told to end; the token tells when it has.
    Taken(CancellationToken),
    /// Another login was first, so that the session whose place was asked for is no more.
    Gone,
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

    /// Ends the connection `cid` of the session that has this name and handle, so that another of that number can take
    /// its place.
    pub(super) fn replace(
        &self,
        name: &SessionName,
        cid: u16,
        tsih: u16,
    ) -> Result<Replaced, LoginFailure> {
        let state = self.state.lock();
        match state.by_name.get(name) {
            Some(entry) if entry.tsih == tsih && entry.cid == cid => {
                entry.cut.cancel();
                Ok(Replaced {
                    ended: entry.ended.clone(),
                    nexus: entry.nexus.as_ref().and_then(Weak::upgrade),
                })
            }
            Some(entry) if entry.tsih == tsih => Err(LoginFailure::TooManyConnections),
            _ => Err(LoginFailure::NoSession(tsih)),
        }
    }

    /// Takes the place of a session, under the handle `tsih` if it had that before its connection ended.
    pub(super) fn take(
        self: &Arc<Self>,
        name: &SessionName,
        cid: u16,
        tsih: Option<u16>,
    ) -> Result<Place, NoPlace> {
        let mut state = self.state.lock();
        if let Some(entry) = state.by_name.get(name) {
            if tsih.is_some() {
                return Err(NoPlace::Gone);
            }
            entry.cut.cancel();
            return Err(NoPlace::Taken(entry.ended.clone()));
        }
        let of_initiator = |other: &&SessionName| other.initiator == name.initiator;
        if state.by_name.keys().filter(of_initiator).count() >= self.per_initiator
            || state.by_name.len() >= usize::from(u16::MAX) - 1
        {
            return Err(NoPlace::TooMany);
        }
        let free = |tsih: &u16| state.by_name.values().all(|entry| entry.tsih != *tsih);
        let tsih = match tsih.filter(free) {
            Some(tsih) => tsih,
            None => state.next_tsih(),
        };
        let cut = CancellationToken::new();
        let entry = Entry {
            tsih,
            cid,
            control: None,
            nexus: None,
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
    pub(super) fn begin(&self, session: &FullFeature) {
        self.listen(session.control(), session.nexus().map(Arc::downgrade));
    }

    fn listen(&self, control: UnboundedSender<Control>, nexus: Option<Weak<Nexus>>) {
        if let Some(entry) = self.sessions.state.lock().by_name.get_mut(&self.name) {
            entry.control = Some(control);
            entry.nexus = nexus;
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
        let first = sessions.take(&name("a", 1, 1), 1, None).unwrap();
        assert!(sessions.exists(first.tsih) && !sessions.exists(first.tsih + 1));
        let other_portal = sessions.take(&name("a", 1, 2), 1, None).unwrap();
        assert_ne!(other_portal.tsih, first.tsih);
        let Err(NoPlace::Taken(ended)) = sessions.take(&name("a", 1, 1), 1, None) else {
            panic!("the place is taken");
        };
        assert!(first.cut.is_cancelled() && !ended.is_cancelled());
        assert!(!other_portal.cut.is_cancelled());
        drop(first);
        assert!(ended.is_cancelled());
        drop(sessions.take(&name("a", 1, 1), 1, None).unwrap());
    }

    #[test]
    fn a_connection_is_replaced_by_one_of_its_number() {
        let sessions = Arc::new(Sessions::new(4));
        let first = sessions.take(&name("a", 1, 1), 7, None).unwrap();
        let tsih = first.tsih;
        let check = |name: SessionName, cid, tsih, wanted| {
            assert_eq!(sessions.replace(&name, cid, tsih).unwrap_err(), wanted);
            assert!(!first.cut.is_cancelled());
        };
        check(name("a", 1, 1), 8, tsih, LoginFailure::TooManyConnections);
        check(
            name("a", 1, 1),
            7,
            tsih + 1,
            LoginFailure::NoSession(tsih + 1),
        );
        check(name("a", 2, 1), 7, tsih, LoginFailure::NoSession(tsih));
        check(name("b", 1, 1), 7, tsih, LoginFailure::NoSession(tsih));
        let replaced = sessions.replace(&name("a", 1, 1), 7, tsih).unwrap();
        assert!(first.cut.is_cancelled() && !replaced.ended.is_cancelled());
        let other = sessions.take(&name("b", 1, 1), 7, None).unwrap();
        drop(first);
        assert!(replaced.ended.is_cancelled());
        let second = sessions.take(&name("a", 1, 1), 7, Some(tsih)).unwrap();
        assert_eq!(second.tsih, tsih);
        // One more that has waited for the same end has come too late, and leaves the session alone.
        let late = sessions.take(&name("a", 1, 1), 7, Some(tsih));
        assert!(matches!(late, Err(NoPlace::Gone)) && !second.cut.is_cancelled());
        let third = sessions
            .take(&name("c", 1, 1), 7, Some(other.tsih))
            .unwrap();
        assert_ne!(third.tsih, other.tsih, "a handle is one session's");
    }

    #[test]
    fn an_initiator_has_so_many_and_no_more() {
        let sessions = Arc::new(Sessions::new(2));
        let places: Vec<Place> = (1..=2)
            .map(|isid| sessions.take(&name("a", isid, 1), 1, None).unwrap())
            .collect();
        assert!(matches!(
            sessions.take(&name("a", 3, 1), 1, None),
            Err(NoPlace::TooMany)
        ));
        drop(sessions.take(&name("b", 3, 1), 1, None).unwrap());
        drop(places);
        drop(sessions.take(&name("a", 3, 1), 1, None).unwrap());
    }

    #[test]
    fn messages_reach_the_others_of_the_target() {
        let sessions = Arc::new(Sessions::new(4));
        let places: Vec<Place> = (1..=2)
            .map(|isid| sessions.take(&name("a", isid, 1), 1, None).unwrap())
            .collect();
        let mut receivers: Vec<_> = places
            .iter()
            .map(|place| {
                let (control, receiver) = tokio::sync::mpsc::unbounded_channel();
                place.listen(control, None);
                receiver
            })
            .collect();
        assert_eq!(sessions.of_target("iqn.2026-01.t:a"), 2);
        places[0].neighbours().tell(&|| Control::Reset);
        assert!(receivers[0].try_recv().is_err());
        assert!(matches!(receivers[1].try_recv(), Ok(Control::Reset)));
    }
}
