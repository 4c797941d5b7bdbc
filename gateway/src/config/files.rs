//! The `[files]` table.

use std::path::PathBuf;

use guestworker::{Appliance, ApplianceOptions, WorkerOptions};
use serde::{Deserialize, Serialize};

use super::{ByteSize, ConfigError, Span};

/// How files on guests' disks are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilesConfig {
    /// What takes longer to be read is given up; waiting for the storage does not count.
    pub reader_timeout: Span,
    /// Memory that reading the disks of one point may take.
    pub reader_memory: ByteSize,
    /// The `holdfast` that reads, if it is not the one that runs.
    pub reader_program: Option<PathBuf>,
    /// Whether a small machine reads what there is no reader for, where QEMU and a kernel are installed.
    pub machine: bool,
    /// Memory of each such machine.
    pub machine_memory: ByteSize,
    /// A machine that nobody asked anything for so long is ended.
    pub machine_idle: Span,
}

impl FilesConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let rule = if self.reader_timeout.0.is_zero() {
            "[files] reader_timeout must be more than nothing"
        } else if self.reader_memory.bytes() < MEMORY_BYTES_MIN {
            "[files] reader_memory must be at least 128MiB"
        } else if self.machine_memory.bytes() < MACHINE_BYTES_MIN {
            "[files] machine_memory must be at least 192MiB"
        } else if self.machine_idle.0.is_zero() {
            "[files] machine_idle must be more than nothing"
        } else {
            return Ok(());
        };
        Err(ConfigError::Contradiction(rule))
    }

    /// How a worker is run.
    pub(crate) fn worker(&self) -> WorkerOptions {
        let usual = WorkerOptions::default();
        let program = self.reader_program.clone().unwrap_or(usual.program);
        let machine = ApplianceOptions {
            program: program.clone(),
            patience: self.reader_timeout.0,
            memory_bytes: self.machine_memory.bytes(),
            idle: self.machine_idle.0,
            ..ApplianceOptions::default()
        };
        WorkerOptions {
            program,
            patience: self.reader_timeout.0,
            memory_bytes: self.reader_memory.bytes(),
            appliance: self.machine.then(|| Appliance::new(machine)),
            ..usual
        }
    }
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            reader_timeout: Span::seconds(10),
            reader_memory: ByteSize::mebibytes(1024),
            reader_program: None,
            machine: true,
            machine_memory: ByteSize::mebibytes(256),
            machine_idle: Span::seconds(600),
        }
    }
}

const MEMORY_BYTES_MIN: u64 = 128 << 20;
const MACHINE_BYTES_MIN: u64 = 192 << 20;
