//! What is remembered of a session: `sessions/NUMBER/session.json` in the state folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::config::Peers;
use crate::exports::DiskFormat;
use crate::state::{StateError, StateFolder};

/// One session, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRecord {
    /// Version of this record.
    pub version: u32,
    /// The session's name.
    pub name: String,
    /// Unique for ever: the export's number in NFS handles.
    pub number: u64,
    /// The restore point, `WORKLOAD@SEQUENCE`.
    pub point: String,
    /// Whether there are overlays.
    pub mode: SessionMode,
    /// The disks.
    pub disks: Vec<DiskRecord>,
    /// How it is served.
    pub protocols: Vec<Protocol>,
    /// Who may come.
    pub allow: Peers,
    /// When it was started, in nanoseconds since 1970.
    pub created: u64,
    /// What is going on.
    pub state: SessionState,
    /// Initiators that may come over iSCSI; none: as configured.
    #[serde(default)]
    pub initiators: Vec<String>,
    /// The forms in which NFS and NBD show the disks.
    #[serde(default = "raw_only")]
    pub formats: Vec<DiskFormat>,
    /// Whether its share shows what lies on the disks too, and the other points of the workload.
    #[serde(default)]
    pub files: bool,
    /// Marks the point that the latest seal makes, so that a restart knows it again.
    #[serde(default)]
    pub seal: Option<Uuid>,
}

/// One disk of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRecord {
    /// Its number in the point.
    pub number: usize,
    /// Its name in the point.
    pub name: String,
    /// Capacity.
    pub size_bytes: u64,
    /// Where writes go.
    pub overlay: Option<Uuid>,
}

/// Whether a session can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SessionMode {
    /// Each disk has an overlay.
    ReadWrite,
    /// The point itself is shown.
    ReadOnly,
}

/// What is going on in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// It is being made. Found after a restart, it never became ready and is dropped.
    Starting,
    /// It is served.
    Active,
    /// It is not served; its overlays are kept.
    Stopped,
    /// Its overlays are becoming a restore point.
    Sealing,
    /// It is being dropped.
    Discarding,
}

/// A way to reach a session.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Network block device.
    Nbd,
    /// Network file system, version 3.
    Nfs,
    /// SCSI over TCP.
    Iscsi,
    /// The kernel's target, for Fibre Channel, iSER, SRP and vhost; only if it is named.
    Tcmu,
    /// A share for Windows and Hyper-V; only if it is named.
    Smb,
}

impl Protocol {
    /// Those that the daemon speaks itself, over which every session is served unless others are named.
    pub const OWN: [Self; 3] = [Self::Nbd, Self::Nfs, Self::Iscsi];
}

impl SessionRecord {
    /// The session's folder inside the state folder.
    pub(super) fn folder(&self) -> PathBuf {
        Path::new("sessions").join(format!("{:08}", self.number))
    }

    pub(super) fn store(&self, state: &StateFolder) -> Result<(), StateError> {
        state.create_directory(&self.folder())?;
        let text = serde_json::to_vec_pretty(self).expect("a session record is plain text");
        state.replace(&self.folder().join(FILE), &text)
    }

    /// Reads the record in `folder`; `None` if there is none, which a crash while one was made leaves.
    pub(super) fn load(state: &StateFolder, folder: &Path) -> Result<Option<Self>, StateError> {
        let name = folder.join(FILE);
        let Some(text) = state.read(&name, RECORD_BYTES_MAX)? else {
            return Ok(None);
        };
        let damaged = |detail: String| StateError::Damaged {
            path: state.file(&name),
            detail,
            remedy: "restore it from a copy, or move its folder away; the overlays then show in `holdfast doctor`",
        };
        let record: Self =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if record.version != VERSION {
            return Err(damaged(format!(
                "it has version {} and this program reads {VERSION}",
                record.version
            )));
        }
        Ok(Some(record))
    }
}

/// What sessions show that were not told otherwise.
pub(super) fn raw_only() -> Vec<DiskFormat> {
    vec![DiskFormat::Raw]
}

const FILE: &str = "session.json";
const RECORD_BYTES_MAX: u64 = 1 << 20;
pub(super) const VERSION: u32 = 1;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A session with one disk that is served in every way.
    pub(crate) fn record() -> SessionRecord {
        SessionRecord {
            version: 1,
            name: "web01-3".to_owned(),
            number: 2,
            point: "web01@3".to_owned(),
            mode: SessionMode::ReadWrite,
            disks: vec![DiskRecord {
                number: 0,
                name: "root".to_owned(),
                size_bytes: 4096,
                overlay: None,
            }],
            protocols: Protocol::OWN.to_vec(),
            allow: Peers::loopback(),
            created: 0,
            state: SessionState::Active,
            initiators: Vec::new(),
            formats: raw_only(),
            files: false,
            seal: None,
        }
    }
}
