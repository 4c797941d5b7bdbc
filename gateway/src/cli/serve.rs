//! `holdfast serve`.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use repo::{Repository, Secret};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, LogFormat, Portmapper};
use crate::notify::notify;
use crate::secrets::KeySource;
use crate::state::Addresses;
use crate::{Gateway, telemetry};

use super::client::{ClientArgs, note_state};
use super::output::tell;
use super::secret::{SecretArgs, ask};

#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// The repository's folder
    #[arg(long, env = "HOLDFAST_REPOSITORY", value_name = "DIR")]
    repository: Option<PathBuf>,
    #[command(flatten)]
    secret: SecretArgs,
    /// The configuration
    #[arg(long, env = "HOLDFAST_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where HTTPS listens [default: 127.0.0.1:8700]
    #[arg(long, value_name = "ADDRESS:PORT")]
    api: Option<SocketAddr>,
    /// Where NBD listens [default: 127.0.0.1:10809]
    #[arg(long, value_name = "ADDRESS:PORT")]
    nbd: Option<SocketAddr>,
    /// Where NFS and MOUNT listen [default: 127.0.0.1:2049]
    #[arg(long, value_name = "ADDRESS:PORT")]
    nfs: Option<SocketAddr>,
    /// A portal where iSCSI listens; more than once for several [default: 127.0.0.1:3260]
    #[arg(long, value_name = "ADDRESS:PORT")]
    iscsi: Vec<SocketAddr>,
    /// off, register (at rpcbind), or ADDRESS:PORT [default: off]
    #[arg(long, value_name = "HOW")]
    portmapper: Option<Portmapper>,
    /// Take any free ports; the real ones are in addresses.json of the state folder
    #[arg(long, conflicts_with_all = ["api", "nbd", "nfs", "iscsi"])]
    any_ports: bool,
    /// What is logged, such as info or info,nfs=debug
    #[arg(long, env = "HOLDFAST_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Log one JSON object a line
    #[arg(long)]
    log_json: bool,
}

impl ServeArgs {
    /// The file, and what the command line says instead.
    fn config(&self, daemon: &ClientArgs) -> Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if let Some(repository) = &self.repository {
            config.repository.path.clone_from(repository);
        }
        if KeySource::one_of(
            self.secret.key_file.as_deref(),
            self.secret.passphrase_file.as_deref(),
            self.secret.key_command.as_deref(),
        )?
        .is_some()
        {
            config.repository.key_file.clone_from(&self.secret.key_file);
            config
                .repository
                .passphrase_file
                .clone_from(&self.secret.passphrase_file);
            config
                .repository
                .key_command
                .clone_from(&self.secret.key_command);
        }
        if let Some(state) = &daemon.state {
            config.state.path = Some(state.clone());
        }
        config.check()?;
        // Clients in other folders are told paths below these.
        let absolute =
            |path: &Path| std::path::absolute(path).context("the working folder is gone");
        config.repository.path = absolute(&config.repository.path)?;
        config.state.path = config.state.path.as_deref().map(absolute).transpose()?;
        if self.any_ports {
            config = config.with_any_ports();
        }
        config.api.listen = self.api.unwrap_or(config.api.listen);
        config.nbd.listen = self.nbd.unwrap_or(config.nbd.listen);
        config.nfs.listen = self.nfs.unwrap_or(config.nfs.listen);
        if !self.iscsi.is_empty() {
            config.iscsi.listen.clone_from(&self.iscsi);
        }
        config.nfs.portmapper = self.portmapper.unwrap_or(config.nfs.portmapper);
        if let Some(filter) = &self.log {
            config.log.filter.clone_from(filter);
        }
        if self.log_json {
            config.log.format = LogFormat::Json;
        }
        Ok(config)
    }
}

pub(super) fn run(arguments: &ServeArgs, daemon: &ClientArgs) -> Result<()> {
    let config = arguments.config(daemon)?;
    // Everything the daemon makes is for its own user only.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    telemetry::start_log(&config.log).map_err(|error| anyhow!(error))?;
    raise_descriptor_limit();
    let secret = secret_of(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(config, secret))
}

/// The repository's passphrase or key: from where the configuration says, else asked for at a terminal.
fn secret_of(config: &Config) -> Result<Option<Secret>> {
    if let Some(source) = KeySource::configured(&config.repository)? {
        return Ok(Some(source.read()?));
    }
    // What is wrong with the folder is said when it is opened.
    let encrypted = Repository::is_encrypted_at(&config.repository.path).unwrap_or(false);
    if encrypted && std::io::stdin().is_terminal() {
        return ask("Passphrase of the repository: ").map(Some);
    }
    Ok(None)
}

async fn serve(config: Config, secret: Option<Secret>) -> Result<()> {
    let state = config.state_path();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let gateway = Gateway::start_with(config, secret).await?;
    note_state(&state);
    greet(gateway.addresses(), &state);
    notify("READY=1");
    tokio::select! {
        _ = terminate.recv() => tracing::info!("told to terminate"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
    }
    notify("STOPPING=1");
    gateway.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Takes as many open files as the system allows without asking: each connection and pack needs one.
fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn greet(addresses: &Addresses, state: &Path) {
    let iscsi: Vec<String> = addresses.iscsi.iter().map(ToString::to_string).collect();
    let iscsi = match iscsi.as_slice() {
        [] => "off".to_owned(),
        portals => portals.join(" and "),
    };
    let smb = match addresses.smb {
        Some(address) => address.to_string(),
        None => "off".to_owned(),
    };
    tracing::info!(api = %addresses.api, nbd = %addresses.nbd, nfs = %addresses.nfs, iscsi, smb, "serving");
    tell(format!(
        "holdfast serves: HTTPS {}, NBD {}, NFS {}, iSCSI {iscsi}, SMB {smb}\ncertificate: sha256:{}\ntoken: in {}\nOn this machine the command line finds all this by itself.",
        addresses.api,
        addresses.nbd,
        addresses.nfs,
        addresses.fingerprint,
        state.join("token").display(),
    ));
}
