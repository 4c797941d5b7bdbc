//! Reading a session's disk over a protocol and comparing it with a file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use export::Durability;
use nbd::client::{Address, Client as NbdClient, ConnectOptions};
use nfs::client::{Client as NfsClient, FileHandle, Identity};

use crate::recovery::{Protocol, SessionView};
use crate::state::Addresses;

/// A comparison that found everything equal.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) bytes: u64,
    pub(super) first_byte: Instant,
}

/// A disk over some protocol.
enum Remote {
    Nbd(NbdClient),
    Nfs(NfsClient, FileHandle),
}

impl Comparison {
    /// Reads the session's first disk to its end and compares it with `file`.
    pub(super) fn run(
        session: &SessionView,
        protocol: Protocol,
        addresses: &Addresses,
        file: &Path,
    ) -> Result<Self> {
        let disk = session.disks.first().context("the session has no disk")?;
        let original =
            File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        let size_bytes = original.metadata()?.len();
        ensure!(
            disk.size_bytes == size_bytes,
            "the disk has {} bytes and the file {size_bytes}",
            disk.size_bytes
        );
        let mut remote = match protocol {
            Protocol::Nbd => Remote::Nbd(connect(session)?),
            Protocol::Nfs => mount(session, addresses)?,
            Protocol::Iscsi => bail!("there is no iSCSI client in here; boot from it instead"),
            Protocol::Tcmu => bail!("the kernel's target has no client"),
            Protocol::Smb => bail!("there is no SMB client in here"),
        };
        let mut first_byte = None;
        let mut theirs = vec![0; STEP_BYTES];
        let mut ours = vec![0; STEP_BYTES];
        let mut at = 0;
        while at < size_bytes {
            let length = usize::try_from(size_bytes - at)
                .unwrap_or(usize::MAX)
                .min(STEP_BYTES);
            let (theirs, ours) = (theirs.split_at_mut(length).0, ours.split_at_mut(length).0);
            remote.read(at, theirs)?;
            first_byte.get_or_insert_with(Instant::now);
            original.read_exact_at(ours, at)?;
            if theirs != ours {
                bail!(
                    "the disk differs from {} within {length} bytes at {at}",
                    file.display()
                );
            }
            at += length as u64;
        }
        Ok(Self {
            bytes: size_bytes,
            first_byte: first_byte.context("the disk is empty")?,
        })
    }
}

impl Remote {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match self {
            Self::Nbd(client) => Ok(client.read_at(offset, buffer)?),
            Self::Nfs(client, file) => {
                let count = u32::try_from(buffer.len()).context("a read is short")?;
                let answer = client.read(file, offset, count)?;
                ensure!(
                    answer.data.len() == buffer.len(),
                    "a read of {count} bytes at {offset} gave {}",
                    answer.data.len()
                );
                buffer.copy_from_slice(&answer.data);
                Ok(())
            }
        }
    }
}

/// Writes a few blocks, as a guest would.
pub(super) fn write_something(session: &SessionView) -> Result<()> {
    let mut client = connect(session)?;
    let size_bytes = client.export().size_bytes;
    for number in 0..64_u8 {
        let offset = size_bytes / 64 * u64::from(number) / 4096 * 4096;
        client.write_at(offset, &[number; 4096], Durability::Unstable)?;
    }
    Ok(client.flush()?)
}

fn connect(session: &SessionView) -> Result<NbdClient> {
    let disk = session.disks.first().context("the session has no disk")?;
    let url = disk
        .urls
        .nbd
        .as_deref()
        .context("the session has no NBD address")?;
    let (address, name) = Address::parse_uri(url)?;
    let options = ConnectOptions {
        timeout: Some(Duration::from_secs(60)),
        ..ConnectOptions::default()
    };
    NbdClient::connect(&address, &name, &options).with_context(|| format!("cannot open {url}"))
}

fn mount(session: &SessionView, addresses: &Addresses) -> Result<Remote> {
    let disk = session.disks.first().context("the session has no disk")?;
    let path = format!("/{}", session.session);
    let mut client = NfsClient::mount(addresses.nfs, addresses.nfs, &path, &Identity::root())
        .with_context(|| format!("cannot mount {path} of {}", addresses.nfs))?;
    let found = client.find(&format!("disk-{}.raw", disk.disk))?;
    Ok(Remote::Nfs(client, found.handle))
}

const STEP_BYTES: usize = 1 << 20;
