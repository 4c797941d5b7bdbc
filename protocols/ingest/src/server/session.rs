//! Sessions, which outlive their connections while a stream is on its way in.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crc_fast::{CrcAlgorithm, Digest};
use parking_lot::Mutex;

use super::Served;
use super::store::{StagedStream, StreamWorkload};
use crate::wire::{Entry, SessionId, UnderWay};

/// A client's session.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) workload: Box<dyn StreamWorkload>,
    /// Held by the connection that serves the session, for as long as it does.
    pub(super) state: Mutex<State>,
    /// Ends that connection, if the client comes by another.
    pub(super) served_by: Mutex<Option<Arc<Served>>>,
}

/// What is under way in a session.
pub(super) enum State {
    Nothing,
    Putting(Putting),
    /// What was sent was refused, and the client has not said yet that it knows.
    Refused,
    /// The last stream, in case the client did not hear of it.
    Committed(Entry),
}

/// A stream on its way in.
pub(super) struct Putting {
    pub(super) name: String,
    pub(super) received: u64,
    pub(super) staged: u64,
    pub(super) checksum: Digest,
    pub(super) stream: Box<dyn StagedStream>,
}

impl Putting {
    pub(super) fn new(name: String, stream: Box<dyn StagedStream>) -> Self {
        Self {
            name,
            received: 0,
            staged: 0,
            checksum: Digest::new(CrcAlgorithm::Crc64Nvme),
            stream,
        }
    }
}

impl State {
    /// What a client is told that goes on.
    pub(super) fn under_way(&self) -> Option<UnderWay> {
        match self {
            Self::Nothing | Self::Refused => None,
            Self::Putting(putting) => Some(UnderWay {
                name: putting.name.clone(),
                received_bytes: putting.received,
                committed: None,
            }),
            Self::Committed(entry) => Some(UnderWay {
                name: entry.name.clone(),
                received_bytes: entry.size_bytes,
                committed: Some(entry.clone()),
            }),
        }
    }
}

/// All sessions.
pub(super) struct Sessions {
    resume: Duration,
    /// How many there may be.
    limit: usize,
    all: Mutex<HashMap<SessionId, Held>>,
}

struct Held {
    session: Arc<Session>,
    /// When its connection was lost.
    alone_since: Option<Instant>,
}

impl Sessions {
    pub(super) fn new(resume: Duration, limit: usize) -> Self {
        Self {
            resume,
            limit,
            all: Mutex::default(),
        }
    }

    /// Adds one, unless there are too many.
    pub(super) fn add(&self, session: Arc<Session>) -> bool {
        let held = Held {
            session: Arc::clone(&session),
            alone_since: None,
        };
        let mut all = self.all.lock();
        let room = all.len() < self.limit;
        if room {
            all.insert(session.id, held);
        }
        room
    }

    /// A session that the same client goes on with.
    pub(super) fn find(
        &self,
        id: SessionId,
        workload: &dyn StreamWorkload,
    ) -> Option<Arc<Session>> {
        let mut all = self.all.lock();
        let held = all.get_mut(&id)?;
        let ours = &held.session.workload;
        let same = (ours.name(), ours.holder()) == (workload.name(), workload.holder());
        if !same {
            return None;
        }
        held.alone_since = None;
        Some(Arc::clone(&held.session))
    }

    /// Its connection is gone. It stays for a while if it has something to go on with.
    pub(super) fn leave(&self, session: &Arc<Session>, may_go_on: bool) {
        let mut all = self.all.lock();
        match all.get_mut(&session.id) {
            // Another connection may have taken it over: that holds its state, or waits for it.
            Some(_) if Arc::strong_count(session) > 2 => {}
            Some(held) if may_go_on => held.alone_since = Some(Instant::now()),
            _ => drop(all.remove(&session.id)),
        }
    }

    /// Drops those that nobody came back for.
    pub(super) fn reap(&self) {
        let resume = self.resume;
        let gone: Vec<Held> = self
            .all
            .lock()
            .extract_if(|_, held| {
                held.alone_since
                    .is_some_and(|since| since.elapsed() > resume)
            })
            .map(|(_, held)| held)
            .collect();
        for held in gone {
            tracing::info!(
                workload = held.session.workload.name(),
                "a session was not gone on with: what was under way is dropped"
            );
        }
    }

    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.all.lock());
        drop(all);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("workload", &self.workload)
            .finish_non_exhaustive()
    }
}
