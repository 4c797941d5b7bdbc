//! What a server serves: whoever has the repository implements this.

use std::fmt;
use std::net::SocketAddr;

use crate::wire::{About, Entry, Listed, Refusal};

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Over TLS.
    Tcp(SocketAddr),
    /// On this machine, with its user's number if the system tells.
    Unix {
        /// The user's number.
        uid: Option<u32>,
    },
}

/// What a client says of itself.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Where it is.
    pub peer: Peer,
    /// Its token.
    pub token: Option<&'a str>,
    /// The workload that it asks for.
    pub workload: Option<&'a str>,
}

/// All workloads.
pub trait StreamStore: Send + Sync + fmt::Debug + 'static {
    /// The workload that this client is for.
    ///
    /// # Errors
    /// If it is for none.
    fn admit(&self, credentials: &Credentials<'_>) -> Result<Box<dyn StreamWorkload>, Refusal>;
}

/// The streams of one workload, as far as one client may reach them.
pub trait StreamWorkload: Send + Sync + fmt::Debug + 'static {
    /// The workload's name.
    fn name(&self) -> &str;

    /// Who the client is. Only the same one may go on with a session.
    fn holder(&self) -> &str;

    /// Begins a stream. Nobody sees it before it is committed, but its name is taken.
    ///
    /// # Errors
    /// If there is one of that name or one under way, or this client may not.
    fn begin(&self, name: &str, about: &About) -> Result<Box<dyn StagedStream>, Refusal>;

    /// A stream from its byte `offset` on.
    ///
    /// # Errors
    /// If there is none, it is shorter, or this client may not.
    fn open(&self, name: &str, offset: u64) -> Result<(Entry, Box<dyn StreamContent>), Refusal>;

    /// Streams whose names begin with `prefix`, by name, behind `after`.
    ///
    /// # Errors
    /// If this client may not.
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listed, Refusal>;

    /// What these streams are.
    ///
    /// # Errors
    /// If this client may not.
    fn describe(&self, names: &[String]) -> Result<Vec<Option<Entry>>, Refusal>;

    /// Removes all of these that there are, or none. Says which there were.
    ///
    /// # Errors
    /// If one of them must stay, or this client may not.
    fn remove(&self, names: &[String]) -> Result<Vec<bool>, Refusal>;
}

/// A stream on its way in. Dropping it drops the stream.
pub trait StagedStream: Send {
    /// Adds content.
    ///
    /// # Errors
    /// If it cannot be stored. The stream is lost then.
    fn append(&mut self, bytes: &[u8]) -> Result<(), Refusal>;

    /// Makes the stream durable, and then visible.
    ///
    /// # Errors
    /// If it cannot be.
    fn commit(self: Box<Self>) -> Result<Entry, Refusal>;
}

/// A stream on its way out.
pub trait StreamContent: Send {
    /// What comes next; none at the end.
    ///
    /// # Errors
    /// If what is stored is hurt.
    fn next(&mut self) -> Result<Option<bytes::Bytes>, Refusal>;
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix { uid: Some(uid) } => write!(formatter, "user {uid} of this machine"),
            Self::Unix { uid: None } => formatter.write_str("this machine"),
        }
    }
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("peer", &self.peer)
            .field("workload", &self.workload)
            .finish_non_exhaustive()
    }
}
