//! Sockets: portals, limits, and one task for each connection.

mod connection;
mod portal;
mod pump;
mod sessions;

pub use portal::Portal;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use export::{BlockingPool, PayloadBuffers, Slots};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::TargetDirectory;
use crate::error::StartError;
use crate::metrics::Metrics;
use crate::session::{Budget, Control, Offer, SessionLimits, Timing};
use portal::Listener;
use sessions::Sessions;

/// How a server treats its initiators.
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// What initiators may use up.
    pub limits: Limits,
    /// What the target can do, for logins to agree on.
    pub offer: Offer,
}

/// What initiators may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all initiators.
    pub connections: usize,
    /// Connections of one IP address.
    pub connections_per_peer: usize,
    /// Connections that have not logged in yet.
    pub logins: usize,
    /// Sessions of one initiator.
    pub sessions_per_initiator: usize,
    /// Time from connecting to the end of the login.
    pub login_timeout: Duration,
    /// Commands that one session may have outstanding.
    pub queue_depth: u32,
    /// Bytes of data that one session holds in memory; one command of any size is always taken.
    pub in_flight_bytes: u64,
    /// Bytes of data that all sessions hold in memory.
    pub memory_bytes: u64,
    /// How long a session waits for its initiator.
    pub timing: Timing,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_peer: 256,
            logins: 64,
            sessions_per_initiator: 64,
            login_timeout: Duration::from_secs(15),
            queue_depth: 128,
            in_flight_bytes: 16 * 1024 * 1024,
            memory_bytes: 256 * 1024 * 1024,
            timing: Timing {
                ping_after: Duration::from_secs(30),
                ping_timeout: Duration::from_secs(30),
                stall_timeout: Duration::from_secs(60),
            },
        }
    }
}

/// A running server. Dropping it closes everything at once; see [`Server::shutdown`].
pub struct Server {
    addresses: Vec<SocketAddr>,
    accepting: JoinSet<()>,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens on all `portals` and serves what `directory` shows.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Errors
    /// If one of the portals cannot be listened on; then none is.
    pub fn start(
        config: ServerConfig,
        portals: Vec<Portal>,
        directory: Arc<dyn TargetDirectory>,
        pool: Arc<BlockingPool>,
        metrics: Metrics,
    ) -> Result<Self, StartError> {
        let listeners = portals
            .into_iter()
            .map(Listener::bind)
            .collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<SocketAddr> = listeners.iter().map(Listener::address).collect();
        let limits = config.limits;
        let shared = Arc::new(Shared {
            portals: listeners.iter().map(Listener::shown).collect(),
            directory,
            pool,
            metrics,
            offer: config.offer,
            limits,
            payloads: PayloadBuffers::new(KEPT_BYTES),
            budget: Arc::new(Budget::new(limits.memory_bytes)),
            slots: Arc::new(Slots::new(limits.connections, limits.connections_per_peer)),
            logins: Arc::new(Slots::new(limits.logins, usize::MAX)),
            sessions: Arc::new(Sessions::new(limits.sessions_per_initiator)),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(connection::accept(listener, Arc::clone(&shared)));
        }
        Ok(Self {
            addresses,
            accepting,
            shared,
        })
    }

    /// Where the server listens, in the order of the portals, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How many sessions are logged in to the target `name`.
    pub fn sessions_of(&self, name: &str) -> usize {
        self.shared.sessions.of_target(name)
    }

    /// Bytes of data that all sessions hold.
    pub fn memory_bytes(&self) -> u64 {
        self.shared.budget.used()
    }

    /// Stops listening, tells initiators that their sessions are dropped and may come back, and closes. Connections
    /// that are not done after `grace` are cut. Says whether all were done.
    pub async fn shutdown(mut self, grace: Duration) -> bool {
        self.accepting.shutdown().await;
        self.shared.stop.cancel();
        self.shared.sessions.tell_all(&|| Control::Drop);
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

/// What all connections of a server use.
struct Shared {
    directory: Arc<dyn TargetDirectory>,
    portals: Vec<portal::Shown>,
    pool: Arc<BlockingPool>,
    metrics: Metrics,
    payloads: PayloadBuffers,
    offer: Offer,
    limits: Limits,
    budget: Arc<Budget>,
    slots: Arc<Slots>,
    logins: Arc<Slots>,
    sessions: Arc<Sessions>,
    /// Let nobody in any more.
    stop: CancellationToken,
    /// Close now.
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// Memory for long data that is kept for the next.
const KEPT_BYTES: usize = 32 * 1024 * 1024;

impl Shared {
    fn session_limits(&self) -> SessionLimits {
        SessionLimits {
            queue_depth: self.limits.queue_depth,
            in_flight_bytes: self.limits.in_flight_bytes,
        }
    }
}
