//! Why a login failed, a connection ended or a server did not start, and which status a peer is told.

use std::io;
use std::time::Duration;

use crate::directory::OpenError;
use crate::wire::Malformed;

/// Why an initiator was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginFailure {
    /// The first PDU was no login; whoever sent it would not understand an answer.
    #[error("PDU {0:#04x} came before a login")]
    NotLogin(u8),
    /// The initiator did not follow the standard.
    #[error("{0}")]
    Protocol(&'static str),
    /// Its text is none.
    #[error("malformed text")]
    Text(#[source] Malformed),
    /// It did not prove what it had to.
    #[error("authentication failed: {0}")]
    Authentication(&'static str),
    /// There is no such target for it.
    #[error("target was not opened")]
    Open(#[source] OpenError),
    /// It speaks only later versions of the protocol.
    #[error("version {0} is not supported")]
    Version(u8),
    /// A session has one connection.
    #[error("session has its connection already")]
    TooManyConnections,
    /// It did not say who it is, or what it wants.
    #[error("a name is missing")]
    MissingParameter,
    /// The kind of session is none.
    #[error("unknown session type")]
    SessionType,
    /// The session it wants to join does not exist.
    #[error("there is no session {0}")]
    NoSession(u16),
    /// There are as many sessions as there may be.
    #[error("too many sessions")]
    TooManySessions,
    /// The server is going away.
    #[error("server is shutting down")]
    ShuttingDown,
    /// Something failed here.
    #[error("no random numbers")]
    Target,
}

impl LoginFailure {
    /// Status class and detail (RFC 7143, 11.13.5); `None` if no response is sent.
    pub fn status(&self) -> Option<u16> {
        Some(match self {
            Self::NotLogin(_) => return None,
            Self::Protocol(_) | Self::Text(_) => 0x0200,
            Self::Authentication(_) => 0x0201,
            Self::Open(OpenError::Forbidden) => 0x0202,
            Self::Open(OpenError::Unknown) => 0x0203,
            Self::Open(OpenError::Removed) => 0x0204,
            Self::Version(_) => 0x0205,
            Self::TooManyConnections => 0x0206,
            Self::MissingParameter => 0x0207,
            Self::SessionType => 0x0209,
            Self::NoSession(_) => 0x020a,
            Self::Target => 0x0300,
            Self::ShuttingDown => 0x0301,
            Self::TooManySessions => 0x0302,
        })
    }
}

/// What a peer did so that its session ends (recovery level 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The digest of a header is wrong: nothing that follows can be understood.
    #[error("header digest is wrong")]
    HeaderDigest,
    /// The digest of a request's data is wrong: the request is lost, and the order of commands with it.
    #[error("data digest of a request is wrong")]
    DataDigest,
    /// A segment is longer than was agreed on.
    #[error("data segment of {0} bytes is too long")]
    SegmentTooLong(usize),
    /// A command is missing: its number was passed over.
    #[error("command {expected} is missing, {got} came")]
    CommandMissing {
        /// The number that should have come.
        expected: u32,
        /// The one that came.
        got: u32,
    },
    /// More than any initiator sends without reading answers.
    #[error("too many requests that are no commands")]
    Flood,
    /// It does not answer.
    #[error("the initiator has been silent for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// It stopped in the middle of a PDU, or of the data that it was asked for.
    #[error("the initiator stopped in the middle")]
    Stalled,
    /// It does not read what it asked for.
    #[error("the initiator does not read")]
    SlowReader,
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The peer broke the protocol or went silent.
    #[error("session ended")]
    Session(#[from] SessionError),
    /// The initiator was not let in.
    #[error("login failed")]
    Login(#[from] LoginFailure),
    /// The socket failed.
    #[error("socket failed")]
    Socket(#[source] io::Error),
    /// The initiator did not log in in time.
    #[error("login took too long")]
    LoginTimeout,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}
