//! `holdfast guest-worker`: the process that reads the disks of guests, started by others of this program.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use guestworker::{GuestReader, WorkerOptions};

#[derive(Debug, clap::Args)]
pub(super) struct GuestWorkerArgs {
    /// What the first step has to say to the second
    #[arg(long, value_name = "NUMBER")]
    inner: Option<u32>,
}

/// How guests' disks are read.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct ReadingArgs {
    /// Give up what of a guest's disk takes longer to be read than this; waiting for the disk does not count
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    reader_timeout: u64,
}

impl ReadingArgs {
    pub(super) fn options(self) -> WorkerOptions {
        WorkerOptions {
            patience: Duration::from_secs(self.reader_timeout),
            ..WorkerOptions::default()
        }
    }
}

pub(super) fn run(arguments: &GuestWorkerArgs) -> Result<ExitCode> {
    Ok(guestworker::worker::run(arguments.inner, GuestReader)?)
}
