//! The daemon's side: a thread for each connection, as a stream's content is cut, hashed and compressed by whoever brings it.

mod attach;
mod error;
mod listener;
mod metrics;
mod serving;
mod session;
mod store;
mod streaming;

pub use error::StartError;
pub use listener::{BoundAddress, Endpoint};
pub use metrics::Metrics;
pub use store::{Credentials, Peer, StagedStream, StreamContent, StreamStore, StreamWorkload};

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::ServerConfig as TlsConfig;

use crate::connection::Cutter;
use listener::Listener;
use session::Sessions;

/// How a server treats its clients.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Connections at a time, and half as many sessions again that wait for their clients.
    pub connections: usize,
    /// Time from connecting to a hello that is whole, TLS included.
    pub handshake: Duration,
    /// Content of one session that may be under way.
    pub window_bytes: u64,
    /// How long a session with a stream on its way in outlives its connection.
    pub resume: Duration,
    /// The daemon's version, for clients.
    pub version: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections: 256,
            handshake: Duration::from_secs(15),
            window_bytes: 4 << 20,
            resume: Duration::from_secs(120),
            version: String::new(),
        }
    }
}

/// A running server. Dropping it stops it.
pub struct Server {
    addresses: Vec<BoundAddress>,
    shared: Arc<Shared>,
    accepting: Vec<JoinHandle<()>>,
}

/// What all connections use.
struct Shared {
    config: ServerConfig,
    tls: Arc<TlsConfig>,
    store: Arc<dyn StreamStore>,
    metrics: Metrics,
    sessions: Sessions,
    is_over: AtomicBool,
    /// How many refusals got a name.
    requests: AtomicU64,
    /// Connections whose threads have not ended.
    taken: AtomicUsize,
    /// Those that are served, to be cut at the end.
    served: Mutex<Vec<Arc<Served>>>,
}

/// A connection that is served.
#[derive(Debug)]
struct Served {
    cutter: Cutter,
    /// Until when its client must have been let in.
    welcome_by: Mutex<Option<Instant>>,
}

impl Shared {
    /// Cuts connections whose clients did not say who they are in time.
    fn cut_late(&self) {
        let now = Instant::now();
        for served in self.served.lock().iter() {
            if served.welcome_by.lock().is_some_and(|limit| limit < now) {
                served.cutter.cut();
            }
        }
    }
}

impl Server {
    /// Listens on all `endpoints` and serves what `store` has.
    ///
    /// # Errors
    /// If one of the endpoints cannot be listened on, or the system refuses a thread.
    pub fn start(
        config: ServerConfig,
        endpoints: Vec<Endpoint>,
        tls: Arc<TlsConfig>,
        store: Arc<dyn StreamStore>,
        metrics: Metrics,
    ) -> Result<Self, StartError> {
        let listeners = endpoints
            .into_iter()
            .map(Listener::bind)
            .collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared {
            sessions: Sessions::new(config.resume, config.connections + config.connections / 2),
            taken: AtomicUsize::new(0),
            config,
            tls,
            store,
            metrics,
            is_over: AtomicBool::new(false),
            requests: AtomicU64::new(1),
            served: Mutex::default(),
        });
        let mut server = Self {
            addresses: Vec::new(),
            shared,
            accepting: Vec::new(),
        };
        for listener in listeners {
            server.addresses.push(listener.address().clone());
            let shared = Arc::clone(&server.shared);
            let thread = std::thread::Builder::new().name("ingest-accept".to_owned());
            let thread = thread.spawn(move || listener.accept(&shared));
            server.accepting.push(thread.map_err(StartError::Thread)?);
        }
        Ok(server)
    }

    /// Where the server listens, in the order of the endpoints, with the ports that the system chose.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.addresses
    }

    /// Stops listening and cuts all connections. Streams that were under way are gone; a commit that has begun is waited for, no
    /// longer than `grace`. Says whether all connections ended.
    pub fn stop(&mut self, grace: Duration) -> bool {
        self.shared.is_over.store(true, Ordering::Release);
        for thread in self.accepting.drain(..) {
            // One that panicked has nothing more to say.
            drop(thread.join());
        }
        for served in self.shared.served.lock().iter() {
            served.cutter.cut();
        }
        let began = Instant::now();
        while self.shared.taken.load(Ordering::Acquire) > 0 {
            if began.elapsed() > grace {
                return false;
            }
            std::thread::sleep(POLL);
        }
        self.shared.sessions.clear();
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
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

const POLL: Duration = Duration::from_millis(10);
