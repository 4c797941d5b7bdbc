//! One connection: login, session, and the rest until nothing of it runs any more.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use scsi::Nexus;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Shared;
use super::portal::{Listener, Shown};
use super::pump::Pump;
use super::sessions::{NoPlace, Place};
use crate::directory::{Initiator, TargetDirectory};
use crate::error::{ConnectionError, LoginFailure};
use crate::session::{
    Control, Established, FullFeature, Login, LoginContext, LoginStep, Names, Receiver, Step,
    Surroundings,
};

/// Takes connections until the task is dropped.
pub(super) async fn accept(listener: Listener, shared: Arc<Shared>) {
    loop {
        match listener.socket.accept().await {
            Ok((stream, peer)) => {
                prepare(&stream);
                start(stream, peer, listener.group, &shared);
            }
            Err(error) => {
                // A peer that was gone before it was taken needs no pause; a lack of descriptors does.
                tracing::warn!(address = %listener.address(), %error, "connection was not accepted");
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Sends small responses at once, and notices peers that vanish.
fn prepare(stream: &TcpStream) {
    use rustix::net::sockopt;
    let prepared = stream.set_nodelay(true).and_then(|()| {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
        Ok(())
    });
    if let Err(error) = prepared {
        tracing::debug!(%error, "socket options were not set");
    }
}

/// Starts the task of a connection, if there is room for it.
fn start(stream: TcpStream, peer: SocketAddr, portal_group: u16, shared: &Arc<Shared>) {
    let ip = Some(peer.ip());
    let (Some(slot), Some(login_slot)) = (shared.slots.take(ip), shared.logins.take(ip)) else {
        shared.metrics.refused.inc();
        tracing::debug!(%peer, "too many connections");
        return;
    };
    let shared = Arc::clone(shared);
    let tasks = shared.tasks.clone();
    shared.metrics.accepted.inc();
    tasks.spawn(async move {
        shared.metrics.connections.inc();
        let served = serve(stream, peer, portal_group, login_slot, &shared).await;
        shared.metrics.connections.dec();
        if let Err(error) = served {
            shared.metrics.failed.inc();
            let cause = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            tracing::debug!(%peer, %error, cause, "connection ended");
        }
        drop(slot);
    });
}

/// Serves one connection from its first byte to the end of its last command.
async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    portal_group: u16,
    login_slot: export::Slot,
    shared: &Arc<Shared>,
) -> Result<(), ConnectionError> {
    let here = stream.local_addr().map_err(ConnectionError::Socket)?;
    let context = LoginContext {
        peer,
        portal_group,
        offer: shared.offer,
    };
    let entering = enter(&mut stream, context, shared);
    let entered = tokio::select! {
        entered = tokio::time::timeout(shared.limits.login_timeout, entering) => {
            entered.map_err(|_| ConnectionError::LoginTimeout)
        }
        () = shared.cut.cancelled() => return Ok(()),
    };
    drop(login_slot);
    let Entered {
        established,
        place,
        before,
        receiver,
    } = match entered {
        Ok(Ok(Some(entered))) => entered,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) | Err(error) => {
            shared.metrics.login_failures.inc();
            close(&mut stream).await;
            return Err(error);
        }
    };
    shared.metrics.logins.inc();
    let around = Surroundings {
        pool: Arc::clone(&shared.pool),
        metrics: shared.metrics.clone(),
        payloads: shared.payloads.clone(),
        budget: Arc::clone(&shared.budget),
        neighbours: Arc::new(place.neighbours()),
        names: Arc::new(ConnectionNames {
            directory: Arc::clone(&shared.directory),
            initiator: established.initiator.clone(),
            portals: shared.portals.clone(),
            here,
            own: established
                .opened
                .is_some()
                .then(|| established.name.target.clone()),
        }),
        limits: shared.session_limits(),
        timing: shared.limits.timing,
    };
    let session = FullFeature::start(&established, receiver, around, before);
    place.begin(&session);
    run(stream, session, &established, place, shared).await
}

/// Serves a session that has logged in.
async fn run(
    mut stream: TcpStream,
    session: FullFeature,
    established: &Established,
    place: Place,
    shared: &Shared,
) -> Result<(), ConnectionError> {
    let (name, initiator) = (&established.name.target, &established.initiator);
    tracing::info!(target = name, %initiator, tsih = place.tsih, "session began");
    shared.metrics.sessions.inc();
    if shared.stop.is_cancelled() {
        drop(session.control().send(Control::Drop));
    }
    let control = session.control();
    let timing = shared.limits.timing;
    let every = timing
        .ping_after
        .min(timing.ping_timeout)
        .min(timing.stall_timeout)
        / 4;
    let mut pump = Pump::new(session, every.max(CLOCK_MIN));
    let served = tokio::select! {
        served = poll_fn(|waker| pump.poll(Pin::new(&mut stream), waker)) => served,
        () = place.cut.cancelled() => Ok(()),
        () = shared.cut.cancelled() => Ok(()),
        () = leave(established, &control) => Ok(()),
    };
    close(&mut stream).await;
    drop(stream);
    // A command that the pool still has must not change the disk after the initiator has come back and written there.
    let mut session = pump.session;
    session.abandon();
    poll_fn(|waker| session.poll_at_rest(waker)).await;
    drop(session);
    shared.metrics.sessions.dec();
    tracing::info!(target = name, %initiator, tsih = place.tsih, "session ended");
    drop(place);
    served
}

/// Ends when the target was withdrawn and the initiator has had its time to log out.
async fn leave(established: &Established, control: &tokio::sync::mpsc::UnboundedSender<Control>) {
    let Some(opened) = &established.opened else {
        return std::future::pending().await;
    };
    opened.withdrawn.cancelled().await;
    // If the session is over already, so is this.
    drop(control.send(Control::RequestLogout(LOGOUT_TIME)));
    tokio::time::sleep(LOGOUT_TIME).await;
    drop(control.send(Control::Drop));
    tokio::time::sleep(CLOSE_TIMEOUT).await;
}

/// A login that has succeeded.
struct Entered {
    established: Box<Established>,
    place: Place,
    /// The nexus of the connection that this one replaces.
    before: Option<Arc<Nexus>>,
    receiver: Receiver,
}

/// Logs an initiator in. `None` if it went away first.
async fn enter(
    stream: &mut TcpStream,
    context: LoginContext,
    shared: &Shared,
) -> Result<Option<Entered>, ConnectionError> {
    let mut receiver = Receiver::new(LOGIN_SEGMENT_MAX);
    let mut login = Login::start(context);
    let mut out = Vec::new();
    loop {
        let received = match receiver.step() {
            Ok(Step::Pdu(received)) => received,
            Ok(Step::Place(header)) => return Err(LoginFailure::NotLogin(header.kind()).into()),
            Ok(Step::More) => {
                let filled = poll_fn(|waker| receiver.poll_fill(Pin::new(stream), waker)).await;
                if filled.map_err(ConnectionError::Socket)? == 0 {
                    return Ok(None);
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let step = login.take(
            &received.header,
            received.data.bytes(),
            &*shared.directory,
            &|tsih| shared.sessions.exists(tsih),
            &mut out,
        );
        let step = match step {
            LoginStep::Ready(established) => match take_place(&established, shared).await {
                Ok((place, before)) => {
                    login.accept(place.tsih, shared.limits.queue_depth, &mut out);
                    send(stream, &mut out).await?;
                    return Ok(Some(Entered {
                        established,
                        place,
                        before,
                        receiver,
                    }));
                }
                Err(failure) => login.refuse(failure, &mut out),
            },
            step => step,
        };
        send(stream, &mut out).await?;
        if let LoginStep::Failed(failure) = step {
            if let Some(initiator) = login.initiator() {
                tracing::warn!(%initiator, error = %failure, "login refused");
            }
            return Err(failure.into());
        }
    }
}

/// Finds room for a session, after the end of the one whose place it takes.
async fn take_place(
    established: &Established,
    shared: &Shared,
) -> Result<(Place, Option<Arc<Nexus>>), LoginFailure> {
    let Established { name, cid, .. } = established;
    let mut before = None;
    if let Some(tsih) = established.reinstates {
        let replaced = shared.sessions.replace(name, *cid, tsih)?;
        replaced.ended.cancelled().await;
        before = replaced.nexus;
    }
    loop {
        if shared.stop.is_cancelled() {
            return Err(LoginFailure::ShuttingDown);
        }
        match shared.sessions.take(name, *cid, established.reinstates) {
            Ok(place) => return Ok((place, before)),
            Err(NoPlace::Taken(ended)) => ended.cancelled().await,
            Err(NoPlace::Gone) => {
                return Err(LoginFailure::NoSession(
                    established.reinstates.unwrap_or_default(),
                ));
            }
            Err(NoPlace::TooMany) => return Err(LoginFailure::TooManySessions),
        }
    }
}

async fn send(stream: &mut TcpStream, out: &mut Vec<u8>) -> Result<(), ConnectionError> {
    stream
        .write_all(out)
        .await
        .map_err(ConnectionError::Socket)?;
    out.clear();
    Ok(())
}

/// Says goodbye; a peer that is gone already does not mind.
async fn close(stream: &mut TcpStream) {
    if let Ok(Err(error)) = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await {
        tracing::trace!(%error, "peer was gone before the goodbye");
    }
}

/// What the initiator of one connection is told of targets.
struct ConnectionNames {
    directory: Arc<dyn TargetDirectory>,
    initiator: Initiator,
    portals: Vec<Shown>,
    here: SocketAddr,
    own: Option<String>,
}

impl Names for ConnectionNames {
    fn targets(&self) -> Vec<(String, Vec<String>)> {
        let addresses: Vec<String> = self
            .portals
            .iter()
            .map(|portal| portal.target_address(self.here))
            .collect();
        let names = self.directory.list(&self.initiator);
        names
            .into_iter()
            .map(|name| (name, addresses.clone()))
            .collect()
    }

    fn own(&self) -> Option<String> {
        self.own.clone()
    }
}

/// Longest data segment of a login PDU (RFC 7143, 6.1).
const LOGIN_SEGMENT_MAX: u32 = 8192;
/// Pause when the system refuses to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for a goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an initiator has to log out when its target goes away.
const LOGOUT_TIME: Duration = Duration::from_secs(5);
/// Sessions are not told the time more often.
const CLOCK_MIN: Duration = Duration::from_millis(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;
