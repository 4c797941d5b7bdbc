//! The Holdfast daemon and its command line.
//!
//! [`Gateway::start`] composes what the other crates offer: it opens the repository, serves recovery sessions over
//! NBD, NFS and iSCSI, and everything else over HTTP. `docs/operations/daemon.md` is the operator's view.

#![forbid(unsafe_code)]

pub mod alerts;
pub mod api;
pub mod backups;
mod browse;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod exports;
mod extract;
pub mod framing;
pub mod jobs;
mod notify;
pub mod recovery;
pub mod secrets;
mod servers;
pub mod sources;
mod start;
pub mod state;
mod streams;
pub mod telemetry;
pub mod transfer;

use std::sync::Arc;
use std::time::Duration;

use export::BlockingPool;
use repo::clock::SystemClock;
use repo::{Repository, Secret, Watch};

use crate::alerts::Alerts;
use crate::api::{ApiServer, Descriptors};
use crate::backups::Backups;
use crate::browse::OpenedPoints;
use crate::config::Config;
use crate::jobs::{Collections, Jobs, Proving, Retention, Schedule, SpaceWatch};
use crate::recovery::Sessions;
use crate::secrets::KeySource;
use crate::servers::Servers;
use crate::state::{Addresses, Identity, LockAuthority, StateFolder, Tokens};
use crate::streams::Doors;
use crate::telemetry::Metrics;

pub use start::StartError;

/// A running daemon.
#[derive(Debug)]
pub struct Gateway {
    core: Arc<Core>,
    servers: Servers,
    api: ApiServer,
    proving: Proving,
    space: SpaceWatch,
    watch: Option<Watch>,
    schedule: Schedule,
}

/// What the HTTP interface works on.
#[derive(Debug)]
pub struct Core {
    /// How the daemon was told to run.
    pub config: Config,
    /// Its own folder.
    pub state: Arc<StateFolder>,
    /// The repository.
    pub repository: Repository,
    /// Recovery sessions.
    pub sessions: Sessions,
    /// Backups under way.
    pub backups: Arc<Backups>,
    /// Long work under way.
    pub jobs: Arc<Jobs>,
    /// Collections.
    pub collections: Arc<Collections>,
    /// Retention rules.
    pub retention: Retention,
    /// Threads for calls that may wait for a disk.
    pub pool: BlockingPool,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who may use the HTTP interface.
    pub tokens: Arc<Tokens>,
    /// What a person must know.
    pub alerts: Arc<Alerts>,
    /// Who confirms that a lock is lifted.
    pub authority: LockAuthority,
    /// Restore points whose files are looked at.
    pub(crate) opened_points: Arc<OpenedPoints>,
    /// Open files that clients on this machine handed over.
    pub descriptors: Descriptors,
    /// Where the daemon listens.
    pub addresses: Addresses,
}

impl Gateway {
    /// Starts everything, in the order in which it depends on one another. Sessions are there again before the first
    /// client can ask for them.
    ///
    /// # Errors
    /// If the repository cannot be opened, a port is taken, or the state folder cannot be used.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let secret = KeySource::configured(&config.repository)?;
        let secret = secret.map(|source| source.read()).transpose()?;
        Self::start_with(config, secret).await
    }

    /// As [`start`](Self::start), with the passphrase or key of the repository at hand.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_with(config: Config, secret: Option<Secret>) -> Result<Self, StartError> {
        config.check()?;
        let repository = start::repository(&config, secret)?;
        let state = start::state(&config, &repository)?;
        let exports = start::exports(&config)?;
        let (mut metrics, counters) = Metrics::new(&exports);
        let (threads, queue) = (config.workers.export_threads, config.workers.export_queue);
        let pool = Arc::new(start::pool(threads, queue)?);
        let backstores = start::backstores(&config.tcmu, &pool, counters.tcmu);
        let shares = start::shares(&config.smb, &config.files, &state, counters.smb)?;
        let sessions = start::sessions(&config, &repository, &exports, &state, backstores, shares)?;
        let identity = Identity::load_or_create(&state, &config.api.certificate_names)?;
        let tokens = Arc::new(Tokens::load_or_create(&state)?);
        let doors = Doors::new(&repository, &tokens);
        let servers = Servers {
            nbd: start::nbd(&config, &state, &identity, &exports, &pool, counters.nbd)?,
            iscsi: start::iscsi(&config.iscsi, &exports, &pool, counters.iscsi)?,
            ingest: start::ingest(&config.ingest, &state, &identity, doors, counters.ingest)?,
            nfs: start::nfs(&config, &state, Arc::clone(&exports), pool).await?,
        };
        start::collect(&mut metrics, &repository, &servers.nfs);
        let collections = start::collections(&config, &repository, &mut metrics)?;
        let alerts = start::alerts(&state, &mut metrics)?;
        let metrics = Arc::new(metrics);
        let watch = alerts::watch(&config, &repository, &alerts, &metrics);
        let listeners = api::Listeners::bind(&config, &state, &identity).await?;
        let core = Arc::new(Core {
            addresses: start::addresses(&config, &state, &servers, sessions.shares(), &listeners),
            backups: start::backups(&config, &repository, &metrics),
            opened_points: OpenedPoints::new(&repository, config.files.worker()),
            jobs: start::jobs(&repository, &state, &alerts),
            collections,
            retention: Retention::open(repository.clone(), Arc::clone(&state))?,
            pool: start::pool(config.workers.api_threads, API_QUEUE)?,
            tokens,
            alerts,
            authority: LockAuthority::new(Arc::clone(&state), Arc::new(SystemClock)),
            descriptors: Descriptors::default(),
            config,
            state,
            repository,
            sessions,
            metrics,
        });
        core.repository.on_care(alerts::found_by_care(&core));
        let proving = start::proving(&core)?;
        let space = start::space(&core, exports)?;
        let api = listeners.serve(&core);
        core.addresses.store(&core.state)?;
        let schedule = Schedule::start(&core).map_err(StartError::Thread)?;
        Ok(Self {
            core,
            servers,
            api,
            proving,
            space,
            watch,
            schedule,
        })
    }

    /// Stops everything in reverse order. Requests under way are answered if they end soon; what was answered stays.
    pub async fn stop(mut self) {
        self.proving.stop();
        self.space.stop();
        self.api.stop(GRACE).await;
        self.schedule.stop();
        self.core.jobs.stop();
        self.core.collections.stop();
        self.core.backups.abort_all();
        self.servers.stop(GRACE).await;
        self.core.sessions.leave();
        drop(self.watch);
        if let Err(error) = self.core.repository.close() {
            tracing::error!(
                error = exports::chain(&error),
                "the repository did not close in good order"
            );
        }
    }

    /// Where the daemon listens.
    pub fn addresses(&self) -> &Addresses {
        &self.core.addresses
    }

    /// What the HTTP interface works on.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Core {
    /// Runs `work` on a thread that may wait for a disk.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let core = Arc::clone(self);
        self.pool.run(move || work(&core)).await
    }

    /// Runs `work` that may take minutes, on a thread of its own, so that short calls do not wait for it.
    ///
    /// # Errors
    /// If the system refuses a thread.
    ///
    /// # Panics
    /// If `work` panicked.
    pub async fn run_long<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> std::io::Result<T> {
        let core = Arc::clone(self);
        let (answer, result) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("long-call".to_owned())
            .spawn(move || {
                let done = work(&core);
                // The caller may wait for everything to be let go.
                drop(core);
                drop(answer.send(done));
            })?;
        Ok(result.await.expect("a long call does not panic"))
    }
}

/// How long requests under way may take when the daemon stops.
const GRACE: Duration = Duration::from_secs(10);
/// Calls that may queue for the threads of the HTTP interface.
const API_QUEUE: usize = 1024;
