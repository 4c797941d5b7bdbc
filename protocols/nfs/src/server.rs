//! Sockets around [`Session`]s: listeners, limits, and the watch over peers that stand still.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use export::{BlockingPool, Slot, Slots};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use crate::connection::{self, Progress};
use crate::duplicates::DuplicateLimits;
use crate::error::ServerError;
use crate::exports::ExportDirectory;
use crate::handle::HandleKey;
use crate::metrics::Metrics;
use crate::rpcbind;
use crate::service::{Ports, Service, ServiceParts};
use crate::session::{Budget, Session, Window};

/// How a server listens.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where NFS listens; 2049 for clients that cannot be told otherwise (ESXi).
    pub nfs: SocketAddr,
    /// Where MOUNT listens, if not beside NFS on its port.
    pub mount: Option<SocketAddr>,
    /// How clients find the ports.
    pub portmap: Portmap,
    /// The secret behind file handles.
    pub key: HandleKey,
    /// What peers may take.
    pub limits: Limits,
}

/// How clients find the ports of NFS and MOUNT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Portmap {
    /// They are told in another way.
    None,
    /// By our own port mapper, over TCP and UDP; port 111 for clients that cannot be told otherwise.
    BuiltIn(SocketAddr),
    /// By the rpcbind that runs on this machine.
    Rpcbind,
}

/// What peers may take. All memory of the server is bounded by these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest READ and WRITE.
    pub transfer_bytes: u32,
    /// Connections together.
    pub connections: usize,
    /// Connections of one address.
    pub connections_per_peer: usize,
    /// What one connection may have under way.
    pub window: Window,
    /// Bytes under way on all connections together, beyond one request for each.
    pub window_bytes_together: usize,
    /// For how long a record may be unfinished, or a new connection silent.
    pub unfinished_record: Duration,
    /// For how long a peer may leave its answers.
    pub unread_answers: Duration,
    /// Answers kept for repeated calls.
    pub duplicates: DuplicateLimits,
}

/// A running server. Dropping it ends it at once; [`stop`](Server::stop) lets answers go out first.
pub struct Server {
    nfs: SocketAddr,
    mount: SocketAddr,
    portmap: Option<SocketAddr>,
    ports: Ports,
    registered: bool,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens and serves.
    ///
    /// # Errors
    /// If an address is taken, or rpcbind refuses.
    pub async fn start(
        config: ServerConfig,
        exports: Arc<dyn ExportDirectory>,
        pool: Arc<BlockingPool>,
    ) -> Result<Self, ServerError> {
        let (nfs_listener, nfs) = listen("nfs", config.nfs)?;
        let mut listeners = vec![nfs_listener];
        let mut mount = nfs;
        if let Some(address) = config.mount {
            let (listener, bound) = listen("mount", address)?;
            listeners.push(listener);
            mount = bound;
        }
        let mut portmap = None;
        let mut datagrams = None;
        if let Portmap::BuiltIn(address) = config.portmap {
            let (listener, bound) = listen("portmap", address)?;
            listeners.push(listener);
            portmap = Some(bound);
            let bind = UdpSocket::bind(bound).await;
            datagrams = Some(bind.map_err(|source| ServerError::Listen {
                service: "portmap over UDP",
                address: bound,
                source,
            })?);
        }
        let portmap_port = portmap.map_or(0, |address| address.port());
        let ports = Ports {
            nfs: nfs.port(),
            mount: mount.port(),
            portmap: portmap_port,
        };
        let registered = config.portmap == Portmap::Rpcbind;
        if registered {
            rpcbind::register(ports)
                .await
                .map_err(|source| ServerError::Register { source })?;
        }
        let shared = Arc::new(Shared::new(&config, exports, pool, ports));
        let mut tasks = vec![tokio::spawn(watch(Arc::clone(&shared)))];
        for listener in listeners {
            tasks.push(tokio::spawn(accept(listener, Arc::clone(&shared))));
        }
        if let Some(socket) = datagrams {
            tasks.push(tokio::spawn(answer_datagrams(
                socket,
                Arc::clone(&shared.service),
            )));
        }
        tracing::info!(%nfs, %mount, ?portmap, "serving NFS");
        Ok(Self {
            nfs,
            mount,
            portmap,
            ports,
            registered,
            shared,
            tasks,
        })
    }

    /// Where NFS listens.
    pub fn nfs_address(&self) -> SocketAddr {
        self.nfs
    }

    /// Where MOUNT listens.
    pub fn mount_address(&self) -> SocketAddr {
        self.mount
    }

    /// Where the built-in port mapper listens.
    pub fn portmap_address(&self) -> Option<SocketAddr> {
        self.portmap
    }

    /// What was counted so far.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.service.metrics)
    }

    /// Takes no more requests, waits a moment for what is under way, and closes every connection.
    pub async fn stop(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.shared.peers.lock().stopping = true;
        for _ in 0..STOP_STEPS {
            if self.shared.budget.used() == 0 {
                break;
            }
            tokio::time::sleep(STOP_STEP).await;
        }
        if self.registered
            && let Err(error) = rpcbind::unregister(self.ports).await
        {
            tracing::warn!(%error, "rpcbind keeps our ports");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        let mut peers = self.shared.peers.lock();
        peers.stopping = true;
        for connection in peers.connections.values() {
            connection.task.abort();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Server")
            .field("nfs", &self.nfs)
            .field("mount", &self.mount)
            .field("portmap", &self.portmap)
            .finish_non_exhaustive()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transfer_bytes: 1 << 20,
            connections: 4096,
            connections_per_peer: 256,
            window: Window {
                requests: 256,
                bytes: 16 << 20,
            },
            window_bytes_together: 256 << 20,
            unfinished_record: Duration::from_secs(60),
            unread_answers: Duration::from_secs(120),
            duplicates: DuplicateLimits::default(),
        }
    }
}

/// What the tasks of a server share.
pub(crate) struct Shared {
    pub(crate) service: Arc<Service>,
    pub(crate) pool: Arc<BlockingPool>,
    budget: Arc<Budget>,
    limits: Limits,
    slots: Arc<Slots>,
    peers: Mutex<Peers>,
    /// Time in whole steps of the watch, so that connections need no clock.
    ticks: std::sync::atomic::AtomicU64,
}

#[derive(Debug, Default)]
struct Peers {
    stopping: bool,
    next: u64,
    connections: HashMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    progress: Arc<Progress>,
    task: tokio::task::AbortHandle,
}

impl Shared {
    fn new(
        config: &ServerConfig,
        exports: Arc<dyn ExportDirectory>,
        pool: Arc<BlockingPool>,
        ports: Ports,
    ) -> Self {
        let parts = ServiceParts {
            key: config.key.clone(),
            write_verifier: fresh_verifier(),
            duplicates: config.limits.duplicates,
            transfer_bytes: config.limits.transfer_bytes,
            ports,
        };
        Self {
            service: Arc::new(Service::new(exports, Arc::new(Metrics::default()), parts)),
            pool,
            budget: Arc::new(Budget::new(config.limits.window_bytes_together)),
            limits: config.limits,
            slots: Arc::new(Slots::new(
                config.limits.connections,
                config.limits.connections_per_peer,
            )),
            peers: Mutex::new(Peers::default()),
            ticks: std::sync::atomic::AtomicU64::new(1),
        }
    }

    pub(crate) fn tick(&self) -> u64 {
        self.ticks.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Starts to serve a connection, unless there are too many.
    fn admit(self: &Arc<Self>, stream: TcpStream, peer: IpAddr) {
        let mut peers = self.peers.lock();
        let slot = self.slots.take(Some(peer)).filter(|_| !peers.stopping);
        let Some(slot) = slot else {
            self.service.metrics.turned_away.add(1);
            tracing::debug!(%peer, "turned a connection away");
            return;
        };
        let number = peers.next;
        peers.next += 1;
        self.service.metrics.accepted.add(1);
        self.service.metrics.connections.add(1);
        let progress = Arc::new(Progress::new(self.tick()));
        let (answers, completions) = tokio::sync::mpsc::unbounded_channel();
        let (service, budget) = (Arc::clone(&self.service), Arc::clone(&self.budget));
        let session = Session::new(
            service,
            peer,
            self.limits.window,
            budget,
            answers,
            self.pool.payloads().clone(),
        );
        let place = Place {
            shared: Arc::clone(self),
            number,
            _slot: slot,
        };
        let watched = Arc::clone(&progress);
        let task = tokio::spawn(async move {
            connection::serve(stream, session, completions, &place.shared, &watched).await;
        });
        let task = task.abort_handle();
        peers.connections.insert(
            number,
            Connection {
                peer,
                progress,
                task,
            },
        );
    }
}

/// A connection's place in the list, given back when its task ends in whatever way.
struct Place {
    shared: Arc<Shared>,
    number: u64,
    _slot: Slot,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.shared.peers.lock();
        if peers.connections.remove(&self.number).is_some() {
            self.shared.service.metrics.connections.subtract(1);
        }
    }
}

fn listen(
    service: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Listen {
        service,
        address,
        source,
    };
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.map_err(failed)?;
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    let listener = socket.listen(LISTEN_BACKLOG).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => shared.admit(stream, peer.ip().to_canonical()),
            // The peer went away before it was taken, or the process has no descriptor left: go on, but not at once.
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_datagrams(socket: UdpSocket, service: Arc<Service>) {
    let mut datagram = [0_u8; DATAGRAM_MAX];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut datagram).await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let mut out = BytesMut::new();
        if service.datagram(datagram.get(..length).unwrap_or_default(), &mut out) {
            // A datagram has no record mark. If it cannot be sent, the client asks again.
            drop(socket.send_to(out.get(4..).unwrap_or_default(), peer).await);
        }
    }
}

/// Closes connections whose peers stand still in the middle of a record or leave their answers.
async fn watch(shared: Arc<Shared>) {
    let ticks = |limit: Duration| limit.as_millis().div_ceil(TICK.as_millis());
    let record = ticks(shared.limits.unfinished_record);
    let answers = ticks(shared.limits.unread_answers);
    let mut timer = tokio::time::interval(TICK);
    loop {
        timer.tick().await;
        let now = shared
            .ticks
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            + 1;
        for connection in shared.peers.lock().connections.values() {
            if connection.progress.is_stuck(now, record, answers) {
                shared.service.metrics.timed_out.add(1);
                tracing::debug!(peer = %connection.peer, "closed a connection that stood still");
                connection.task.abort();
            }
        }
    }
}

fn fresh_verifier() -> [u8; 8] {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new()
        .hash_one(std::process::id())
        .to_be_bytes()
}

/// Connections that may wait to be taken when many come at once; the system may allow fewer.
const LISTEN_BACKLOG: u32 = 4096;
const TICK: Duration = Duration::from_millis(250);
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
const STOP_STEP: Duration = Duration::from_millis(5);
const STOP_STEPS: usize = 400;
const DATAGRAM_MAX: usize = 2048;
