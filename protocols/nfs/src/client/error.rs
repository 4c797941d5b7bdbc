//! Why a call of the client failed.

use std::io;

use crate::error::Status;
use crate::wire::Malformed;

/// Why a call of the client failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The connection could not be made or broke.
    #[error("cannot {attempt} the server")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// The server understood the call and refused it.
    #[error("the server refused: {0}")]
    Refused(Status),
    /// The server does not let us mount the path (`mountstat3`).
    #[error("the server refused the mount with status {status}")]
    Mount {
        /// 2: no such path, 13: not for this address, 20: not a folder.
        status: u32,
    },
    /// The program is not registered with the port mapper.
    #[error("the port mapper knows no program {program} version {version}")]
    NotRegistered {
        /// The program.
        program: u32,
        /// Its version.
        version: u32,
    },
    /// The server's RPC layer did not take the call (RFC 5531, part 9).
    #[error("the server did not take the call: {0}")]
    Rpc(RpcRefusal),
    /// The server's bytes cannot be read.
    #[error("the server's answer cannot be read")]
    Malformed,
}

/// How an RPC layer refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RpcRefusal {
    /// It speaks other versions of RPC.
    #[error("other RPC versions ({0} to {1})")]
    RpcMismatch(u32, u32),
    /// It does not take the credential.
    #[error("the credential is refused ({0})")]
    Auth(u32),
    /// It does not have the program.
    #[error("no such program")]
    ProgramUnavailable,
    /// It has the program in other versions.
    #[error("other versions ({0} to {1})")]
    ProgramMismatch(u32, u32),
    /// The program does not have the procedure.
    #[error("no such procedure")]
    ProcedureUnavailable,
    /// It could not read the arguments.
    #[error("garbage arguments")]
    GarbageArguments,
    /// It failed.
    #[error("the server failed")]
    SystemError,
}

impl From<Malformed> for ClientError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl ClientError {
    /// The NFS status, if the server refused with one.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Refused(status) => Some(*status),
            _ => None,
        }
    }
}
