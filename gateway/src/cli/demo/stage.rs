//! A repository and a daemon of the demo's own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use repo::{CreateOptions, Repository};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::config::{Config, LogConfig, Portmapper};
use crate::state::Addresses;
use crate::{Gateway, telemetry};

use super::super::client::{Client, Place};
use super::Shown;

/// A running daemon in this process.
#[derive(Debug)]
pub(super) struct Stage {
    runtime: Runtime,
    gateway: Gateway,
    client: Client,
    folder: TempDir,
}

impl Stage {
    /// Makes the repository and starts the daemon. To `boot` over NFS it needs ports 111 and 2049 of some loopback
    /// address, because QEMU's NFS client cannot be told others.
    pub(super) fn start(directory: Option<&Path>, boot: bool) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("holdfast-demo-");
        let folder = match directory {
            Some(directory) => builder.tempdir_in(directory),
            None => builder.tempdir(),
        }
        .context("cannot make a temporary folder; name another with --directory")?;
        let repository = folder.path().join("repository");
        Repository::create(&repository, &CreateOptions::default())?;
        let log = LogConfig {
            filter: "warn".to_owned(),
            ..LogConfig::default()
        };
        telemetry::start_log(&log).map_err(|error| anyhow::anyhow!(error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let plain = Config::for_repository(&repository).with_any_ports();
        let config = if boot { with_known_ports(plain) } else { plain };
        let started = runtime.block_on(Gateway::start(config));
        let gateway = if boot {
            started.context("cannot boot over NFS: QEMU's client looks for its server on ports 111 and 2049 alone; run this as root and see that nothing listens there on all addresses, or leave --boot out")?
        } else {
            started?
        };
        let socket = gateway.addresses().control_socket.clone();
        Ok(Self {
            runtime,
            gateway,
            client: Client::new(Place::Local { socket }),
            folder,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn addresses(&self) -> &Addresses {
        self.gateway.addresses()
    }

    /// Stops the daemon; gives the repository if it is kept.
    pub(super) fn stop(self, keep: bool) -> Result<Kept> {
        self.runtime.block_on(self.gateway.stop());
        if keep {
            return Ok(Kept(Some(self.folder.keep().join("repository"))));
        }
        self.folder
            .close()
            .context("cannot remove the temporary folder")?;
        Ok(Kept(None))
    }
}

impl Shown for Stage {
    fn shown(&self) -> String {
        let addresses = self.addresses();
        format!(
            "{}, NBD {}, NFS {}",
            self.folder.path().display(),
            addresses.nbd,
            addresses.nfs
        )
    }
}

/// The repository, if it was kept.
#[derive(Debug)]
pub(super) struct Kept(pub(super) Option<PathBuf>);

impl Shown for Kept {
    fn shown(&self) -> String {
        match &self.0 {
            Some(path) => format!("kept {}", path.display()),
            None => "and remove the temporary repository".to_owned(),
        }
    }
}

/// NFS and a portmapper where QEMU looks for them, on a loopback address that no other demo takes.
fn with_known_ports(mut config: Config) -> Config {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 77, high, low.clamp(1, 254));
    config.nfs.listen = SocketAddr::from((address, 2049));
    config.nfs.portmapper = Portmapper::Listen(SocketAddr::from((address, 111)));
    config
}
