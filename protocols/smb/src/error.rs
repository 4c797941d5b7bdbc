//! What can go wrong with the server.

use std::io;
use std::path::PathBuf;

/// The server cannot be run, or does not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SmbError {
    /// A program is missing.
    #[error("the program {name} is not installed; install Debian's package {package}")]
    NoProgram {
        /// The program.
        name: &'static str,
        /// What brings it.
        package: &'static str,
    },
    /// Only root can.
    #[error(
        "serving SMB takes root: smbd changes users, and its list of users is mounted for it alone; run the daemon as root (docs/operations/smb.md)"
    )]
    NotRoot,
    /// A name that could mean something else in the configuration, or nothing to clients.
    #[error(
        "`{0}` is no name for a share: up to 80 letters, digits and `-_.~`, with a letter or digit first, and none that Samba uses itself"
    )]
    BadShareName(String),
    /// A name that could mean something else in the list of users.
    #[error(
        "`{0}` is no name for an SMB user: up to 32 lower-case letters, digits and `-`, with a letter first"
    )]
    BadUserName(String),
    /// Not an address or a network.
    #[error("`{0}` is no address and no network such as 192.168.7.0/24")]
    BadNetwork(String),
    /// A path or text that a line of configuration cannot hold.
    #[error(
        "`{0}` cannot stand in Samba's configuration; take a path without line breaks, `%`, quotes and backslashes"
    )]
    BadValue(String),
    /// Sockets in the folder would have names that the kernel refuses.
    #[error("the folder {} has a path of more than {limit} bytes, and Samba makes sockets in it; choose a shorter one", path.display())]
    LongPath {
        /// The folder.
        path: PathBuf,
        /// How long it may be.
        limit: usize,
    },
    /// Two shares of one name.
    #[error("there is a share {0} already")]
    NameTaken(String),
    /// No port.
    #[error("SMB needs a port of its own, such as 445; 0 is none")]
    NoPort,
    /// A file or folder could not be used.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// A program could not be run.
    #[error("cannot run {name}")]
    Run {
        /// The program.
        name: &'static str,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// A program refused.
    #[error("{name} failed: {said}")]
    Refused {
        /// The program.
        name: &'static str,
        /// What it said.
        said: String,
    },
    /// A program said something else than expected.
    #[error("what {name} prints cannot be read: {detail}")]
    Unreadable {
        /// The program.
        name: &'static str,
        /// Why not.
        detail: String,
    },
    /// The server did not come up.
    #[error("smbd does not answer at {address}: {reason}; its log is {}", log.display())]
    NotUp {
        /// Where it should.
        address: std::net::SocketAddr,
        /// What is known.
        reason: String,
        /// Where more stands.
        log: PathBuf,
    },
    /// A mount could not be made or taken off.
    #[error("cannot {what} {}", path.display())]
    Mount {
        /// What was attempted.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: rustix::io::Errno,
    },
    /// The kernel has no random numbers.
    #[error("the kernel gives no random numbers")]
    Random(#[source] rustix::io::Errno),
    /// A thread could not be started.
    #[error("cannot start a thread for smbd")]
    Thread(#[source] io::Error),
}

/// A failed call on a file.
pub(crate) fn file(
    what: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> SmbError {
    let path = path.into();
    move |source| SmbError::File { what, path, source }
}
