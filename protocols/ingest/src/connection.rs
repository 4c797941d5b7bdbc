//! Frames over a socket that blocks.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::{ClientConnection, StreamOwned};

use crate::wire::{Frame, HEAD_BYTES, Head, Kind, Malformed};

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The other side closed, between two frames.
    #[error("the connection was closed")]
    Closed,
    /// The socket failed, or the other side was silent for too long.
    #[error("the connection broke")]
    Socket(#[from] io::Error),
    /// What came is not of this protocol.
    #[error("the other side does not keep to the protocol")]
    Malformed(#[from] Malformed),
}

/// A connection, with TLS or without.
pub(crate) enum Socket {
    /// On this machine.
    Unix(UnixStream),
    /// Over a network, from the client's side.
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Over a network, from the daemon's side.
    #[cfg(feature = "server")]
    Server(Box<StreamOwned<rustls::ServerConnection, TcpStream>>),
}

/// Sends and receives frames.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
}

/// Ends a connection that somebody else waits on.
#[cfg(feature = "server")]
#[derive(Debug)]
pub(crate) enum Cutter {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Connection {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket }
    }

    /// Longest wait for bytes; none waits for ever.
    pub(crate) fn set_silence(&self, limit: Option<Duration>) -> io::Result<()> {
        match &self.socket {
            Socket::Unix(socket) => socket.set_read_timeout(limit),
            Socket::Client(tls) => tls.sock.set_read_timeout(limit),
            #[cfg(feature = "server")]
            Socket::Server(tls) => tls.sock.set_read_timeout(limit),
        }
    }

    /// What ends this connection from another thread.
    #[cfg(feature = "server")]
    pub(crate) fn cutter(&self) -> io::Result<Cutter> {
        Ok(match &self.socket {
            Socket::Unix(socket) => Cutter::Unix(socket.try_clone()?),
            Socket::Client(tls) => Cutter::Tcp(tls.sock.try_clone()?),
            Socket::Server(tls) => Cutter::Tcp(tls.sock.try_clone()?),
        })
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)?;
        self.socket.flush()
    }

    pub(crate) fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let head = Head {
            kind: frame.kind,
            length: frame.payload.len(),
        };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + frame.payload.len());
        bytes.extend_from_slice(&head.encode());
        bytes.extend_from_slice(&frame.payload);
        self.send_bytes(&bytes)
    }

    pub(crate) fn send_data(&mut self, offset: u64, content: &[u8]) -> io::Result<()> {
        let head = Head {
            kind: Kind::Data,
            length: 8 + content.len(),
        };
        let mut before = [0; HEAD_BYTES + 8];
        let (first, second) = before.split_at_mut(HEAD_BYTES);
        first.copy_from_slice(&head.encode());
        second.copy_from_slice(&offset.to_le_bytes());
        self.socket.write_all(&before)?;
        self.socket.write_all(content)?;
        self.socket.flush()
    }

    /// The next frame.
    pub(crate) fn receive(&mut self) -> Result<Frame, ReceiveError> {
        receive_from(&mut self.socket)
    }

    /// So many bytes, for what is no frame.
    #[cfg(feature = "server")]
    pub(crate) fn receive_bytes(&mut self, bytes: &mut [u8]) -> Result<(), ReceiveError> {
        Ok(self.socket.read_exact(bytes)?)
    }

    /// Says goodbye; a peer that is gone does not mind.
    pub(crate) fn close(mut self) {
        match &mut self.socket {
            Socket::Unix(socket) => drop(socket.shutdown(Shutdown::Both)),
            Socket::Client(tls) => {
                tls.conn.send_close_notify();
                drop(tls.flush());
                drop(tls.sock.shutdown(Shutdown::Both));
            }
            #[cfg(feature = "server")]
            Socket::Server(tls) => {
                tls.conn.send_close_notify();
                drop(tls.flush());
                drop(tls.sock.shutdown(Shutdown::Both));
            }
        }
    }
}

fn receive_from(source: &mut impl Read) -> Result<Frame, ReceiveError> {
    let mut head = [0; HEAD_BYTES];
    let first = loop {
        match source.read(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A peer that leaves without the goodbye of TLS has closed too.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ReceiveError::Closed);
            }
            read => break read?,
        }
    };
    if first == 0 {
        return Err(ReceiveError::Closed);
    }
    source.read_exact(head.get_mut(first..).unwrap_or_default())?;
    let head = Head::decode(head)?;
    let mut payload = vec![0; head.length];
    source.read_exact(&mut payload)?;
    Ok(Frame {
        kind: head.kind,
        payload,
    })
}

/// Makes TCP send small frames at once, and find out when the other side is gone.
pub(crate) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(socket, UNANSWERED_MILLISECONDS)?;
    Ok(())
}

/// Takes all frames of `bytes` apart, as a peer would send them.
pub fn fuzz_frames(mut bytes: &[u8]) {
    while let Ok(frame) = receive_from(&mut bytes) {
        let parts = (frame.read_data(), frame.read_offset(), frame.read_ending());
        assert!(
            parts.1.is_err() || parts.2.is_err(),
            "they have other lengths"
        );
        drop(frame.read::<crate::wire::Hello>());
        drop(frame.read::<crate::wire::Welcome>());
        drop(frame.read::<crate::wire::Put>());
        drop(frame.read::<crate::wire::Get>());
        drop(frame.read::<crate::wire::List>());
        drop(frame.read::<crate::wire::Listed>());
        drop(frame.read::<crate::wire::Describe>());
        drop(frame.read::<crate::wire::Described>());
        drop(frame.read::<crate::wire::Remove>());
        drop(frame.read::<crate::wire::Removed>());
        drop(frame.read::<crate::wire::Refusal>());
    }
}

#[cfg(feature = "server")]
impl Cutter {
    pub(crate) fn cut(&self) {
        // One that is closed already needs no cut.
        match self {
            Self::Unix(socket) => drop(socket.shutdown(Shutdown::Both)),
            Self::Tcp(socket) => drop(socket.shutdown(Shutdown::Both)),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            Self::Client(tls) => tls.read(buffer),
            #[cfg(feature = "server")]
            Self::Server(tls) => tls.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(bytes),
            Self::Client(tls) => tls.write(bytes),
            #[cfg(feature = "server")]
            Self::Server(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.flush(),
            Self::Client(tls) => tls.flush(),
            #[cfg(feature = "server")]
            Self::Server(tls) => tls.flush(),
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unix(_) => "Unix",
            Self::Client(_) => "Client",
            #[cfg(feature = "server")]
            Self::Server(_) => "Server",
        })
    }
}

const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;
/// How long what was sent may stay without the other machine's word that it came.
const UNANSWERED_MILLISECONDS: u32 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            fuzz_frames(&bytes);
        }

        #[test]
        fn any_payload_is_taken_apart(kind in prop::sample::select(vec![1_u8, 2, 3, 6, 9, 128, 135, 139]),
                                      payload in "[\\PC\"{}:,\\[\\]0-9a-z]{0,60}") {
            let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
            let bytes = [&length[..], &[kind, 0, 0, 0], payload.as_bytes()].concat();
            fuzz_frames(&bytes);
        }
    }

    #[test]
    fn frames_end_where_they_end() {
        let frame = Frame::offset(Kind::Staged, 5);
        let head = Head {
            kind: frame.kind,
            length: 8,
        }
        .encode();
        let whole = [&head[..], &frame.payload].concat();
        let mut source = [&whole[..], &whole[..9]].concat();
        let mut source = &source.split_off(0)[..];
        assert_eq!(receive_from(&mut source).unwrap(), frame);
        assert!(matches!(
            receive_from(&mut source),
            Err(ReceiveError::Socket(_))
        ));
        assert!(matches!(
            receive_from(&mut &[][..]),
            Err(ReceiveError::Closed)
        ));
    }
}
