//! Sockets of the HTTP interface: TLS over TCP, and the control socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::Core;
use crate::config::Config;
use crate::start::StartError;
use crate::state::{Fingerprint, Identity, StateFolder};

use super::access::Peer;
use super::handover::{self, Arrival};

/// Sockets that listen, before anything is served.
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    address: SocketAddr,
    control: UnixListener,
    control_path: PathBuf,
    fingerprint: Fingerprint,
    tls: Arc<rustls::ServerConfig>,
}

/// The running interface.
#[derive(Debug)]
pub struct ApiServer {
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
    control_path: PathBuf,
}

/// What each connection needs.
#[derive(Clone)]
struct Shared {
    core: Arc<Core>,
    router: Router,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
    /// Connections over TLS that may still come.
    remote_places: Arc<Semaphore>,
    /// The same of the control socket: strangers who hold all of the others do not keep the operator out.
    local_places: Arc<Semaphore>,
}

impl Listeners {
    /// Takes the port and the socket.
    ///
    /// # Errors
    /// If a port is taken or the certificate cannot be used.
    pub async fn bind(
        config: &Config,
        state: &StateFolder,
        identity: &Identity,
    ) -> Result<Self, StartError> {
        let tls = identity.http_config()?;
        let wanted = config.api.listen;
        let tcp = TcpListener::bind(wanted)
            .await
            .map_err(|error| StartError::listen("the HTTP interface", wanted, &error))?;
        let address = tcp
            .local_addr()
            .map_err(|error| StartError::listen("the HTTP interface", wanted, &error))?;
        let control_path = state.control_socket();
        let failed = |error: &io::Error| {
            StartError::listen("the control socket", control_path.display(), error)
        };
        // The repository's lock is ours, so a socket that is there was left by a daemon that was killed.
        drop(std::fs::remove_file(&control_path));
        let control = UnixListener::bind(&control_path).map_err(|error| failed(&error))?;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&control_path, private).map_err(|error| failed(&error))?;
        Ok(Self {
            tcp,
            address,
            control,
            control_path,
            fingerprint: identity.fingerprint(),
            tls,
        })
    }

    /// Where HTTPS listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Serves from now on.
    pub(crate) fn serve(self, core: &Arc<Core>) -> ApiServer {
        let shared = Shared {
            core: Arc::clone(core),
            router: super::router(core),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            remote_places: Arc::new(Semaphore::new(core.config.api.connections)),
            local_places: Arc::new(Semaphore::new(core.config.api.connections)),
        };
        let server = ApiServer {
            stop: shared.stop.clone(),
            cut: shared.cut.clone(),
            tasks: shared.tasks.clone(),
            control_path: self.control_path,
        };
        let acceptor = TlsAcceptor::from(self.tls);
        shared
            .tasks
            .spawn(accept_remote(self.tcp, acceptor, shared.clone()));
        shared
            .tasks
            .spawn(accept_local(self.control, shared.clone()));
        server
    }
}

impl ApiServer {
    /// Takes no more connections, lets requests under way end for `grace`, then cuts them.
    pub async fn stop(self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some HTTP requests were cut");
        }
        self.cut.cancel();
        self.tasks.wait().await;
        drop(std::fs::remove_file(&self.control_path));
    }
}

async fn accept_remote(listener: TcpListener, acceptor: TlsAcceptor, shared: Shared) {
    while let Some(permit) = shared.place(&shared.remote_places).await {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let (acceptor, connection) = (acceptor.clone(), shared.clone());
        shared.tasks.spawn(async move {
            let _permit = permit;
            // A delay of small packets is all that is lost if this fails.
            drop(stream.set_nodelay(true));
            let limit = connection.core.config.api.read_timeout.duration();
            match tokio::time::timeout(limit, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => connection.serve(stream, Peer::Remote).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
        });
    }
}

async fn accept_local(listener: UnixListener, shared: Shared) {
    while let Some(permit) = shared.place(&shared.local_places).await {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        if !is_trusted(&stream) {
            tracing::warn!("turned another user away from the control socket");
            continue;
        }
        let connection = shared.clone();
        shared.tasks.spawn(async move {
            let _permit = permit;
            let limit = connection.core.config.api.read_timeout.duration();
            match tokio::time::timeout(limit, handover::receive(stream)).await {
                Ok(Ok(Arrival::Request(stream))) => connection.serve(stream, Peer::Local).await,
                Ok(Ok(Arrival::Descriptor(stream, descriptor))) => {
                    connection.hold(stream, descriptor).await
                }
                Ok(Err(error)) => tracing::debug!(%error, "a control connection failed"),
                Err(_) => tracing::debug!("a control connection stayed silent"),
            }
        });
    }
}

impl Shared {
    /// A place for one more connection; `None` when the server stops.
    async fn place(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            () = self.stop.cancelled() => None,
            place = Arc::clone(places).acquire_owned() => place.ok(),
        }
    }

    async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
    ) {
        let service = self.router.clone().map_request(
            move |mut request: hyper::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(peer);
                request.map(axum::body::Body::new)
            },
        );
        let mut builder = Builder::new(TokioExecutor::new()).http1_only();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.core.config.api.read_timeout.duration());
        let connection =
            builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = self.cut.cancelled() => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(?peer, %error, "a connection ended early");
        }
    }

    /// Keeps a descriptor for as long as its connection lives.
    async fn hold(&self, stream: UnixStream, descriptor: OwnedFd) {
        let held = self.core.descriptors.hold(descriptor);
        let ended = tokio::select! {
            ended = handover::answer_and_wait(stream, held.id()) => ended,
            () = self.cut.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a hand-over connection ended early");
        }
    }
}

/// Whether root or the daemon's own user is at the other end.
fn is_trusted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot take a connection");
    tokio::time::sleep(Duration::from_millis(20)).await;
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Shared")
    }
}
