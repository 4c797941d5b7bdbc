//! Recovery sessions: disks of a restore point, served until told otherwise.
//!
//! A session is recorded before it is served and its record is kept until it is discarded or sealed, so that a daemon
//! that was killed brings back the same sessions with the same names, numbers, handles and data. Only
//! [`Sessions`] changes records; the servers see sessions through [`Exports`].

mod addresses;
mod backstores;
mod error;
mod fabrics;
mod lifecycle;
mod record;
mod seal;
mod shares;
mod targets;
mod workload_points;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use repo::Repository;

use crate::config::{IscsiConfig, Peers, RecoveryConfig};
use crate::exports::{DiskFormat, Exports};
use crate::state::StateFolder;

pub use addresses::{AttachCommand, DiskView, FormatView, SessionView, ShareView, Urls};
pub use backstores::Backstores;
pub use error::RecoveryError;
pub(crate) use lifecycle::resolve;
pub use record::{DiskRecord, Protocol, SessionMode, SessionRecord, SessionState};
pub use shares::Shares;

/// All sessions of the daemon.
pub struct Sessions {
    repository: Repository,
    exports: Arc<Exports>,
    state: Arc<StateFolder>,
    config: RecoveryConfig,
    iscsi: IscsiConfig,
    backstores: Backstores,
    shares: Shares,
    /// Passwords that nobody has been told yet, by session.
    passwords: Mutex<BTreeMap<String, smb::Password>>,
    records: Mutex<Records>,
}

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct StartRequest {
    /// `WORKLOAD@SEQUENCE` or `WORKLOAD@latest`.
    pub point: String,
    /// The session's name; none: one is made from the point's.
    pub name: Option<String>,
    /// Disks by number; empty: all.
    pub disks: Vec<usize>,
    /// Whether writes are refused. No overlay is made then.
    pub read_only: bool,
    /// Protocols; empty: all that the daemon speaks itself.
    pub protocols: Vec<Protocol>,
    /// Who may come; none: as configured.
    pub allow: Option<Peers>,
    /// Initiators that may come over iSCSI; none: as configured.
    pub initiators: Vec<String>,
    /// The forms in which NFS, SMB and NBD show the disks; none: raw, and VHDX for SMB.
    pub formats: Vec<DiskFormat>,
    /// Whether the share shows what lies on the disks too. For a session that is read-only and served over SMB alone.
    pub files: bool,
}

#[derive(Debug, Default)]
struct Records {
    by_name: BTreeMap<String, SessionRecord>,
    /// Numbers below were used.
    next_number: u64,
    /// Numbers below may be used: the stored file says so.
    reserved_number: u64,
    /// Sessions in which something long is under way, so that nothing else may begin.
    busy: Vec<String>,
}

impl Sessions {
    /// Reads all records and serves the sessions that were being served.
    ///
    /// # Errors
    /// If a record cannot be read. A session whose data cannot be opened is left stopped, and logged.
    pub fn open(
        repository: Repository,
        exports: Arc<Exports>,
        state: Arc<StateFolder>,
        config: RecoveryConfig,
        iscsi: IscsiConfig,
        backstores: Backstores,
        shares: Shares,
    ) -> Result<Self, RecoveryError> {
        let sessions = Self {
            repository,
            exports,
            state,
            config,
            iscsi,
            backstores,
            shares,
            passwords: Mutex::default(),
            records: Mutex::default(),
        };
        sessions.restore()?;
        sessions.shares.forget_others();
        Ok(sessions)
    }

    /// All records, by name.
    pub fn list(&self) -> Vec<SessionRecord> {
        self.records.lock().by_name.values().cloned().collect()
    }

    /// One record.
    ///
    /// # Errors
    /// [`RecoveryError::NoSuchSession`].
    pub fn find(&self, name: &str) -> Result<SessionRecord, RecoveryError> {
        let records = self.records.lock();
        records
            .by_name
            .get(name)
            .cloned()
            .ok_or_else(|| RecoveryError::NoSuchSession(name.to_owned()))
    }

    /// Where the kernel's target has the disks of a session that it serves, by number.
    pub fn backstores(&self, name: &str) -> Vec<(usize, PathBuf)> {
        self.backstores.of(name)
    }

    /// The shares.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// The password that the user of a session's share was given when it was started, for whoever asks first.
    pub fn take_password(&self, name: &str) -> Option<smb::Password> {
        self.passwords.lock().remove(name)
    }

    /// Serves nothing any more; records stay as they are, so that the next start serves the same again.
    pub(crate) fn leave(&self) {
        self.shares.leave_all();
        for session in self.exports.sessions() {
            self.exports.hide(&session.name);
        }
        self.backstores.leave_all();
    }

    /// The session that shows a point, if one does.
    pub fn user_of(&self, point: &str) -> Option<String> {
        let records = self.records.lock();
        records
            .by_name
            .values()
            .find(|record| record.point == point)
            .map(|record| record.name.clone())
    }

    fn folder(&self, record: &SessionRecord) -> PathBuf {
        self.state.file(record.folder())
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sessions")
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}
