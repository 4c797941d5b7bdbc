//! Sockets for the HTTP client: the control socket, or TLS with a pinned certificate.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, LazyBuffers, NextTimeout, Transport,
};

use super::Place;

/// Makes connections to one place.
#[derive(Debug)]
pub(super) struct Connector {
    target: Target,
    /// Set once the daemon closed its end: it has answered before it read everything.
    closed: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Target {
    Local(PathBuf),
    Remote(Arc<ClientConfig>),
}

impl Connector {
    pub(super) fn new(place: &Place, closed: Arc<AtomicBool>) -> Self {
        let target = match place {
            Place::Local { socket } => Target::Local(socket.clone()),
            Place::Remote { fingerprint, .. } => {
                Target::Remote(ingest::pinned(fingerprint.bytes()))
            }
        };
        Self { target, closed }
    }

    fn open(&self, details: &ConnectionDetails<'_>) -> io::Result<Stream> {
        match &self.target {
            Target::Local(socket) => UnixStream::connect(socket).map(Stream::Local),
            Target::Remote(config) => {
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                for address in &details.addrs {
                    match TcpStream::connect_timeout(address, CONNECT_LIMIT) {
                        Ok(stream) => {
                            return secure(stream, config, details)
                                .map(|stream| Stream::Remote(Box::new(stream)));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

impl ureq::unversioned::transport::Connector for Connector {
    type Out = Connection;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Connection>, ureq::Error> {
        self.closed.store(false, Ordering::Relaxed);
        let stream = self.open(details).map_err(ureq::Error::Io)?;
        Ok(Some(Connection {
            stream,
            closed: Arc::clone(&self.closed),
            buffers: LazyBuffers::new(BUFFER_BYTES, BUFFER_BYTES),
        }))
    }
}

/// One connection.
pub(super) struct Connection {
    stream: Stream,
    closed: Arc<AtomicBool>,
    buffers: LazyBuffers,
}

enum Stream {
    Local(UnixStream),
    Remote(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        if self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let written = match &mut self.stream {
            Stream::Local(stream) => stream.write_all(output),
            Stream::Remote(stream) => stream.write_all(output),
        };
        match written {
            // A daemon that refuses need not read the rest. Its answer is there to be read and says why.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            written => Ok(written?),
        }
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let buffer = self.buffers.input_append_buf();
        let amount = match &mut self.stream {
            Stream::Local(stream) => stream.read(buffer)?,
            Stream::Remote(stream) if self.closed.load(Ordering::Relaxed) => {
                read_rest(stream, buffer)?
            }
            Stream::Remote(stream) => stream.read(buffer)?,
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        // Requests are few: each may take a new connection, which is never found dead.
        false
    }

    fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Remote(_))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.stream {
            Stream::Local(_) => "Connection(local)",
            Stream::Remote(_) => "Connection(remote)",
        })
    }
}

/// Reads from a connection that takes nothing any more. `StreamOwned` would first try to send what is left.
fn read_rest(
    stream: &mut StreamOwned<ClientConnection, TcpStream>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match stream.conn.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        if stream.conn.read_tls(&mut stream.sock)? == 0 {
            return Ok(0);
        }
        stream
            .conn
            .process_new_packets()
            .map_err(io::Error::other)?;
    }
}

fn secure(
    mut stream: TcpStream,
    config: &Arc<ClientConfig>,
    details: &ConnectionDetails<'_>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    stream.set_nodelay(true)?;
    let host = details
        .uri
        .host()
        .unwrap_or("localhost")
        .trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut connection =
        ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    stream.set_read_timeout(Some(CONNECT_LIMIT))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    stream.set_read_timeout(None)?;
    Ok(StreamOwned::new(connection, stream))
}

const CONNECT_LIMIT: Duration = Duration::from_secs(15);
const BUFFER_BYTES: usize = 256 * 1024;
