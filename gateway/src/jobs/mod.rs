//! Long work on the repository, with progress, and what the daemon does by itself.

mod collect;
mod proving;
mod retention;
mod rounds;
mod schedule;
mod space;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use repo::clock::{Clock as _, SystemClock, UnixNanoseconds};
use repo::{Repository, VerifyOptions, VerifyProgress, VerifyReport, VerifyScope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

pub use collect::{CollectError, CollectMode, Collection, Collections};
pub use proving::Proving;
pub use retention::{Applied, Retention, RuleBook};
pub use schedule::Schedule;
pub use space::SpaceWatch;

use crate::alerts::{Alerts, found_by_verification};
use crate::exports::chain;
use crate::state::{StateError, StateFolder};

/// All jobs since the daemon started, the newest few of them.
pub struct Jobs {
    repository: Repository,
    state: Arc<StateFolder>,
    alerts: Arc<Alerts>,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
    next: AtomicU64,
}

/// One job.
pub struct Job {
    /// Its name in the API.
    pub id: Uuid,
    /// What is verified, and how.
    pub options: VerifyOptions,
    /// When it began.
    pub started: UnixNanoseconds,
    progress: Mutex<(u64, u64)>,
    outcome: Mutex<Outcome>,
    stop: AtomicBool,
    ended: tokio::sync::Notify,
}

/// How a job stands.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It runs.
    Running,
    /// It ended; the report says what was found.
    Done(VerifyReport),
    /// It could not go on.
    Failed(String),
    /// Somebody stopped it.
    Stopped,
}

/// How a job stands, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It runs.
    Running,
    /// It ended.
    Done,
    /// It could not go on.
    Failed,
    /// Somebody stopped it.
    Stopped,
}

impl Jobs {
    /// None yet. What they find hurt becomes an alert.
    pub fn new(repository: Repository, state: Arc<StateFolder>, alerts: Arc<Alerts>) -> Self {
        Self {
            repository,
            state,
            alerts,
            jobs: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Starts to verify, on a thread of its own.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn verify(&self, options: VerifyOptions) -> std::io::Result<Arc<Job>> {
        let job = Arc::new(Job {
            id: Uuid::new_v4(),
            options,
            started: SystemClock.now(),
            progress: Mutex::default(),
            outcome: Mutex::new(Outcome::Running),
            stop: AtomicBool::new(false),
            ended: tokio::sync::Notify::new(),
        });
        let (repository, running) = (self.repository.clone(), Arc::clone(&job));
        let (state, alerts) = (Arc::clone(&self.state), Arc::clone(&self.alerts));
        std::thread::Builder::new()
            .name("verify".to_owned())
            .spawn(move || running.run(&repository, &state, &alerts))?;
        let mut jobs = self.jobs.lock();
        jobs.insert(self.next.fetch_add(1, Ordering::Relaxed), Arc::clone(&job));
        while jobs.len() > KEPT {
            jobs.pop_first();
        }
        Ok(job)
    }

    /// What the last verification found that came to its end, of this daemon or one before it.
    ///
    /// # Errors
    /// If the state folder cannot be read.
    pub fn last_result(&self) -> Result<Option<VerifyResult>, StateError> {
        let content = self.state.read(Path::new(RESULT_FILE), RESULT_BYTES_MAX)?;
        Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
    }

    /// All jobs, the oldest first.
    pub fn list(&self) -> Vec<Arc<Job>> {
        self.jobs.lock().values().cloned().collect()
    }

    /// One job.
    pub fn find(&self, id: Uuid) -> Option<Arc<Job>> {
        self.jobs.lock().values().find(|job| job.id == id).cloned()
    }

    /// Tells all jobs to stop: they look after every chunk.
    pub fn stop(&self) {
        for job in self.list() {
            job.stop();
        }
    }
}

impl Job {
    /// Tells it to stop soon.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Bytes done, and of how many.
    pub fn progress(&self) -> (u64, u64) {
        *self.progress.lock()
    }

    /// How it stands.
    pub fn outcome(&self) -> Outcome {
        self.outcome.lock().clone()
    }

    /// Waits for its end.
    pub async fn wait(&self) {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        if matches!(*self.outcome.lock(), Outcome::Running) {
            ended.await;
        }
    }

    fn run(&self, repository: &Repository, state: &StateFolder, alerts: &Alerts) {
        let mut show = |progress: VerifyProgress| {
            *self.progress.lock() = (progress.read_bytes, progress.total_bytes);
            match self.stop.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let outcome = match repository.verify_with(&self.options, &mut show) {
            _ if self.stop.load(Ordering::Relaxed) => Outcome::Stopped,
            Ok(report) => Outcome::Done(report),
            Err(error) => Outcome::Failed(chain(&error)),
        };
        if let Outcome::Done(report) = &outcome {
            alerts.raise(found_by_verification(report));
            // One that looks for losses alone and finds none has proven nothing.
            if !(self.options.scope == VerifyScope::Lost && report.is_sound()) {
                self.keep(report, state);
            }
        }
        tracing::info!(job = %self.id, state = ?outcome.state(), "a verify job ended");
        *self.outcome.lock() = outcome;
        self.ended.notify_waiters();
    }
}

/// What a verification found, as it is kept for whoever asks later.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VerifyResult {
    /// When it ended, RFC 3339.
    pub ended: String,
    /// What was verified.
    pub scope: String,
    /// Whether nothing is hurt, or all that was is mended.
    pub sound: bool,
    /// What was found.
    pub report: serde_json::Value,
}

impl Job {
    /// What is verified, for a person.
    pub fn scope(&self) -> String {
        match &self.options.scope {
            VerifyScope::All => "everything".to_owned(),
            VerifyScope::Point(point) => point.to_string(),
            VerifyScope::Oldest { packs } => format!("{packs} packs"),
            VerifyScope::OneIn { parts } => format!("one pack in {parts}"),
            VerifyScope::Lost => "what was found lost".to_owned(),
        }
    }

    /// Logs what was found and keeps it.
    fn keep(&self, report: &VerifyReport, state: &StateFolder) {
        for what in &report.mended {
            tracing::warn!(what, "mended a pack");
        }
        for what in &report.mendable {
            tracing::warn!(
                what,
                "a damaged pack can be mended; run `holdfast verify --repair`"
            );
        }
        if !report.damaged.is_empty() {
            tracing::error!(
                stretches = report.damaged.len(),
                records = report.lost_records,
                "stored data is lost; see `holdfast verify --last`"
            );
        }
        let result = VerifyResult {
            ended: SystemClock.now().to_string(),
            scope: self.scope(),
            sound: report.is_sound(),
            report: serde_json::to_value(report).unwrap_or_default(),
        };
        let content = serde_json::to_vec_pretty(&result).unwrap_or_default();
        if let Err(error) = state.replace(Path::new(RESULT_FILE), &content) {
            tracing::warn!(%error, "the result of a verification is not kept");
        }
    }
}

impl Outcome {
    /// In one word.
    pub fn state(&self) -> JobState {
        match self {
            Self::Running => JobState::Running,
            Self::Done(_) => JobState::Done,
            Self::Failed(_) => JobState::Failed,
            Self::Stopped => JobState::Stopped,
        }
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Jobs")
            .field("jobs", &self.jobs.lock().len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Job")
            .field("id", &self.id)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Jobs that are remembered.
const KEPT: usize = 100;

/// The last result, in the state folder.
const RESULT_FILE: &str = "verify.json";

/// Ten thousand damages with long names, and more.
const RESULT_BYTES_MAX: u64 = 64 << 20;
