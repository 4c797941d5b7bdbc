//! One connection: moves bytes between its socket and its session.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::Shared;
use super::listener::{Listener, ListeningSocket};
use crate::directory::{Peer, PeerAddress};
use crate::error::ConnectionError;
use crate::session::{Chosen, Handshake, Step, Transmission};

/// Takes connections until the task is dropped.
pub(super) async fn accept(listener: Listener, shared: Arc<Shared>) {
    loop {
        let accepted = match &listener.socket {
            ListeningSocket::Tcp(socket) => socket.accept().await.map(|(stream, address)| {
                let peer = Peer::new(PeerAddress::Tcp(address));
                prepare(&stream);
                start(stream, peer, &shared);
            }),
            ListeningSocket::Unix(socket) => socket.accept().await.map(|(stream, _)| {
                let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
                start(stream, Peer::new(PeerAddress::Unix { uid }), &shared);
            }),
        };
        if let Err(error) = accepted {
            // A peer that was gone before it was taken needs no pause; a lack of descriptors does.
            tracing::warn!(address = %listener.address(), %error, "connection was not accepted");
            if error.kind() != io::ErrorKind::ConnectionAborted {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Sends small replies at once, and notices peers that vanish.
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
fn start<S>(stream: S, peer: Peer, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(slot) = shared.slots.take(peer.ip()) else {
        shared.metrics.refused.inc();
        tracing::debug!(%peer, "too many connections");
        return;
    };
    let connection = Arc::clone(shared);
    shared.metrics.accepted.inc();
    shared.tasks.spawn(async move {
        let cut = connection.cut.clone();
        connection.metrics.connections.inc();
        let served = cut
            .run_until_cancelled(serve(stream, peer.clone(), &connection))
            .await;
        connection.metrics.connections.dec();
        if let Some(Err(error)) = served {
            connection.metrics.failed.inc();
            log(&peer, &error);
        }
        drop(slot);
    });
}

fn log(peer: &Peer, error: &ConnectionError) {
    if let ConnectionError::Standstill { held_bytes } = error {
        tracing::warn!(%peer, held_bytes, "closed a connection that stood still with memory that others wait for");
        return;
    }
    let cause = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    tracing::debug!(%peer, %error, cause, "connection ended");
}

/// Serves one connection from greeting to end.
async fn serve<S>(mut stream: S, mut peer: Peer, shared: &Shared) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let deadline = tokio::time::Instant::now() + shared.limits.handshake_timeout;
    let timeout = |_| ConnectionError::HandshakeTimeout;
    let mut greeting = Vec::new();
    let mut handshake = Handshake::start(shared.tls_for(&peer), &mut greeting);
    let mut negotiation = Negotiation {
        input: BytesMut::new(),
        output: greeting,
    };
    let outcome = {
        let negotiated = negotiation.run(&mut handshake, &mut stream, &peer, shared);
        tokio::time::timeout_at(deadline, negotiated)
            .await
            .map_err(timeout)??
    };
    match (outcome, &shared.acceptor) {
        (Negotiated::Chosen(chosen), _) => {
            transmit(stream, chosen, negotiation.input, shared).await
        }
        (Negotiated::StartTls, Some(acceptor)) => {
            let accepting = tokio::time::timeout_at(deadline, acceptor.accept(stream));
            let Some(accepted) = shared.stop.run_until_cancelled(accepting).await else {
                return Ok(());
            };
            let mut stream = accepted.map_err(timeout)?.map_err(ConnectionError::Tls)?;
            peer.tls = true;
            peer.certificates = stream
                .get_ref()
                .1
                .peer_certificates()
                .unwrap_or_default()
                .to_vec();
            handshake.tls_started();
            let outcome = {
                let negotiated = negotiation.run(&mut handshake, &mut stream, &peer, shared);
                tokio::time::timeout_at(deadline, negotiated)
                    .await
                    .map_err(timeout)??
            };
            match outcome {
                Negotiated::Chosen(chosen) => {
                    transmit(stream, chosen, negotiation.input, shared).await
                }
                Negotiated::StartTls | Negotiated::Ended => close(&mut stream).await,
            }
        }
        (Negotiated::StartTls | Negotiated::Ended, _) => close(&mut stream).await,
    }
}

/// Buffers of a handshake.
struct Negotiation {
    input: BytesMut,
    output: Vec<u8>,
}

/// How a handshake ended.
enum Negotiated {
    Chosen(Chosen),
    StartTls,
    Ended,
}

impl Negotiation {
    async fn run<S>(
        &mut self,
        handshake: &mut Handshake,
        stream: &mut S,
        peer: &Peer,
        shared: &Shared,
    ) -> Result<Negotiated, ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            self.send(stream).await?;
            let step =
                handshake.advance(&mut self.input, &*shared.directory, peer, &mut self.output);
            if step.is_err() {
                // What there is to say is said before closing.
                self.send(stream).await?;
            }
            let step = step?;
            if !matches!(step, Step::More) {
                self.send(stream).await?;
            }
            match step {
                Step::Again => {}
                Step::Transmit(chosen) => return Ok(Negotiated::Chosen(chosen)),
                Step::StartTls => return Ok(Negotiated::StartTls),
                Step::End => return Ok(Negotiated::Ended),
                Step::More => {
                    let stopped = shared
                        .stop
                        .run_until_cancelled(stream.read_buf(&mut self.input))
                        .await;
                    match stopped {
                        None | Some(Ok(0)) => return Ok(Negotiated::Ended),
                        Some(read) => read.map_err(ConnectionError::Socket)?,
                    };
                }
            }
        }
    }

    async fn send<S: AsyncWrite + Unpin>(&mut self, stream: &mut S) -> Result<(), ConnectionError> {
        if self.output.is_empty() {
            return Ok(());
        }
        stream
            .write_all(&self.output)
            .await
            .map_err(ConnectionError::Socket)?;
        stream.flush().await.map_err(ConnectionError::Socket)?;
        self.output.clear();
        Ok(())
    }
}

/// Serves requests until the peer or the server wants to end.
async fn transmit<S>(
    mut stream: S,
    chosen: Chosen,
    input: BytesMut,
    shared: &Shared,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let withdrawn = chosen.opened.withdrawn.clone();
    let session = Transmission::start(
        chosen,
        input,
        shared.transmission_limits(),
        Arc::clone(&shared.memory),
        Arc::clone(&shared.pool),
        shared.metrics.clone(),
    );
    {
        let mut stop = pin!(async {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = withdrawn.cancelled() => {}
            }
        });
        let mut pump = Pump::new(session, shared.limits.standstill_timeout);
        poll_fn(|waker| {
            if !pump.stopped && stop.as_mut().poll(waker).is_ready() {
                pump.stopped = true;
                pump.session.stop();
            }
            pump.poll(Pin::new(&mut stream), waker)
        })
        .await?;
    }
    close(&mut stream).await
}

/// Says goodbye; a peer that is gone already does not mind.
async fn close<S: AsyncWrite + Unpin>(stream: &mut S) -> Result<(), ConnectionError> {
    if let Ok(Err(error)) = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await {
        tracing::trace!(%error, "peer was gone before the goodbye");
    }
    Ok(())
}

/// Moves bytes of the transmission phase.
struct Pump {
    session: Transmission,
    /// Running while the pool is full of others' requests.
    pause: Option<Pin<Box<Sleep>>>,
    stopped: bool,
    unflushed: bool,
    standstill_timeout: Duration,
    /// Running while memory is held that all connections share.
    watch: Option<Pin<Box<Sleep>>>,
    /// Bytes that the peer sent or took since the watch began.
    moved_bytes: usize,
}

impl Pump {
    fn new(session: Transmission, standstill_timeout: Duration) -> Self {
        Self {
            session,
            pause: None,
            stopped: false,
            unflushed: false,
            standstill_timeout,
            watch: None,
            moved_bytes: 0,
        }
    }

    fn poll<S>(
        &mut self,
        stream: Pin<&mut S>,
        waker: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>>
    where
        S: AsyncRead + AsyncWrite,
    {
        match self.poll_move(stream, waker) {
            Poll::Pending => self.poll_watch(waker).map(Err),
            ended => ended,
        }
    }

    /// Moves bytes until there is something to wait for.
    fn poll_move<S>(
        &mut self,
        mut stream: Pin<&mut S>,
        waker: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>>
    where
        S: AsyncRead + AsyncWrite,
    {
        loop {
            self.session.poll_finished(waker);
            self.poll_pause(waker);
            self.session.advance()?;
            let replied = !self.session.output().is_empty();
            let sent = self
                .poll_send(stream.as_mut(), waker)
                .map_err(ConnectionError::Socket)?;
            self.session.settle();
            if self.session.is_over() && sent.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if self.session.is_starved() && self.pause.is_none() {
                self.pause = Some(Box::pin(tokio::time::sleep(STARVED_PAUSE)));
                continue;
            }
            if self.session.poll_memory(waker).is_ready() {
                continue;
            }
            if !self.session.wants_input() {
                if replied && sent.is_ready() {
                    // What held requests back may be gone with the replies, and nobody would wake this task for it.
                    continue;
                }
                return Poll::Pending;
            }
            let filled = ready!(self.session.poll_fill(stream.as_mut(), waker))
                .map_err(ConnectionError::Socket)?;
            if filled == 0 {
                return Poll::Ready(Ok(()));
            }
            self.moved_bytes += filled;
        }
    }

    /// Looks from time to time whether the peer stands still with memory that another connection waits for.
    fn poll_watch(&mut self, waker: &mut Context<'_>) -> Poll<ConnectionError> {
        if self.watch.is_none() && !self.session.holds_memory() {
            return Poll::Pending;
        }
        let timeout = self.standstill_timeout;
        let moved_bytes = &mut self.moved_bytes;
        let watch = self.watch.get_or_insert_with(|| {
            *moved_bytes = 0;
            Box::pin(tokio::time::sleep(timeout))
        });
        while watch.as_mut().poll(waker).is_ready() {
            if *moved_bytes < MOVED_BYTES_MIN && self.session.keeps_others_waiting() {
                let held_bytes = self.session.held_bytes();
                return Poll::Ready(ConnectionError::Standstill { held_bytes });
            }
            if !self.session.holds_memory() {
                self.watch = None;
                return Poll::Pending;
            }
            *moved_bytes = 0;
            watch.as_mut().reset(tokio::time::Instant::now() + timeout);
        }
        Poll::Pending
    }

    fn poll_pause(&mut self, waker: &mut Context<'_>) {
        if let Some(pause) = &mut self.pause
            && pause.as_mut().poll(waker).is_ready()
        {
            self.pause = None;
            self.session.retry();
        }
    }

    /// Sends what waits, as far as the socket takes it.
    fn poll_send<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        waker: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let output = self.session.output();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = output.gather(&mut slices);
            let slices = slices.get(..used).unwrap_or_default();
            let Poll::Ready(sent) = stream.as_mut().poll_write_vectored(waker, slices) else {
                output.detach();
                return Poll::Pending;
            };
            let sent = sent?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            output.consume(sent);
            self.moved_bytes += sent;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(stream.poll_flush(waker))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// A peer that moved less than this meanwhile stands still: a byte now and then must not keep memory for ever.
const MOVED_BYTES_MIN: usize = 1024 * 1024;
/// Most slices of one write.
const SLICES: usize = 128;
/// Pause when the system refuses to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause before the pool is asked again.
const STARVED_PAUSE: Duration = Duration::from_millis(1);
/// Time for a goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    use export::{BlockExport as _, BlockingPool, Durability, MemoryDisk};

    use crate::directory::{ExportDirectory as _, StaticDirectory};
    use crate::metrics::Metrics;
    use crate::session::{Memory, TransmissionLimits};
    use crate::wire::{Command, CommandFlags, Dialect, Request};

    /// Replies fill their limit and leave at once, all from memory: nothing but the pump itself can go on.
    #[tokio::test]
    async fn requests_held_back_by_replies_are_taken_when_those_are_sent() {
        const READS: u64 = 64;
        let disk = MemoryDisk::new(1 << 20);
        let content = bytes::Bytes::from(vec![7; 1 << 20]);
        disk.write(0, &[content], Durability::Unstable).unwrap();
        let directory = StaticDirectory::new();
        directory.add("", "", Arc::new(disk));
        let peer = Peer::new(PeerAddress::Unix { uid: None });
        let chosen = Chosen {
            opened: directory.open("", &peer).unwrap(),
            dialect: Dialect::Simple,
            contexts: Vec::new(),
        };
        let mut requests = Vec::new();
        for cookie in 0..READS {
            let request = Request {
                flags: CommandFlags(0),
                command: Command::Read,
                cookie,
                offset: 0,
                length: 65_536,
            };
            request.encode(Dialect::Simple, &mut requests);
        }
        let limits = TransmissionLimits {
            in_flight_bytes: 200_000,
            in_flight_requests: 8,
        };
        let pool = Arc::new(BlockingPool::start(1, 8).unwrap());
        let input = BytesMut::from(requests.as_slice());
        let metrics = Metrics::unregistered();
        let memory = Arc::new(Memory::new(32 << 20));
        let session = Transmission::start(chosen, input, limits, memory, pool, metrics);
        let (ours, mut theirs) = tokio::io::duplex(64 << 20);
        let mut ours = ours;
        let mut pump = Pump::new(session, Duration::from_secs(60));
        let pumping = poll_fn(|waker| pump.poll(Pin::new(&mut ours), waker));
        let mut replies = vec![0; usize::try_from(READS).unwrap() * (65_536 + 16)];
        tokio::select! {
            ended = pumping => panic!("the connection ended: {ended:?}"),
            read = theirs.read_exact(&mut replies) => drop(read.unwrap()),
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("the connection stalled"),
        }
    }
}
