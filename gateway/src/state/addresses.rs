//! `addresses.json`: where the running daemon listens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::NbdTls;

use super::{StateError, StateFolder};

/// Real addresses of a running daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Addresses {
    /// HTTPS.
    #[schema(value_type = String)]
    pub api: SocketAddr,
    /// NBD over TCP.
    #[schema(value_type = String)]
    pub nbd: SocketAddr,
    /// Whether NBD over TCP is protected by TLS.
    #[serde(default)]
    pub nbd_tls: NbdTls,
    /// NBD on this machine.
    #[schema(value_type = String)]
    pub nbd_socket: PathBuf,
    /// NFS and MOUNT.
    #[schema(value_type = String)]
    pub nfs: SocketAddr,
    /// Our own portmapper, where there is one.
    #[schema(value_type = Option<String>)]
    pub portmapper: Option<SocketAddr>,
    /// Whether NFS is registered with this machine's rpcbind.
    #[serde(default)]
    pub rpcbind: bool,
    /// Portals of the iSCSI target.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub iscsi: Vec<SocketAddr>,
    /// What the names of its targets begin with.
    #[serde(default)]
    pub iscsi_name: String,
    /// SMB, where it is served.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub smb: Option<SocketAddr>,
    /// Streams over TLS, where they are taken.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub ingest: Option<SocketAddr>,
    /// Streams on this machine.
    #[serde(default)]
    #[schema(value_type = String)]
    pub ingest_socket: PathBuf,
    /// HTTP for the daemon's user and root.
    #[schema(value_type = String)]
    pub control_socket: PathBuf,
    /// SHA-256 of the certificate.
    pub fingerprint: String,
    /// The daemon's process.
    pub process: u32,
}

impl Addresses {
    /// Whether clients that cannot be told a port find NFS: they ask a portmapper, always on port 111.
    pub fn has_portmapper(&self) -> bool {
        let own = self.portmapper.map(|address| address.port());
        self.rpcbind || own == Some(PORTMAPPER_PORT)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If the storage refuses.
    pub fn store(&self, state: &StateFolder) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(self).expect("addresses are plain text");
        state.replace(Path::new(FILE), &text)
    }

    /// Reads the file; `None` if no daemon ever ran.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn load(state_path: &Path) -> Result<Option<Self>, StateError> {
        let path = state_path.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StateError::File {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| StateError::Damaged {
                path,
                detail: error.to_string(),
                remedy: "restart the daemon, which writes it anew",
            })
    }
}

/// Where clients look for a portmapper.
pub const PORTMAPPER_PORT: u16 = 111;

const FILE: &str = "addresses.json";
