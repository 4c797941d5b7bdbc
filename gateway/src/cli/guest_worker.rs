//! `holdfast guest-worker`, `guest-machine` and `guest-agent`: what reads the disks of guests, started by others of this
//! program.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use guestworker::{Appliance, ApplianceOptions, GuestReader, MachineLimits, WorkerOptions};

#[derive(Debug, clap::Args)]
pub(super) struct GuestWorkerArgs {
    /// What the first step has to say to the second
    #[arg(long, value_name = "NUMBER")]
    inner: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(super) struct GuestMachineArgs {
    /// What the first step has to say to the second
    #[arg(long, value_name = "NUMBER")]
    inner: Option<u32>,
    /// Addresses that it may take
    addresses: u64,
    /// The folder in which it may write
    folder: PathBuf,
    /// The program that it becomes, with its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// How guests' disks are read.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct ReadingArgs {
    /// Give up what of a guest's disk takes longer to be read than this; waiting for the disk does not count
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    reader_timeout: u64,
    /// Start no small machine for filesystems that have no reader
    #[arg(long)]
    no_machine: bool,
}

impl ReadingArgs {
    pub(super) fn options(self) -> WorkerOptions {
        let patience = Duration::from_secs(self.reader_timeout);
        let machine = ApplianceOptions {
            patience,
            ..ApplianceOptions::default()
        };
        WorkerOptions {
            patience,
            appliance: (!self.no_machine).then(|| Appliance::new(machine)),
            ..WorkerOptions::default()
        }
    }
}

pub(super) fn run(arguments: &GuestWorkerArgs) -> Result<ExitCode> {
    Ok(guestworker::worker::run(arguments.inner, GuestReader)?)
}

pub(super) fn run_machine(arguments: &GuestMachineArgs) -> Result<ExitCode> {
    let left = MachineLimits {
        addresses_bytes: arguments.addresses,
        folder: arguments.folder.clone(),
    };
    Ok(guestworker::become_machine(
        arguments.inner,
        &left,
        &arguments.command,
    )?)
}

pub(super) fn run_agent() -> Result<ExitCode> {
    Ok(guestworker::run_agent()?)
}
