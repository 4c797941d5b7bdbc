//! Why a request was refused, in the words of the standard, and why a server could not start.

use std::io;
use std::net::SocketAddr;

use export::ExportError;

/// `nfsstat3` (RFC 1813, 2.6): what a peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{self:?}")]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum Status {
    Perm,
    NoEntry,
    Io,
    Access,
    Exist,
    CrossDevice,
    NotDirectory,
    IsDirectory,
    Invalid,
    FileTooBig,
    NoSpace,
    ReadOnlyFilesystem,
    NameTooLong,
    NotEmpty,
    Stale,
    BadHandle,
    NotSync,
    BadCookie,
    NotSupported,
    TooSmall,
    ServerFault,
    BadType,
    Jukebox,
    /// A number that the standard does not have, seen by our client.
    Other(u32),
}

impl Status {
    const NUMBERS: [(Self, u32); 23] = [
        (Self::Perm, 1),
        (Self::NoEntry, 2),
        (Self::Io, 5),
        (Self::Access, 13),
        (Self::Exist, 17),
        (Self::CrossDevice, 18),
        (Self::NotDirectory, 20),
        (Self::IsDirectory, 21),
        (Self::Invalid, 22),
        (Self::FileTooBig, 27),
        (Self::NoSpace, 28),
        (Self::ReadOnlyFilesystem, 30),
        (Self::NameTooLong, 63),
        (Self::NotEmpty, 66),
        (Self::Stale, 70),
        (Self::BadHandle, 10001),
        (Self::NotSync, 10002),
        (Self::BadCookie, 10003),
        (Self::NotSupported, 10004),
        (Self::TooSmall, 10005),
        (Self::ServerFault, 10006),
        (Self::BadType, 10007),
        (Self::Jukebox, 10008),
    ];

    /// The number on the wire.
    pub fn number(self) -> u32 {
        if let Self::Other(number) = self {
            return number;
        }
        let known = Self::NUMBERS.iter().find(|(status, _)| *status == self);
        known.map_or(10006, |(_, number)| *number)
    }

    /// The status behind a number.
    pub fn from_number(number: u32) -> Self {
        let known = Self::NUMBERS.iter().find(|(_, known)| *known == number);
        known.map_or(Self::Other(number), |(status, _)| *status)
    }
}

/// What a peer is told of an export's refusal. Inner texts stay here.
pub fn status(error: &ExportError) -> Status {
    match error {
        ExportError::OutOfRange { .. } | ExportError::BadName | ExportError::Invalid => {
            Status::Invalid
        }
        ExportError::ReadOnly => Status::ReadOnlyFilesystem,
        ExportError::NotFound => Status::NoEntry,
        ExportError::Stale => Status::Stale,
        ExportError::Exists => Status::Exist,
        ExportError::NotDirectory => Status::NotDirectory,
        ExportError::IsDirectory => Status::IsDirectory,
        ExportError::NotEmpty => Status::NotEmpty,
        ExportError::NameTooLong => Status::NameTooLong,
        ExportError::NotPermitted | ExportError::Encrypted => Status::Perm,
        ExportError::NotSupported => Status::NotSupported,
        ExportError::TooLarge => Status::FileTooBig,
        ExportError::NoSpace { .. } => Status::NoSpace,
        ExportError::Corrupt { .. } | ExportError::Storage { .. } => Status::Io,
        ExportError::ShuttingDown => Status::Jukebox,
        _ => Status::ServerFault,
    }
}

impl From<ExportError> for Status {
    /// Maps like [`status`]; whoever calls this ends the error's travel, so what an operator must see is logged here.
    fn from(error: ExportError) -> Self {
        if matches!(
            error,
            ExportError::Corrupt { .. } | ExportError::Storage { .. }
        ) {
            tracing::error!(%error, "an export failed a request");
        }
        status(&error)
    }
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An address is taken or not ours. The operator must choose another.
    #[error("cannot listen on {address} ({service})")]
    Listen {
        /// What was to listen.
        service: &'static str,
        /// Where.
        address: SocketAddr,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// The running rpcbind did not take our ports.
    #[error("cannot register with rpcbind")]
    Register {
        /// How it failed.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for (status, number) in Status::NUMBERS {
            assert_eq!(Status::from_number(number), status);
            assert_eq!(status.number(), number);
        }
        assert_eq!(Status::from_number(77), Status::Other(77));
    }
}
