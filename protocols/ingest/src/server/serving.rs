//! One connection, from its first byte to its last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::attach::{Attached, attach};
use super::session::{Session, State};
use super::store::Peer;
use super::{Served, Shared};
use crate::connection::{Connection, ReceiveError};
use crate::wire::{
    Code, Describe, Described, Frame, Kind, List, MAGIC, Malformed, NAMES_AT_ONCE, Refusal, Remove,
    Removed,
};

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// The client said goodbye.
    Bye,
    /// The connection is gone, or the server stops.
    Lost,
    /// The client does not keep to the protocol.
    Malformed(Malformed),
    /// It was not let in.
    TurnedAway,
}

impl From<ReceiveError> for Ending {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Malformed(malformed) => Self::Malformed(malformed),
            ReceiveError::Closed | ReceiveError::Socket(_) => Self::Lost,
        }
    }
}

impl From<std::io::Error> for Ending {
    fn from(_: std::io::Error) -> Self {
        Self::Lost
    }
}

impl From<Malformed> for Ending {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Serves a connection until it ends.
pub(super) fn serve(connection: Connection, peer: Peer, shared: &Arc<Shared>) {
    let Ok(cutter) = connection.cutter() else {
        return;
    };
    let served = Arc::new(Served {
        cutter,
        welcome_by: Mutex::new(Some(Instant::now() + shared.config.handshake)),
    });
    shared.served.lock().push(Arc::clone(&served));
    if shared.is_over.load(Ordering::Acquire) {
        served.cutter.cut();
    }
    shared.metrics.connections.inc();
    let mut talk = Talk {
        connection,
        peer,
        shared,
    };
    let ending = talk.run(&served);
    if let Ending::Malformed(malformed) = ending {
        let refusal = Refusal::new(Code::Invalid, malformed.0);
        drop(talk.refuse(refusal));
        tracing::info!(%peer, %malformed, "a client does not keep to the protocol");
    }
    talk.connection.close();
    shared.metrics.connections.dec();
    shared
        .served
        .lock()
        .retain(|other| !Arc::ptr_eq(other, &served));
}

/// A connection with what it serves.
pub(super) struct Talk<'a> {
    pub(super) connection: Connection,
    pub(super) peer: Peer,
    pub(super) shared: &'a Shared,
}

impl Talk<'_> {
    fn run(&mut self, served: &Arc<Served>) -> Ending {
        let session = match self.welcome(served) {
            Ok(session) => session,
            Err(ending) => return ending,
        };
        let mut state = session.state.lock();
        let ending = loop {
            match self.turn(&session, &mut state) {
                Ok(()) => {}
                Err(ending) => break ending,
            }
        };
        let may_go_on = !matches!(ending, Ending::Bye | Ending::Malformed(_))
            && !matches!(*state, State::Nothing | State::Refused);
        if !may_go_on {
            self.forget(&mut state);
        }
        drop(state);
        self.shared.sessions.leave(&session, may_go_on);
        ending
    }

    /// Lets the client in, for a new session or to go on with one.
    fn welcome(&mut self, served: &Arc<Served>) -> Result<Arc<Session>, Ending> {
        let mut magic = [0; MAGIC.len()];
        self.connection.receive_bytes(&mut magic)?;
        if magic != MAGIC {
            return Err(Malformed("this is not how a stream's client begins").into());
        }
        let frame = self.connection.receive()?;
        if frame.kind != Kind::Hello {
            return Err(Malformed("a client says hello first").into());
        }
        let hello = frame.read()?;
        // Going on with a session may have to wait for what the session is doing.
        *served.welcome_by.lock() = None;
        match attach(self, &hello, served) {
            Ok(Attached { session, welcome }) => {
                self.shared.metrics.accepted.inc();
                self.connection.set_silence(None)?;
                self.connection
                    .send(&Frame::document(Kind::Welcome, &welcome))?;
                Ok(session)
            }
            Err(refusal) => {
                self.shared.metrics.turned_away.inc();
                self.refuse(refusal)?;
                Err(Ending::TurnedAway)
            }
        }
    }

    /// One request of the client.
    fn turn(&mut self, session: &Session, state: &mut MutexGuard<'_, State>) -> Result<(), Ending> {
        let frame = self.connection.receive()?;
        if matches!(**state, State::Refused) && frame.kind != Kind::Abort && frame.kind != Kind::Bye
        {
            // Sent before the client could know.
            return Ok(());
        }
        match frame.kind {
            Kind::Put => self.put(session, state, &frame),
            Kind::Data => self.data(state, &frame),
            Kind::Commit => self.commit(session, state, &frame),
            Kind::Abort => {
                self.forget(state);
                Ok(self.connection.send(&Frame::bare(Kind::Aborted))?)
            }
            Kind::Get => self.get(session, &frame),
            // Of a stream that came to its end meanwhile.
            Kind::Credit | Kind::Stop => Ok(()),
            Kind::List => {
                let List {
                    prefix,
                    after,
                    limit,
                } = frame.read()?;
                let limit = limit.unwrap_or(usize::MAX).min(LISTED_MAX);
                let work = || session.workload.list(&prefix, after.as_deref(), limit);
                self.answer(Kind::Listed, work)
            }
            Kind::Describe => {
                let Describe { names } = frame.read()?;
                few(&names)?;
                let work = || session.workload.describe(&names);
                self.answer(Kind::Described, || Ok(Described { entries: work()? }))
            }
            Kind::Remove => {
                let Remove { names } = frame.read()?;
                few(&names)?;
                let work = || session.workload.remove(&names);
                self.answer(Kind::Removed, || Ok(Removed { removed: work()? }))
            }
            Kind::Bye => Err(Ending::Bye),
            _ => Err(Malformed("a client does not send this").into()),
        }
    }

    /// Drops what was under way.
    pub(super) fn forget(&mut self, state: &mut State) {
        if let State::Putting(_) = std::mem::replace(state, State::Nothing) {
            self.shared.metrics.dropped.inc();
        }
    }

    /// Does `work` and sends its result.
    fn answer<T: serde::Serialize + Send>(
        &mut self,
        kind: Kind,
        work: impl FnOnce() -> Result<T, Refusal> + Send,
    ) -> Result<(), Ending> {
        match self.while_waiting(work)? {
            Ok(document) => Ok(self.connection.send(&Frame::document(kind, &document))?),
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// Does `work` on a thread of its own, and tells the client now and then that it takes longer.
    pub(super) fn while_waiting<T: Send>(
        &mut self,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, Ending> {
        std::thread::scope(|scope| {
            let (done, result) = std::sync::mpsc::channel();
            let worker = std::thread::Builder::new().name("ingest-work".to_owned());
            worker.spawn_scoped(scope, move || {
                // The other side waits until this thread has ended.
                drop(done.send(work()));
            })?;
            let mut lost = false;
            loop {
                match result.recv_timeout(WAIT) {
                    Ok(_) if lost => return Err(Ending::Lost),
                    Ok(value) => return Ok(value),
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                        // What has begun is ended, whether the client still is there or not.
                        lost |= self.connection.send(&Frame::bare(Kind::Wait)).is_err();
                    }
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                        return Err(Ending::Lost);
                    }
                }
            }
        })
    }

    /// A name for a request, to be found again in the log.
    fn next_request(&self) -> String {
        let number = self.shared.requests.fetch_add(1, Ordering::Relaxed);
        format!("r{:x}-{number}", std::process::id())
    }

    /// Tells the client why not, and the log what is behind it.
    pub(super) fn refuse(&mut self, mut refusal: Refusal) -> Result<(), Ending> {
        if refusal.request.is_empty() {
            refusal.request = self.next_request();
        }
        self.shared.metrics.refused.inc();
        tracing::info!(
            peer = %self.peer,
            request = refusal.request,
            code = ?refusal.code,
            message = refusal.message,
            cause = refusal.cause,
            "refused a client of streams"
        );
        Ok(self
            .connection
            .send(&Frame::document(Kind::Refused, &refusal))?)
    }
}

fn few(names: &[String]) -> Result<(), Malformed> {
    match names.len() <= NAMES_AT_ONCE {
        true => Ok(()),
        false => Err(Malformed("a question has too many names")),
    }
}

/// Entries of one answer. The store stops earlier where they are long.
const LISTED_MAX: usize = 1000;
/// Time between two words that an answer takes longer.
const WAIT: std::time::Duration = std::time::Duration::from_secs(5);
