//! Sockets: listening, limits, and one task for each connection.

mod connection;
mod listener;

pub use listener::{BoundAddress, Endpoint};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use export::{BlockingPool, Slots};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::{ExportDirectory, Peer, PeerAddress};
use crate::error::StartError;
use crate::metrics::Metrics;
use crate::session::{Memory, TlsMode, TransmissionLimits};
use listener::Listener;

/// How a server treats its peers.
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// Whether connections are protected.
    pub tls: Tls,
    /// What peers may use up.
    pub limits: Limits,
}

/// Whether connections are protected by TLS (NBD protocol, "TLS support").
#[derive(Clone, Default)]
pub enum Tls {
    /// Never.
    #[default]
    Off,
    /// If the client asks for it.
    Allowed(Arc<rustls::ServerConfig>),
    /// Always over TCP: nothing is told before. Over a unix socket, which no network sees and whose file says who may
    /// come, the client decides.
    Required(Arc<rustls::ServerConfig>),
}

/// What peers may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all peers.
    pub connections: usize,
    /// Connections of one IP address. Unix sockets are not counted.
    pub connections_per_peer: usize,
    /// Time from connecting to choosing an export, TLS included.
    pub handshake_timeout: Duration,
    /// Requests of one connection that wait for a disk.
    pub in_flight_requests: usize,
    /// Payload bytes that one connection holds in memory; one request of any size is always taken.
    pub in_flight_bytes: u64,
    /// Payload bytes that all connections hold together, beyond one small request for each. At least 32 MiB, the longest
    /// payload.
    pub memory_bytes: u64,
    /// For how long a peer may stand still in the middle of a payload or before its replies while another connection
    /// waits for the memory.
    pub standstill_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_peer: 256,
            handshake_timeout: Duration::from_secs(15),
            in_flight_requests: 128,
            in_flight_bytes: 16 * 1024 * 1024,
            memory_bytes: 128 * 1024 * 1024,
            standstill_timeout: Duration::from_secs(15),
        }
    }
}

/// A running server. Dropping it closes everything at once; see [`Server::shutdown`].
pub struct Server {
    addresses: Vec<BoundAddress>,
    accepting: JoinSet<()>,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens on all `endpoints` and serves what `directory` shows.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Errors
    /// If one of the endpoints cannot be listened on; then none is.
    pub fn start(
        config: ServerConfig,
        endpoints: Vec<Endpoint>,
        directory: Arc<dyn ExportDirectory>,
        pool: Arc<BlockingPool>,
        metrics: Metrics,
    ) -> Result<Self, StartError> {
        let listeners = endpoints
            .into_iter()
            .map(Listener::bind)
            .collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared::new(config, directory, pool, metrics));
        let mut accepting = JoinSet::new();
        let mut addresses = Vec::new();
        for listener in listeners {
            addresses.push(listener.address().clone());
            accepting.spawn(connection::accept(listener, Arc::clone(&shared)));
        }
        Ok(Self {
            addresses,
            accepting,
            shared,
        })
    }

    /// Where the server listens, in the order of the endpoints, with the ports that the system chose.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.addresses
    }

    /// Stops listening, lets the requests that are in flight be answered, and closes. Connections that are not done
    /// after `grace` are cut. Says whether all were done.
    pub async fn shutdown(mut self, grace: Duration) -> bool {
        self.accepting.shutdown().await;
        self.shared.stop.cancel();
        self.shared.tasks.close();
        let done = tokio::time::timeout(grace, self.shared.tasks.wait())
            .await
            .is_ok();
        self.shared.cut.cancel();
        self.shared.tasks.wait().await;
        done
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.cut.cancel();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Server")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Off => "Off",
            Self::Allowed(_) => "Allowed",
            Self::Required(_) => "Required",
        })
    }
}

/// What all connections of a server use.
struct Shared {
    directory: Arc<dyn ExportDirectory>,
    pool: Arc<BlockingPool>,
    metrics: Metrics,
    acceptor: Option<TlsAcceptor>,
    tls: TlsMode,
    limits: Limits,
    memory: Arc<Memory>,
    slots: Arc<Slots>,
    /// Finish what is in flight, then close.
    stop: CancellationToken,
    /// Close now.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Shared {
    fn new(
        config: ServerConfig,
        directory: Arc<dyn ExportDirectory>,
        pool: Arc<BlockingPool>,
        metrics: Metrics,
    ) -> Self {
        let (tls, acceptor) = match config.tls {
            Tls::Off => (TlsMode::Off, None),
            Tls::Allowed(tls) => (TlsMode::Allowed, Some(TlsAcceptor::from(tls))),
            Tls::Required(tls) => (TlsMode::Required, Some(TlsAcceptor::from(tls))),
        };
        Self {
            directory,
            pool,
            metrics,
            acceptor,
            tls,
            limits: config.limits,
            memory: Arc::new(Memory::new(config.limits.memory_bytes)),
            slots: Arc::new(Slots::new(
                config.limits.connections,
                config.limits.connections_per_peer,
            )),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// What TLS means on a connection of `peer`.
    fn tls_for(&self, peer: &Peer) -> TlsMode {
        match (self.tls, peer.address) {
            (TlsMode::Required, PeerAddress::Unix { .. }) => TlsMode::Allowed,
            (mode, _) => mode,
        }
    }

    fn transmission_limits(&self) -> TransmissionLimits {
        TransmissionLimits {
            in_flight_bytes: self.limits.in_flight_bytes,
            in_flight_requests: self.limits.in_flight_requests,
        }
    }
}
