//! The `[iscsi]` table.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ByteSize, ConfigError, loopback};

/// The iSCSI target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IscsiConfig {
    /// Portals: where it listens. Each is a path of its own to every disk. None: iSCSI is not served.
    pub listen: Vec<SocketAddr>,
    /// What the names of all targets begin with; a colon and the session's name follow.
    pub name: String,
    /// Names of the initiators that may use a session that was started without `--initiator`; `*` stands for any
    /// characters and `?` for any one.
    pub initiators: Vec<String>,
    /// Connections at once.
    pub connections: usize,
    /// Memory for the data of all sessions that is on its way; initiators wait where it is not enough.
    pub memory: ByteSize,
    /// Size of a logical block: 512 or 4096. A disk that is no multiple of 4096 bytes has 512.
    pub block_bytes: u32,
    /// Size of a physical block that initiators are told: 512 or 4096, not below the logical one; none: what costs least.
    pub physical_block_bytes: Option<u32>,
    /// The name by which initiators prove themselves with CHAP; none: they need not.
    pub chap_user: Option<String>,
    /// A file with the secret that belongs to it, 12 to 255 characters.
    pub chap_secret_file: Option<PathBuf>,
    /// The name by which the target proves itself to an initiator that asks (mutual CHAP).
    pub target_user: Option<String>,
    /// A file with the secret that belongs to it, another than the one above.
    pub target_secret_file: Option<PathBuf>,
}

impl IscsiConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let is_name_byte = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b':')
        };
        let is_name = self.name.starts_with("iqn.")
            && self.name.len() <= NAME_BYTES_MAX
            && self.name.bytes().all(is_name_byte);
        let rule = if !is_name {
            "[iscsi] name must be an iSCSI name such as iqn.2026-01.com.example:backup: iqn., then lower-case letters, digits and - . : only, up to 128 bytes"
        } else if !matches!(self.block_bytes, 512 | 4096) {
            "[iscsi] block_bytes must be 512 or 4096"
        } else if self
            .physical_block_bytes
            .is_some_and(|physical| !matches!(physical, 512 | 4096) || physical < self.block_bytes)
        {
            "[iscsi] physical_block_bytes must be 512 or 4096, and not less than block_bytes"
        } else if self.chap_user.is_some() != self.chap_secret_file.is_some() {
            "[iscsi] chap_user and chap_secret_file belong together; set both, or neither to let initiators in by name and address alone"
        } else if self.target_user.is_some() != self.target_secret_file.is_some() {
            "[iscsi] target_user and target_secret_file belong together; set both or neither"
        } else if self.target_user.is_some() && self.chap_user.is_none() {
            "[iscsi] target_user is for initiators that prove themselves; set chap_user and chap_secret_file with it"
        } else if self.memory < MEMORY_MIN {
            "[iscsi] memory must be at least 16MiB, what the longest command needs"
        } else if self.initiators.is_empty() {
            "[iscsi] initiators is empty, so nobody could log in; name some, or \"*\" for all that the addresses allow"
        } else {
            return Ok(());
        };
        Err(ConfigError::Contradiction(rule))
    }
}

impl Default for IscsiConfig {
    fn default() -> Self {
        Self {
            listen: vec![loopback(3260)],
            name: "iqn.2026-01.holdfast".to_owned(),
            initiators: vec!["*".to_owned()],
            connections: 1024,
            memory: ByteSize::mebibytes(256),
            block_bytes: 512,
            physical_block_bytes: None,
            chap_user: None,
            chap_secret_file: None,
            target_user: None,
            target_secret_file: None,
        }
    }
}

/// One command of the longest kind is taken whatever the limit says.
const MEMORY_MIN: ByteSize = ByteSize::mebibytes(16);

/// Leaves room for a session's name within the 223 bytes of an iSCSI name.
const NAME_BYTES_MAX: usize = 128;
