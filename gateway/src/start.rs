//! The parts of a start, one function each.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use export::BlockingPool;
use iscsi::{Authentication, ChapAccount, ChapAlgorithm, ChapPolicy};
use repo::{CollectOptions, KeySlotCounters, OpenOptions, RepoError, Repository, Secret};

use crate::Core;
use crate::alerts::Alerts;
use crate::api;
use crate::backups::Backups;
use crate::config::{
    Config, ConfigError, FilesConfig, IngestConfig, IscsiConfig, NbdConfig, NbdTls, Portmapper,
    SmbConfig, SmbEncryption, TcmuConfig,
};
use crate::exports::{Exports, chain};
use crate::jobs::{Collections, Jobs, Proving, SpaceWatch};
use crate::recovery::{Backstores, RecoveryError, Sessions, Shares};
use crate::secrets::SecretError;
use crate::servers::Servers;
use crate::state::{Addresses, Identity, StateError, StateFolder};
use crate::streams::Doors;
use crate::telemetry::Metrics;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The repository's key cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The repository cannot be opened.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The recovery sessions cannot be brought back.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A port or socket cannot be listened on.
    #[error("cannot listen on {place} for {service}: {reason}; {remedy}")]
    Listen {
        /// What was to listen.
        service: String,
        /// Where.
        place: String,
        /// How it failed.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The running rpcbind did not take our ports.
    #[error(
        "cannot register NFS with rpcbind: {reason}; start rpcbind and run as root, or set `portmapper` under [nfs] to \"off\" or an address"
    )]
    Register {
        /// How it failed.
        reason: String,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread; check the limit of processes for the daemon's user")]
    Thread(#[source] std::io::Error),
    /// Something else of a protocol server.
    #[error("cannot start the {service} server: {reason}")]
    Server {
        /// Which.
        service: &'static str,
        /// Why.
        reason: String,
    },
}

impl StartError {
    /// A place that cannot be listened on, with what to do about it.
    pub(crate) fn listen(
        service: impl Into<String>,
        place: impl ToString,
        error: &std::io::Error,
    ) -> Self {
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program uses it: stop that, or choose another port (0 takes any free one)"
            }
            std::io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address: choose one that it has"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE: grant that, or choose a higher port"
            }
            _ => "choose another address",
        };
        Self::Listen {
            service: service.into(),
            place: place.to_string(),
            reason: error.to_string(),
            remedy,
        }
    }
}

pub(crate) fn repository(
    config: &Config,
    secret: Option<Secret>,
) -> Result<Repository, StartError> {
    let mut options = OpenOptions {
        chunk_cache_bytes: config.repository.chunk_cache.bytes(),
        node_cache_bytes: config.repository.node_cache.bytes(),
        index_cache_bytes: config.repository.index_cache.bytes(),
        secret,
        parity_share: config.repository.parity.0,
        protect_files: config.repository.protect_files,
        watch_record: config
            .repository
            .watch
            .then(|| config.state_path().join("watched")),
        ..OpenOptions::default()
    };
    if config.workers.engine_threads > 0 {
        options.workers = config.workers.engine_threads;
    }
    Ok(Repository::open(&config.repository.path, &options)?)
}

pub(crate) fn pool(threads: usize, queue: usize) -> Result<BlockingPool, StartError> {
    BlockingPool::start(threads, queue).map_err(StartError::Thread)
}

pub(crate) fn nbd(
    config: &Config,
    state: &StateFolder,
    identity: &Identity,
    exports: &Arc<Exports>,
    pool: &Arc<BlockingPool>,
    metrics: nbd::Metrics,
) -> Result<nbd::Server, StartError> {
    let limits = nbd::Limits {
        connections: config.nbd.connections,
        memory_bytes: config.nbd.memory.bytes(),
        ..nbd::Limits::default()
    };
    let server = nbd::ServerConfig {
        tls: nbd_tls(&config.nbd, identity)?,
        limits,
    };
    let endpoints = vec![
        nbd::Endpoint::Tcp(config.nbd.listen),
        nbd::Endpoint::Unix {
            path: state.nbd_socket(),
            mode: 0o600,
        },
    ];
    let (exports, pool) = (Arc::clone(exports), Arc::clone(pool));
    nbd::Server::start(server, endpoints, exports, pool, metrics).map_err(|error| match &error {
        nbd::StartError::Listen { address, source } => StartError::listen("NBD", address, source),
        nbd::StartError::NotSocket(_) | nbd::StartError::InUse(_) => StartError::Server {
            service: "NBD",
            reason: error.to_string(),
        },
    })
}

pub(crate) fn iscsi(
    config: &IscsiConfig,
    exports: &Arc<Exports>,
    pool: &Arc<BlockingPool>,
    metrics: iscsi::Metrics,
) -> Result<Option<iscsi::Server>, StartError> {
    if config.listen.is_empty() {
        return Ok(None);
    }
    let server = iscsi::ServerConfig {
        limits: iscsi::Limits {
            connections: config.connections,
            memory_bytes: config.memory.bytes(),
            ..iscsi::Limits::default()
        },
        ..iscsi::ServerConfig::default()
    };
    // A group each: an initiator then has a session, and so a path, through every one of them.
    let portals = (1..)
        .zip(&config.listen)
        .map(|(group, address)| iscsi::Portal::new(*address, group));
    let (exports, pool) = (Arc::clone(exports), Arc::clone(pool));
    iscsi::Server::start(server, portals.collect(), exports, pool, metrics)
        .map(Some)
        .map_err(|iscsi::StartError::Listen { address, source }| {
            StartError::listen("iSCSI", address, &source)
        })
}

/// Streams of databases.
pub(crate) fn ingest(
    config: &IngestConfig,
    state: &StateFolder,
    identity: &Identity,
    doors: Arc<Doors>,
    metrics: ingest::Metrics,
) -> Result<ingest::Server, StartError> {
    let server = ingest::ServerConfig {
        connections: config.connections,
        window_bytes: config.window.bytes(),
        resume: config.resume.duration(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..ingest::ServerConfig::default()
    };
    let mut endpoints = vec![ingest::Endpoint::Unix {
        path: state.ingest_socket(),
        mode: 0o600,
    }];
    endpoints.extend(config.socket.iter().map(|path| ingest::Endpoint::Unix {
        path: path.clone(),
        mode: 0o666,
    }));
    let addresses = config.listen.iter().copied();
    endpoints.extend(addresses.map(ingest::Endpoint::Tcp));
    let tls = identity.nbd_config(None)?;
    ingest::Server::start(server, endpoints, tls, doors, metrics).map_err(|error| match &error {
        ingest::StartError::Listen { address, source } => {
            StartError::listen("streams", address, source)
        }
        _ => StartError::Server {
            service: "stream",
            reason: error.to_string(),
        },
    })
}

/// The daemon's own folder, which no other daemon and no other repository has.
pub(crate) fn state(
    config: &Config,
    repository: &Repository,
) -> Result<Arc<StateFolder>, StartError> {
    let mut state = StateFolder::open(&config.state_path())?;
    state.claim(repository.uuid())?;
    Ok(Arc::new(state))
}

/// What is served, of which there is nothing yet.
pub(crate) fn exports(config: &Config) -> Result<Arc<Exports>, StartError> {
    let authentication = iscsi_authentication(&config.iscsi)?;
    Ok(Exports::new(&config.recovery.allow_root, authentication))
}

/// Recovery sessions, those of earlier runs among them.
pub(crate) fn sessions(
    config: &Config,
    repository: &Repository,
    exports: &Arc<Exports>,
    state: &Arc<StateFolder>,
    backstores: Backstores,
    shares: Shares,
) -> Result<Sessions, StartError> {
    Ok(Sessions::open(
        repository.clone(),
        Arc::clone(exports),
        Arc::clone(state),
        config.recovery.clone(),
        config.iscsi.clone(),
        backstores,
        shares,
    )?)
}

/// The user side of the kernel's target, which is asked for nothing yet.
pub(crate) fn backstores(
    config: &TcmuConfig,
    pool: &Arc<BlockingPool>,
    metrics: tcmu::Metrics,
) -> Backstores {
    let server = tcmu::ServerConfig {
        data_area_mebibytes: config.data_area_mebibytes(),
    };
    let server = tcmu::Server::new(tcmu::Kernel::system(), server, Arc::clone(pool), metrics);
    Backstores::new(server, config.block_bytes)
}

/// The server of shares, which has none yet.
pub(crate) fn shares(
    config: &SmbConfig,
    files: &FilesConfig,
    state: &StateFolder,
    metrics: smb::Metrics,
) -> Result<Shares, StartError> {
    let Some(first) = config.listen.first() else {
        return Ok(Shares::default());
    };
    let failed = |error: smb::SmbError| StartError::Server {
        service: "SMB",
        reason: chain(&error),
    };
    let folder = config.folder.clone();
    let folder = folder.unwrap_or_else(|| state.file("smb"));
    let points = smb::MountPoints::prepare(&folder.join("mounts")).map_err(failed)?;
    let settings = smb::Settings {
        folder,
        addresses: config.listen.clone(),
        port: match config.port {
            0 => free_port(*first)?,
            port => port,
        },
        encryption: match config.encryption {
            SmbEncryption::Off => smb::Encryption::Off,
            SmbEncryption::Allow => smb::Encryption::Allow,
            SmbEncryption::Require => smb::Encryption::Require,
        },
        clients: config.connections,
    };
    let server = smb::Server::start(settings, metrics).map_err(failed)?;
    Ok(Shares::new(server, points, files.worker()))
}

/// A port that is free now. Samba must be told one.
fn free_port(ip: std::net::IpAddr) -> Result<u16, StartError> {
    let listener = std::net::TcpListener::bind((ip, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address
        .map(|address| address.port())
        .map_err(|error| StartError::listen("SMB", ip, &error))
}

/// Backups, of which none is under way yet.
pub(crate) fn backups(
    config: &Config,
    repository: &Repository,
    metrics: &Arc<Metrics>,
) -> Arc<Backups> {
    Backups::new(
        repository.clone(),
        config.backup.clone(),
        Arc::clone(metrics),
    )
}

/// How iSCSI initiators prove who they are.
fn iscsi_authentication(config: &IscsiConfig) -> Result<Authentication, StartError> {
    let account = |user: &Option<String>, file: &Option<PathBuf>| match (user, file) {
        (Some(name), Some(file)) => chap_account(name, file).map(Some),
        _ => Ok(None),
    };
    let own = account(&config.target_user, &config.target_secret_file)?;
    let Some(initiators) = account(&config.chap_user, &config.chap_secret_file)? else {
        return Ok(Authentication::None);
    };
    if own
        .as_ref()
        .is_some_and(|own| own.secret == initiators.secret)
    {
        let reason =
            "target_secret_file has the secret of chap_secret_file; the two must differ".to_owned();
        return Err(StartError::Server {
            service: "iSCSI",
            reason,
        });
    }
    Ok(Authentication::Chap(Arc::new(ChapPolicy {
        accounts: vec![initiators],
        own,
        algorithms: ChapAlgorithm::ALL.to_vec(),
    })))
}

fn chap_account(name: &str, file: &Path) -> Result<ChapAccount, StartError> {
    let failed = |reason: String| StartError::Server {
        service: "iSCSI",
        reason: format!("{}: {reason}", file.display()),
    };
    let text = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    let secret = text.trim_ascii_end();
    let secret = iscsi::Secret::new(secret).map_err(|error| failed(error.to_string()))?;
    Ok(ChapAccount {
        name: name.to_owned(),
        secret,
    })
}

fn nbd_tls(config: &NbdConfig, own: &Identity) -> Result<nbd::Tls, StartError> {
    let brought = match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => Some(Identity::load_pem(certificate, key)?),
        _ => None,
    };
    let tls = || {
        let identity = brought.as_ref().unwrap_or(own);
        identity.nbd_config(config.client_authority.as_deref())
    };
    Ok(match config.tls {
        NbdTls::Off => nbd::Tls::Off,
        NbdTls::Allow => nbd::Tls::Allowed(tls()?),
        NbdTls::Require => nbd::Tls::Required(tls()?),
    })
}

pub(crate) async fn nfs(
    config: &Config,
    state: &StateFolder,
    exports: Arc<Exports>,
    pool: Arc<BlockingPool>,
) -> Result<nfs::Server, StartError> {
    let portmap = match config.nfs.portmapper {
        Portmapper::Off => nfs::Portmap::None,
        Portmapper::Register => nfs::Portmap::Rpcbind,
        Portmapper::Listen(address) => nfs::Portmap::BuiltIn(address),
    };
    let server = nfs::ServerConfig {
        nfs: config.nfs.listen,
        mount: None,
        portmap,
        key: nfs::HandleKey::new(state.nfs_key()?),
        limits: nfs::Limits {
            connections: config.nfs.connections,
            ..nfs::Limits::default()
        },
    };
    nfs::Server::start(server, exports, pool)
        .await
        .map_err(|error| match &error {
            nfs::ServerError::Listen {
                service,
                address,
                source,
            } => StartError::listen(format!("NFS ({service})"), address, source),
            nfs::ServerError::Register { source } => StartError::Register {
                reason: source.to_string(),
            },
            _ => StartError::Server {
                service: "NFS",
                reason: error.to_string(),
            },
        })
}

/// Collections, with the reserve that they work on when the storage is full.
pub(crate) fn collections(
    config: &Config,
    repository: &Repository,
    metrics: &mut Metrics,
) -> Result<Arc<Collections>, StartError> {
    let options = CollectOptions {
        grace: config.collect.grace.duration(),
        compact_below_percent: config.collect.compact_below_percent,
        reserve_bytes: config.collect.reserve.bytes(),
        ..CollectOptions::default()
    };
    repository.make_reserve(options.reserve_bytes)?;
    let collections = Collections::new(repository.clone(), options);
    let counted = Arc::clone(&collections);
    metrics.collect(move || counted.samples());
    Ok(collections)
}

/// Alerts, those of earlier runs among them.
pub(crate) fn alerts(
    state: &Arc<StateFolder>,
    metrics: &mut Metrics,
) -> Result<Arc<Alerts>, StartError> {
    let alerts = Arc::new(Alerts::load(state)?);
    let counted = Arc::clone(&alerts);
    metrics.collect(move || counted.samples());
    Ok(alerts)
}

/// Long work, of which none is under way yet.
pub(crate) fn jobs(
    repository: &Repository,
    state: &Arc<StateFolder>,
    alerts: &Arc<Alerts>,
) -> Arc<Jobs> {
    Arc::new(Jobs::new(
        repository.clone(),
        Arc::clone(state),
        Arc::clone(alerts),
    ))
}

/// The part that proves a share of the packs each day.
pub(crate) fn proving(core: &Core) -> Result<Proving, StartError> {
    Proving::start(
        core.repository.clone(),
        Arc::clone(&core.jobs),
        core.config.verify.clone(),
    )
    .map_err(StartError::Thread)
}

/// The part that warns initiators when the storage fills up.
pub(crate) fn space(core: &Core, exports: Arc<Exports>) -> Result<SpaceWatch, StartError> {
    let warn_below_bytes = core.config.recovery.warn_below.bytes();
    SpaceWatch::start(core.repository.clone(), exports, warn_below_bytes)
        .map_err(StartError::Thread)
}

/// Adds what others count to `/metrics`.
pub(crate) fn collect(metrics: &mut Metrics, repository: &Repository, nfs: &nfs::Server) {
    let counters = nfs.metrics();
    metrics.collect(move || counters.samples().collect());
    let encrypted = repository.clone();
    metrics.collect(move || {
        let slots = encrypted.key_slots();
        let value = |counter: fn(&KeySlotCounters) -> &AtomicU64| {
            slots.map_or(0, |slots| counter(slots.counters()).load(Ordering::Relaxed))
        };
        vec![
            ("holdfast_repository_encrypted", u64::from(slots.is_some())),
            (
                "holdfast_key_slots_changes_total",
                value(|counters| &counters.changes),
            ),
            (
                "holdfast_key_slots_refused_total",
                value(|counters| &counters.refused),
            ),
        ]
    });
    let repaired = repository.clone();
    metrics.collect(move || repair_samples(&repaired));
    let guarded = repository.clone();
    metrics.collect(move || guard_samples(&guarded));
    let repository = repository.clone();
    metrics.collect(move || {
        let counters = repository.counters();
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            (
                "holdfast_repository_chunk_reads_total",
                value(&counters.chunk_reads),
            ),
            (
                "holdfast_repository_chunk_cache_hits_total",
                value(&counters.chunk_cache_hits),
            ),
            (
                "holdfast_repository_stale_hints_total",
                value(&counters.stale_hints),
            ),
            (
                "holdfast_repository_ingested_bytes_total",
                value(&counters.ingested_bytes),
            ),
            (
                "holdfast_repository_stored_chunks_total",
                value(&counters.stored_chunks),
            ),
            (
                "holdfast_repository_stored_bytes_total",
                value(&counters.stored_bytes),
            ),
            (
                "holdfast_repository_deduplicated_chunks_total",
                value(&counters.deduplicated_chunks),
            ),
        ]
    });
}

/// What is locked, and how the time by which it is stands to the machine's clock.
fn guard_samples(repository: &Repository) -> Vec<(&'static str, u64)> {
    let state = repository.clock_state();
    let seconds = |later: repo::UnixNanoseconds, earlier: repo::UnixNanoseconds| {
        later.0.saturating_sub(earlier.0) / 1_000_000_000
    };
    vec![
        ("holdfast_points_locked", repository.locked_count()),
        (
            "holdfast_trusted_time_ahead_seconds",
            seconds(state.trusted, state.machine),
        ),
        (
            "holdfast_trusted_time_behind_seconds",
            seconds(state.machine, state.trusted),
        ),
    ]
}

/// What was verified and repaired, and what waits for it.
fn repair_samples(repository: &Repository) -> Vec<(&'static str, u64)> {
    let counters = repository.repair_counters();
    let proofs = repository.proofs();
    let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let seconds =
        |proof: Option<repo::UnixNanoseconds>| proof.map_or(0, |proof| proof.0 / 1_000_000_000);
    vec![
        (
            "holdfast_verify_packs_proven_total",
            value(&counters.proven_packs),
        ),
        (
            "holdfast_verify_read_bytes_total",
            value(&counters.verified_bytes),
        ),
        ("holdfast_verify_packs_never_proven", proofs.never),
        (
            "holdfast_verify_oldest_proof_timestamp_seconds",
            seconds(proofs.oldest_known),
        ),
        ("holdfast_verify_lost_records", proofs.lost_records),
        (
            "holdfast_repair_reads_rebuilt_total",
            value(&counters.rebuilt_reads),
        ),
        (
            "holdfast_repair_reads_lost_total",
            value(&counters.lost_reads),
        ),
        (
            "holdfast_repair_pages_mended_total",
            value(&counters.mended_pages),
        ),
        (
            "holdfast_repair_packs_mended_total",
            value(&counters.mended_packs),
        ),
        ("holdfast_repair_packs_waiting", repository.care_count()),
        (
            "holdfast_repair_parity_files_total",
            value(&counters.parity_files),
        ),
        (
            "holdfast_repair_parity_bytes_total",
            value(&counters.parity_bytes),
        ),
    ]
}

pub(crate) fn addresses(
    config: &Config,
    state: &StateFolder,
    servers: &Servers,
    shares: &Shares,
    api: &api::Listeners,
) -> Addresses {
    let iscsi = servers.iscsi.as_ref();
    Addresses {
        api: api.address(),
        nbd: servers
            .nbd_address()
            .unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))),
        nbd_tls: config.nbd.tls,
        nbd_socket: state.nbd_socket(),
        nfs: servers.nfs.nfs_address(),
        portmapper: servers.nfs.portmap_address(),
        rpcbind: config.nfs.portmapper == Portmapper::Register,
        iscsi: iscsi.map_or_else(Vec::new, |iscsi| iscsi.addresses().to_vec()),
        iscsi_name: config.iscsi.name.clone(),
        smb: shares.server().map(|server| server.settings().reachable()),
        ingest: servers.ingest_address(),
        ingest_socket: state.ingest_socket(),
        control_socket: state.control_socket(),
        fingerprint: api.fingerprint().to_string(),
        process: std::process::id(),
    }
}
