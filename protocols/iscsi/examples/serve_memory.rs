//! Serves disks in RAM to everybody: `serve_memory PORTAL[,PORTAL...] [KEY=VALUE...] LUN...`.
//!
//! Each PORTAL is `ADDRESS:PORT` and a portal group of its own. Each LUN is a size in MiB, with `,4096` for blocks of
//! that size, `,512n` for physical blocks of 512, `,removable`, `,sanitize` or `,read-only`; they are numbered from 1.
//! Keys: `chap=USER:SECRET` and `own=USER:SECRET` for CHAP, `target=NAME`, and `targets=COUNT` for more targets with the
//! same disks.

use std::net::SocketAddr;
use std::sync::Arc;

use export::{BlockExport, BlockingPool, MemoryDisk};
use iscsi::{
    AccessRule, Authentication, ChapAccount, ChapAlgorithm, ChapPolicy, InitiatorPattern, Metrics,
    Portal, Secret, Server, ServerConfig, StaticDirectory,
};
use scsi::{LunMask, Target, TargetIdentity, TargetPort, UnitOptions};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let portals = arguments.next().ok_or(USAGE)?;
    let addresses: Vec<SocketAddr> = portals
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let (mut name, mut targets) = ("iqn.2026-01.example:memory".to_owned(), 1);
    let (mut chap, mut own) = (None, None);
    let mut disks: Vec<(Arc<dyn BlockExport>, UnitOptions)> = Vec::new();
    for argument in arguments {
        match argument.split_once('=') {
            Some(("chap", value)) => chap = Some(account(value)?),
            Some(("own", value)) => own = Some(account(value)?),
            Some(("target", value)) => name = value.to_owned(),
            Some(("targets", value)) => targets = value.parse()?,
            Some(_) => return Err(USAGE.into()),
            None => disks.push(disk(&argument, disks.len())?),
        }
    }
    let authentication = match chap {
        None => Authentication::None,
        Some(account) => Authentication::Chap(Arc::new(ChapPolicy {
            accounts: vec![account],
            own,
            algorithms: ChapAlgorithm::ALL.to_vec(),
        })),
    };
    let directory = Arc::new(StaticDirectory::new());
    for number in 0..targets {
        let name = match number {
            0 => name.clone(),
            _ => format!("{name}{number}"),
        };
        let target = target(&name, addresses.len(), &disks)?;
        let rule = AccessRule {
            initiators: InitiatorPattern::new("*"),
            luns: LunMask::All,
            authentication: authentication.clone(),
        };
        directory.add(target, "disks in RAM", vec![rule]);
    }
    let portals = (1..)
        .zip(addresses)
        .map(|(group, address)| Portal::new(address, group))
        .collect();
    let server = Server::start(
        ServerConfig::default(),
        portals,
        directory,
        Arc::new(BlockingPool::start(2, 256)?),
        Metrics::unregistered(),
    )?;
    tokio::signal::ctrl_c().await?;
    server.shutdown(std::time::Duration::from_secs(5)).await;
    Ok(())
}

/// A target with all `disks` as its units from 1.
fn target(
    name: &str,
    ports: usize,
    disks: &[(Arc<dyn BlockExport>, UnitOptions)],
) -> Result<Arc<Target>, Failure> {
    let ports = (1..=u16::try_from(ports)?).map(|relative_id| TargetPort {
        relative_id,
        name: format!("{name},t,{relative_id:#06x}"),
    });
    let target = Target::new(TargetIdentity {
        name: name.to_owned(),
        ports: ports.collect(),
    });
    for (lun, (disk, options)) in (1..).zip(disks) {
        target.attach(lun, Arc::clone(disk), options.clone())?;
    }
    Ok(target)
}

fn account(text: &str) -> Result<ChapAccount, Failure> {
    let (name, secret) = text.split_once(':').ok_or(USAGE)?;
    Ok(ChapAccount {
        name: name.to_owned(),
        secret: Secret::new(secret.as_bytes())?,
    })
}

fn disk(text: &str, number: usize) -> Result<(Arc<dyn BlockExport>, UnitOptions), Failure> {
    let mut words = text.split(',');
    let size_mib: u64 = words.next().ok_or(USAGE)?.parse()?;
    let mut options = UnitOptions::default();
    let identity = 0x486f_6c64_6661_7374_u128 << 64 | u128::try_from(number)?;
    let mut disk = MemoryDisk::new(size_mib << 20).with_identity(identity.to_be_bytes());
    for word in words {
        match word {
            "4096" => options.logical_block_bytes = 4096,
            "512n" => options.physical_block_bytes = Some(512),
            "removable" => options.removable = true,
            "sanitize" => options.sanitize = true,
            "read-only" => disk = disk.into_read_only(),
            _ => return Err(USAGE.into()),
        }
    }
    Ok((Arc::new(disk), options))
}

const USAGE: &str = "usage: serve_memory PORTAL[,PORTAL...] [KEY=VALUE...] LUN...";
