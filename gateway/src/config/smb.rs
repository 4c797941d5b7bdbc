//! The `[smb]` table.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Shares, by a Samba server of our own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SmbConfig {
    /// Addresses that it listens on. None: SMB is not served.
    pub listen: Vec<IpAddr>,
    /// The port at all of them. Windows before 11 24H2 and Server 2025 knows 445 only.
    pub port: u16,
    /// Whether traffic is encrypted. It is signed always.
    pub encryption: SmbEncryption,
    /// Where Samba has its configuration, users and state; none: `smb` in the state folder.
    pub folder: Option<PathBuf>,
    /// Clients at once, each a process.
    pub connections: u32,
}

/// Whether traffic is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmbEncryption {
    /// Never.
    Off,
    /// If the client wants it.
    #[default]
    Allow,
    /// Always; who cannot is refused.
    Require,
}

impl SmbConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let rule = if self.connections == 0 {
            "[smb] connections is 0, so nobody could connect; take listen = [] to serve no SMB"
        } else if self
            .folder
            .as_ref()
            .is_some_and(|folder| !folder.is_absolute())
        {
            "[smb] folder must be a path from the root"
        } else {
            return Ok(());
        };
        Err(ConfigError::Contradiction(rule))
    }
}

impl Default for SmbConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            port: 445,
            encryption: SmbEncryption::default(),
            folder: None,
            connections: 256,
        }
    }
}
