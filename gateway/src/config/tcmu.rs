//! The `[tcmu]` table.

use serde::{Deserialize, Serialize};

use super::{ByteSize, ConfigError};

/// The kernel's target with our disks behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcmuConfig {
    /// Size of a logical block: 512 or 4096. A disk that is no multiple of 4096 bytes has 512, and one that the kernel
    /// shows already keeps what it has.
    pub block_bytes: u32,
    /// The kernel's memory for data under way, for each disk.
    pub data_area: ByteSize,
}

impl TcmuConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let rule = if !matches!(self.block_bytes, 512 | 4096) {
            "[tcmu] block_bytes must be 512 or 4096"
        } else if !(DATA_AREA_BYTES_MIN..=DATA_AREA_BYTES_MAX).contains(&self.data_area.bytes())
            || !self.data_area.bytes().is_multiple_of(1 << 20)
        {
            "[tcmu] data_area must be whole MiB, from 32MiB (the largest commands must fit) to 1GiB"
        } else {
            return Ok(());
        };
        Err(ConfigError::Contradiction(rule))
    }

    /// The data area as the kernel is told it.
    pub(crate) fn data_area_mebibytes(&self) -> u32 {
        u32::try_from(self.data_area.bytes() >> 20).unwrap_or(u32::MAX)
    }
}

impl Default for TcmuConfig {
    fn default() -> Self {
        Self {
            block_bytes: 512,
            data_area: ByteSize::mebibytes(64),
        }
    }
}

const DATA_AREA_BYTES_MIN: u64 = 32 << 20;
const DATA_AREA_BYTES_MAX: u64 = 1 << 30;
