//! Letting a client in: a new session, or one to go on with.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ring::rand::SecureRandom as _;

use super::Served;
use super::serving::Talk;
use super::session::{Session, State};
use super::store::Credentials;
use crate::wire::{Code, Frame, Hello, Kind, Refusal, SessionId, Welcome};

pub(super) struct Attached {
    pub(super) session: Arc<Session>,
    pub(super) welcome: Welcome,
}

/// Gives the client its session.
pub(super) fn attach(
    talk: &mut Talk<'_>,
    hello: &Hello,
    served: &Arc<Served>,
) -> Result<Attached, Refusal> {
    let shared = talk.shared;
    let credentials = Credentials {
        peer: talk.peer,
        token: hello.token.as_deref(),
        workload: hello.workload.as_deref(),
    };
    let workload = shared.store.admit(&credentials)?;
    let session = match hello.session {
        Some(id) => {
            let found = shared.sessions.find(id, workload.as_ref());
            let session = found.ok_or_else(lost)?;
            take_over(talk, &session)?;
            shared.metrics.resumed.inc();
            session
        }
        None => {
            let session = Arc::new(Session {
                id: new_id()?,
                workload,
                state: Mutex::new(State::Nothing),
                served_by: Mutex::default(),
            });
            if !shared.sessions.add(Arc::clone(&session)) {
                return Err(Refusal::new(
                    Code::Busy,
                    "too many sessions wait for their clients; try again in a while, or raise `connections` under [ingest]",
                ));
            }
            session
        }
    };
    *session.served_by.lock() = Some(Arc::clone(served));
    let put = session.state.lock().under_way();
    let welcome = Welcome {
        session: session.id,
        workload: session.workload.name().to_owned(),
        window_bytes: shared.config.window_bytes,
        resume_seconds: shared.config.resume.as_secs(),
        daemon: shared.config.version.clone(),
        put,
    };
    tracing::debug!(
        peer = %talk.peer,
        workload = welcome.workload,
        client = hello.client,
        resumed = hello.session.is_some(),
        "a client of streams was let in"
    );
    Ok(Attached { session, welcome })
}

/// Ends the connection that the session still has, as far as the server knows, and waits until it has let go.
fn take_over(talk: &mut Talk<'_>, session: &Session) -> Result<(), Refusal> {
    if let Some(served) = session.served_by.lock().take() {
        served.cutter.cut();
    }
    // It may be in the middle of a commit, or waiting for a slow disk.
    while session.state.try_lock_for(PATIENCE).is_none() {
        if talk.connection.send(&Frame::bare(Kind::Wait)).is_err() {
            return Err(lost());
        }
    }
    Ok(())
}

fn lost() -> Refusal {
    Refusal::new(
        Code::SessionLost,
        "the session is not known: it ended, or the daemon was started again; what was under way is gone, begin the stream again",
    )
}

fn new_id() -> Result<SessionId, Refusal> {
    let mut bytes = [0; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Refusal::new(Code::Failed, "the daemon's system gives no random bytes"))?;
    Ok(SessionId::from_bytes(bytes))
}

const PATIENCE: Duration = Duration::from_secs(5);
