//! `holdfast mount`: the disks of a restore point, and the files on them, as a folder of this machine.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use fuse::{Caching, FuseError, Mount, MountOptions};
use repo::clock::{Clock as _, SystemClock};
use serde::Serialize;

use crate::browse::DiskTree;
use crate::exports::{DiskFormat, timestamp};

use super::client::Client;
use super::guest_worker::ReadingArgs;
use super::output::{Output, tell};
use super::viewing::{Signals, Viewing};

#[derive(Debug, clap::Args)]
pub(super) struct MountArgs {
    /// WORKLOAD@SEQUENCE or WORKLOAD@latest, or the name of a recovery session
    point: String,
    /// An empty folder
    folder: PathBuf,
    /// The formats of the disks' files; all are the same disk [default: all]
    #[arg(long = "format", value_name = "LIST", value_delimiter = ',')]
    formats: Vec<DiskFormat>,
    /// Let the files of a session's disks be written; what lies on the disks stays read-only
    #[arg(long)]
    write: bool,
    /// Let users see it who did not mount it, as far as owners and modes of the files allow
    #[arg(long)]
    allow_other: bool,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// A mount that has ended.
#[derive(Debug, Serialize)]
struct Mounted {
    point: String,
    folder: PathBuf,
}

pub(super) fn run(arguments: &MountArgs, client: &Client, output: &Output) -> Result<()> {
    let viewing = Viewing::open(client, &arguments.point)?;
    if arguments.write && viewing.is_read_only() {
        bail!(
            "a restore point is never written; start a session with `holdfast recover start {}` and mount that",
            viewing.point()
        );
    }
    let formats = match arguments.formats.as_slice() {
        [] => &DiskFormat::ALL[..],
        chosen => chosen,
    };
    let now = timestamp(SystemClock.now());
    let reading = arguments.reading.options();
    let tree = DiskTree::new(viewing.disks()?, formats, now, reading);
    let options = MountOptions {
        read_only: !arguments.write,
        allow_other: arguments.allow_other,
        caching: match viewing.is_read_only() {
            true => Caching::Immutable,
            false => Caching::Shared,
        },
        ..MountOptions::default()
    };
    let mount = Mount::start(Arc::new(tree), &arguments.folder, &options)?;
    tell(format!(
        "{} is mounted on {}; Ctrl-C or `umount {}` ends that",
        viewing.point(),
        mount.path().display(),
        mount.path().display()
    ));
    serve(mount)?;
    let mounted = Mounted {
        point: viewing.point().to_owned(),
        folder: arguments.folder.clone(),
    };
    output.result(&mounted, |_| String::new())
}

/// Returns when somebody has unmounted it, or told this process to.
fn serve(mount: Mount) -> Result<()> {
    let mount = Arc::new(mount);
    let (ended, mut end) = tokio::sync::oneshot::channel();
    let watched = Arc::clone(&mount);
    std::thread::Builder::new()
        .name("mount-end".to_owned())
        .spawn(move || drop(ended.send(watched.wait())))
        .context("cannot start a thread")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let mut turn = 0;
        loop {
            tokio::select! {
                outcome = &mut end => return Ok(outcome.context("nobody waits for the mount")??),
                () = signals.next() => turn += 1,
            }
            match (turn, mount.unmount()) {
                (1, Err(FuseError::Busy(path))) => tell(format!(
                    "{} is in use; close what is open there, or say it again to take it out of sight",
                    path.display()
                )),
                (2, Err(FuseError::Busy(_))) => {
                    mount.detach()?;
                    tell("out of sight; this ends when what is open there is closed, or when it is said again");
                }
                (3.., _) => return Ok(()),
                (_, other) => other?,
            }
        }
    })
}
