//! Making a connection, up to the daemon's welcome.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;

use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use super::error::ClientError;
use super::settings::{Place, Settings};
use crate::connection::{Connection, ReceiveError, Socket, prepare};
use crate::tls::pinned;
use crate::wire::{Frame, Hello, Kind, MAGIC, Refusal, SessionId, Welcome};

/// Connects, for a new session or to go on with one.
pub(super) fn dial(
    settings: &Settings,
    session: Option<SessionId>,
) -> Result<(Connection, Welcome), ClientError> {
    let failed = |error: io::Error| ClientError::Connect {
        place: settings.place.to_string(),
        reason: error.to_string(),
    };
    let socket = match &settings.place {
        Place::Unix(path) => Socket::Unix(UnixStream::connect(path).map_err(failed)?),
        Place::Tcp {
            address,
            fingerprint,
        } => {
            let socket = reach(address, settings).map_err(failed)?;
            secure(socket, address, *fingerprint, settings)?
        }
    };
    let mut connection = Connection::new(socket);
    connection
        .set_silence(Some(settings.silence))
        .map_err(failed)?;
    let hello = Hello {
        token: settings.token.clone(),
        workload: settings.workload.clone(),
        client: settings.client.clone(),
        session,
    };
    connection.send_bytes(&MAGIC).map_err(failed)?;
    // A daemon that turns this client away may have closed before it read all; its word still waits to be read.
    let sent = connection.send(&Frame::document(Kind::Hello, &hello));
    loop {
        match connection.receive() {
            Ok(frame) if frame.kind == Kind::Wait => {}
            Ok(frame) if frame.kind == Kind::Welcome => {
                return Ok((connection, frame.read()?));
            }
            Ok(frame) if frame.kind == Kind::Refused => {
                return Err(ClientError::Refused(frame.read::<Refusal>()?));
            }
            Ok(frame) => return Err(super::unexpected(&frame)),
            Err(ReceiveError::Malformed(malformed)) => return Err(malformed.into()),
            Err(ReceiveError::Socket(error)) => return Err(failed(sent.err().unwrap_or(error))),
            Err(ReceiveError::Closed) => {
                let closed = io::Error::new(io::ErrorKind::ConnectionReset, "it closed at once");
                return Err(failed(closed));
            }
        }
    }
}

fn reach(address: &str, settings: &Settings) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, settings.connect) {
            Ok(socket) => {
                prepare(&socket)?;
                socket.set_read_timeout(Some(settings.connect))?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn secure(
    mut socket: TcpStream,
    address: &str,
    fingerprint: [u8; 32],
    settings: &Settings,
) -> Result<Socket, ClientError> {
    let place = || settings.place.to_string();
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    let untrusted = |reason: String| ClientError::Untrusted {
        place: place(),
        reason,
    };
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| untrusted(error.to_string()))?;
    let connection = ClientConnection::new(pinned(fingerprint), name);
    let mut connection = connection.map_err(|error| untrusted(error.to_string()))?;
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut socket) {
            // What TLS itself does not like is no fault of the network.
            return Err(match error.kind() {
                io::ErrorKind::InvalidData => untrusted(error.to_string()),
                _ => ClientError::Connect {
                    place: place(),
                    reason: error.to_string(),
                },
            });
        }
    }
    Ok(Socket::Client(Box::new(StreamOwned::new(
        connection, socket,
    ))))
}
