//! Listening, and a thread for each connection.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ServerConnection, StreamOwned};

use super::Shared;
use super::error::StartError;
use super::serving::serve;
use super::store::Peer;
use crate::connection::{Connection, Socket, prepare};

/// Something to listen on.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// An address, with TLS; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A path for a unix socket. A socket file that nobody listens on is replaced.
    Unix {
        /// Where the socket file is made.
        path: PathBuf,
        /// Who may connect, as permission bits of the socket file.
        mode: u32,
    },
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAddress {
    /// An address with its port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

#[derive(Debug)]
pub(super) struct Listener {
    socket: ListeningSocket,
    address: BoundAddress,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(TcpListener),
    /// With the number of its file, which is removed at the end.
    Unix(UnixListener, u64),
}

impl Listener {
    pub(super) fn bind(endpoint: Endpoint) -> Result<Self, StartError> {
        match endpoint {
            Endpoint::Tcp(address) => Self::tcp(address).map_err(|source| StartError::Listen {
                address: address.to_string(),
                source,
            }),
            Endpoint::Unix { path, mode } => {
                let socket = bind_unix(&path, mode)?;
                Ok(Self {
                    socket,
                    address: BoundAddress::Unix(path),
                })
            }
        }
    }

    pub(super) fn address(&self) -> &BoundAddress {
        &self.address
    }

    fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = BoundAddress::Tcp(listener.local_addr()?);
        Ok(Self {
            socket: ListeningSocket::Tcp(listener),
            address,
        })
    }

    /// Takes connections until the server stops.
    pub(super) fn accept(&self, shared: &Arc<Shared>) {
        while !shared.is_over.load(Ordering::Acquire) {
            shared.sessions.reap();
            shared.cut_late();
            match self.wait().and_then(|()| self.take(shared)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "connection was not accepted");
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    /// Until somebody connects, or for a moment.
    fn wait(&self) -> io::Result<()> {
        let mut waited = match &self.socket {
            ListeningSocket::Tcp(socket) => [PollFd::new(socket, PollFlags::IN)],
            ListeningSocket::Unix(socket, _) => [PollFd::new(socket, PollFlags::IN)],
        };
        match poll(&mut waited, Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&self, shared: &Arc<Shared>) -> io::Result<()> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => {
                let (socket, address) = listener.accept()?;
                start(shared, Incoming::Tcp(socket), Peer::Tcp(address))
            }
            ListeningSocket::Unix(listener, _) => {
                let (socket, _) = listener.accept()?;
                let credentials = rustix::net::sockopt::socket_peercred(&socket);
                let uid = credentials.ok().map(|found| found.uid.as_raw());
                start(shared, Incoming::Unix(socket), Peer::Unix { uid })
            }
        }
    }
}

enum Incoming {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Serves a connection on a thread of its own, if there is room for it.
fn start(shared: &Arc<Shared>, incoming: Incoming, peer: Peer) -> io::Result<()> {
    let Some(place) = Place::take(shared) else {
        shared.metrics.turned_away.inc();
        tracing::warn!(%peer, "too many connections for streams: see `connections` under [ingest]");
        return Ok(());
    };
    std::thread::Builder::new()
        .name("ingest".to_owned())
        .spawn(move || {
            let shared = &place.0;
            let connection = match incoming {
                Incoming::Unix(socket) => {
                    socket.set_nonblocking(false).map(|()| Socket::Unix(socket))
                }
                Incoming::Tcp(socket) => secure(socket, shared),
            };
            match connection {
                Ok(socket) => serve(Connection::new(socket), peer, shared),
                Err(error) => {
                    shared.metrics.turned_away.inc();
                    tracing::debug!(%peer, %error, "a connection did not come to speak TLS");
                }
            }
        })
        .map(drop)
}

/// One of the connections that there may be, until it is dropped.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let limit = shared.config.connections;
        let one_more = |taken: usize| (taken < limit).then_some(taken + 1);
        shared
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .ok()
            .map(|_| Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

fn secure(mut socket: TcpStream, shared: &Shared) -> io::Result<Socket> {
    socket.set_nonblocking(false)?;
    prepare(&socket)?;
    socket.set_read_timeout(Some(shared.config.handshake))?;
    let tls = ServerConnection::new(Arc::clone(&shared.tls));
    let mut tls = tls.map_err(io::Error::other)?;
    let began = std::time::Instant::now();
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
        if began.elapsed() > shared.config.handshake {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(Socket::Server(Box::new(StreamOwned::new(tls, socket))))
}

/// Listens on `path`, after removing a socket file that nobody listens on.
fn bind_unix(path: &Path, mode: u32) -> Result<ListeningSocket, StartError> {
    let failed = |source| StartError::Listen {
        address: path.display().to_string(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(StartError::NotSocket(path.to_owned()));
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
            }
            Ok(_) => return Err(StartError::InUse(path.to_owned())),
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
    Ok(ListeningSocket::Unix(listener, inode))
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (ListeningSocket::Unix(_, inode), BoundAddress::Unix(path)) =
            (&self.socket, &self.address)
        {
            let is_ours = fs::symlink_metadata(path).is_ok_and(|found| found.ino() == *inode);
            if is_ours && let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "socket file was not removed");
            }
        }
    }
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => path.display().fmt(formatter),
        }
    }
}

/// How often the server looks whether it is to stop, and for sessions that nobody came back to.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
