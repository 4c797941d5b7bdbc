//! Where servers are.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::ClientError;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// A path.
    Unix(PathBuf),
}

/// A text that is not an NBD URI, or one of a kind that is not served here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address like nbd://HOST:PORT/NAME or nbd+unix:///NAME?socket=PATH")]
pub struct BadUri(String);

impl Address {
    /// Takes an NBD URI apart into address and export name.
    ///
    /// # Errors
    /// If it is not of the form `nbd://HOST[:PORT]/NAME` or `nbd+unix:///NAME?socket=PATH`.
    pub fn parse_uri(uri: &str) -> Result<(Self, String), BadUri> {
        let bad = || BadUri(uri.to_owned());
        if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
            let (name, query) = rest.split_once('?').ok_or_else(bad)?;
            let path = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("socket="))
                .ok_or_else(bad)?;
            let path = unescape(path)
                .filter(|path| !path.is_empty())
                .ok_or_else(bad)?;
            return Ok((Self::Unix(path.into()), unescape(name).ok_or_else(bad)?));
        }
        let rest = uri.strip_prefix("nbd://").ok_or_else(bad)?;
        let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() || authority.contains('@') {
            return Err(bad());
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:{DEFAULT_PORT}")
        };
        Ok((Self::Tcp(authority), unescape(name).ok_or_else(bad)?))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => formatter.write_str(address),
            Self::Unix(path) => path.display().fmt(formatter),
        }
    }
}

/// A socket to a server.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) fn connect(
        address: &Address,
        timeout: Option<Duration>,
    ) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect {
            address: address.to_string(),
            source,
        };
        match address {
            Address::Tcp(host) => connect_tcp(host, timeout).map(Self::Tcp).map_err(failed),
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(failed)?;
                stream
                    .set_read_timeout(timeout)
                    .and_then(|()| stream.set_write_timeout(timeout))
                    .map_err(failed)?;
                Ok(Self::Unix(stream))
            }
        }
    }
}

fn connect_tcp(host: &str, timeout: Option<Duration>) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in host.to_socket_addrs()? {
        let connected = match timeout {
            Some(timeout) => TcpStream::connect_timeout(&address, timeout),
            None => TcpStream::connect(address),
        };
        match connected {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Undoes `%XX`; `None` if the text is malformed.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        rest = others;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, others) = rest.split_first_chunk::<2>()?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = others;
    }
    String::from_utf8(bytes).ok()
}

/// The port that is registered for NBD.
const DEFAULT_PORT: u16 = 10809;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoundAddress;

    #[test]
    fn uris_of_the_server_are_read_back() {
        let socket = BoundAddress::Unix("/tmp/a b/s.sock".into());
        let (address, name) = Address::parse_uri(&socket.uri("vm 1/disk%0")).unwrap();
        assert_eq!(address, Address::Unix("/tmp/a b/s.sock".into()));
        assert_eq!(name, "vm 1/disk%0");
        let socket = BoundAddress::Tcp("[::1]:10810".parse().unwrap());
        assert_eq!(
            Address::parse_uri(&socket.uri("x")),
            Ok((Address::Tcp("[::1]:10810".into()), "x".to_owned()))
        );
    }

    #[test]
    fn the_port_is_optional_and_other_forms_are_refused() {
        assert_eq!(
            Address::parse_uri("nbd://host"),
            Ok((Address::Tcp("host:10809".into()), String::new()))
        );
        for bad in [
            "nbds://host/x",
            "nbd://",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "host:1",
            "nbd://h/%4",
        ] {
            assert!(Address::parse_uri(bad).is_err(), "{bad}");
        }
    }
}
