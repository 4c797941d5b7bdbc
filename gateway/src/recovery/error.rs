//! Why a recovery session could not do what was asked.

use repo::RepoError;

use crate::state::StateError;

/// A call on a recovery session that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// The repository refused or failed.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The session's folder could not be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The folder of small files could not be opened.
    #[error(
        "cannot open the folder of session {session}: its names log or contents cannot be used"
    )]
    Folder {
        /// The session.
        session: String,
        /// How it failed.
        #[source]
        source: std::io::Error,
    },
    /// The disks could not be made units of a target.
    #[error("cannot show session {session} over iSCSI")]
    Target {
        /// The session.
        session: String,
        /// How it failed.
        #[source]
        source: scsi::ScsiError,
    },
    /// The kernel's target refused or cannot.
    #[error(transparent)]
    Kernel(#[from] tcmu::KernelError),
    /// A disk could not be served through the kernel's target.
    #[error("cannot show session {session} through the kernel's target")]
    Backstore {
        /// The session.
        session: String,
        /// How it failed.
        #[source]
        source: tcmu::ServeError,
    },
    /// The session could not be made a share.
    #[error("cannot show session {session} over SMB")]
    Share {
        /// The session.
        session: String,
        /// How it failed.
        #[source]
        source: smb::SmbError,
    },
    /// The folder behind a share could not be mounted.
    #[error("cannot show session {session} over SMB")]
    ShareMount {
        /// The session.
        session: String,
        /// How it failed.
        #[source]
        source: fuse::FuseError,
    },
    /// What lies on disks is shown by a share of a point, and by nothing else.
    #[error(
        "files are shown over SMB alone and never written; start the session with --protocol smb and --read-only, as `holdfast share` does"
    )]
    FilesNotShown,
    /// A disk does not fit a format.
    #[error("cannot show disk {disk} of session {session} in another format")]
    Format {
        /// The session.
        session: String,
        /// The disk's number.
        disk: usize,
        /// Why.
        #[source]
        source: diskimage::FaceError,
    },
    /// A protocol that this daemon does not serve.
    #[error("this daemon does not serve {0}; set `listen` under [{0}] and start it again")]
    NotServed(&'static str),
    /// A point that is not well named.
    #[error(
        "`{0}` names no restore point; write WORKLOAD@SEQUENCE or WORKLOAD@latest, as `holdfast point list` shows them"
    )]
    BadPoint(String),
    /// The workload has no point.
    #[error("workload {0} has no restore point; see `holdfast workload list`")]
    NoPoint(String),
    /// The point has no such disk.
    #[error("restore point {point} has no disk {disk}: it has {count}, numbered from 0")]
    NoSuchDisk {
        /// The point.
        point: String,
        /// What was asked for.
        disk: usize,
        /// How many there are.
        count: usize,
    },
    /// No such session.
    #[error("there is no recovery session {0}; see `holdfast recover list`")]
    NoSuchSession(String),
    /// A name that is not allowed.
    #[error(
        "`{0}` is no session name; use up to 64 letters, digits, `-`, `_` and `.`, and begin with a letter or digit"
    )]
    BadName(String),
    /// The name is taken by a session that differs from what was asked.
    #[error(
        "recovery session {name} is there already with another {differs}; discard it, or take another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// What differs.
        differs: &'static str,
    },
    /// Something else is under way in the session.
    #[error("recovery session {0} is busy with another command; try again when that has ended")]
    Busy(String),
    /// The session has no overlays.
    #[error("recovery session {0} is read-only: there is nothing to seal")]
    NothingToSeal(String),
    /// Too many sessions.
    #[error("there are {0} recovery sessions already (recovery.sessions); discard one first")]
    TooMany(usize),
}
