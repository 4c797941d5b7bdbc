//! Long work on the repository, with progress, and what the daemon does by itself.

mod collect;
mod retention;
mod schedule;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use repo::clock::{Clock as _, SystemClock, UnixNanoseconds};
use repo::{PointName, Repository, VerifyProgress, VerifyReport, VerifyScope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

pub use collect::{CollectError, CollectMode, Collection, Collections};
pub use retention::{Applied, Retention, RuleBook};
pub use schedule::Schedule;

use crate::exports::chain;

/// All jobs since the daemon started, the newest few of them.
pub struct Jobs {
    repository: Repository,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
    next: AtomicU64,
}

/// One job.
pub struct Job {
    /// Its name in the API.
    pub id: Uuid,
    /// What is verified; none: everything.
    pub point: Option<PointName>,
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
    /// None yet.
    pub fn new(repository: Repository) -> Self {
        Self {
            repository,
            jobs: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Starts to verify a point, or everything, on a thread of its own.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn verify(&self, point: Option<PointName>) -> std::io::Result<Arc<Job>> {
        let job = Arc::new(Job {
            id: Uuid::new_v4(),
            point,
            started: SystemClock.now(),
            progress: Mutex::default(),
            outcome: Mutex::new(Outcome::Running),
            stop: AtomicBool::new(false),
            ended: tokio::sync::Notify::new(),
        });
        let (repository, running) = (self.repository.clone(), Arc::clone(&job));
        std::thread::Builder::new()
            .name("verify".to_owned())
            .spawn(move || running.run(&repository))?;
        let mut jobs = self.jobs.lock();
        jobs.insert(self.next.fetch_add(1, Ordering::Relaxed), Arc::clone(&job));
        while jobs.len() > KEPT {
            jobs.pop_first();
        }
        Ok(job)
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

    fn run(&self, repository: &Repository) {
        let scope = self
            .point
            .clone()
            .map_or(VerifyScope::All, VerifyScope::Point);
        let mut show = |progress: VerifyProgress| {
            *self.progress.lock() = (progress.read_bytes, progress.total_bytes);
            match self.stop.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let outcome = match repository.verify(&scope, &mut show) {
            _ if self.stop.load(Ordering::Relaxed) => Outcome::Stopped,
            Ok(report) => Outcome::Done(report),
            Err(error) => Outcome::Failed(chain(&error)),
        };
        tracing::info!(job = %self.id, state = ?outcome.state(), "a verify job ended");
        *self.outcome.lock() = outcome;
        self.ended.notify_waiters();
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
            .field("point", &self.point)
            .finish_non_exhaustive()
    }
}

/// Jobs that are remembered.
const KEPT: usize = 100;
