//! Addresses to listen on.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use crate::error::StartError;

/// Something to listen on.
#[derive(Debug)]
pub enum Endpoint {
    /// An address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A path for a unix socket.
    Unix {
        /// Where the socket file is made. One that nobody listens on is replaced.
        path: PathBuf,
        /// Who may connect, as permission bits of the socket file.
        mode: u32,
    },
    /// A socket that listens already, from systemd for example.
    TcpListener(std::net::TcpListener),
    /// A socket that listens already, from systemd for example. Its file is not removed at the end.
    UnixListener(std::os::unix::net::UnixListener),
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAddress {
    /// An address with its port.
    Tcp(SocketAddr),
    /// The path of a unix socket; empty if it has none.
    Unix(PathBuf),
}

impl BoundAddress {
    /// The NBD URI of the export `name` at this address.
    pub fn uri(&self, name: &str) -> String {
        let name = escape(name);
        match self {
            Self::Tcp(address) => format!("nbd://{address}/{name}"),
            Self::Unix(path) => format!(
                "nbd+unix:///{name}?socket={}",
                escape(&path.to_string_lossy())
            ),
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

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: ListeningSocket,
    address: BoundAddress,
    /// Removes the socket file at the end.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(super) fn bind(endpoint: Endpoint) -> Result<Self, StartError> {
        let name = match &endpoint {
            Endpoint::Tcp(address) => address.to_string(),
            Endpoint::Unix { path, .. } => path.display().to_string(),
            Endpoint::TcpListener(_) | Endpoint::UnixListener(_) => {
                "the socket that was passed in".to_owned()
            }
        };
        let failed = |source| StartError::Listen {
            address: name.clone(),
            source,
        };
        match endpoint {
            Endpoint::Tcp(address) => {
                Self::tcp(std::net::TcpListener::bind(address).map_err(failed)?).map_err(failed)
            }
            Endpoint::TcpListener(listener) => Self::tcp(listener).map_err(failed),
            Endpoint::UnixListener(listener) => Self::unix(listener, None).map_err(failed),
            Endpoint::Unix { path, mode } => {
                let (listener, file) = SocketFile::bind(&path, mode)?;
                Self::unix(listener, Some(file)).map_err(failed)
            }
        }
    }

    pub(super) fn address(&self) -> &BoundAddress {
        &self.address
    }

    fn tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = BoundAddress::Tcp(listener.local_addr()?);
        Ok(Self {
            socket: ListeningSocket::Tcp(listener),
            address,
            _file: None,
        })
    }

    fn unix(
        listener: std::os::unix::net::UnixListener,
        file: Option<SocketFile>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let path = listener
            .local_addr()?
            .as_pathname()
            .map(Path::to_path_buf)
            .unwrap_or_default();
        Ok(Self {
            socket: ListeningSocket::Unix(listener),
            address: BoundAddress::Unix(path),
            _file: file,
        })
    }
}

/// A socket file that this process made and removes, unless somebody has put another in its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// Listens on `path`, after removing a socket file that nobody listens on.
    fn bind(
        path: &Path,
        mode: u32,
    ) -> Result<(std::os::unix::net::UnixListener, Self), StartError> {
        let failed = |source| StartError::Listen {
            address: path.display().to_string(),
            source,
        };
        // Two processes that start at once must not remove one another's new socket.
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let folder = fs::File::open(parent).map_err(failed)?;
        folder.lock().map_err(failed)?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(StartError::NotSocket(path.to_owned()));
            }
            Ok(_) => match StdUnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Ok(_) => return Err(StartError::InUse(path.to_owned())),
                Err(error) => return Err(failed(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
        let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
        Ok((
            listener,
            Self {
                path: path.to_owned(),
                inode,
            },
        ))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket file was not removed");
        }
    }
}

/// Writes a text so that it can stand in a URI.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                escaped.push(byte.into())
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
