//! Collections: one at a time, started by a person or by the clock.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use repo::clock::{Clock as _, SystemClock, UnixNanoseconds};
use repo::{CollectOptions, CollectProgress, CollectReport, RepoError, Repository};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::JobState;
use crate::exports::chain;

/// What a collection is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CollectMode {
    /// Give space back; packs stay for the time of grace.
    Collect,
    /// Give space back without a time of grace.
    Now,
    /// Free nothing: compare the account of space with the maps of all points.
    Audit,
}

/// How a collection stands.
#[derive(Debug, Clone)]
pub struct Collection {
    /// What it does.
    pub mode: CollectMode,
    /// When it began.
    pub started: UnixNanoseconds,
    /// Whether it runs, and how it ended.
    pub state: JobState,
    /// What it is at.
    pub progress: Option<CollectProgress>,
    /// What it did, once it is done.
    pub report: Option<serde_json::Value>,
    /// Whether all is well; only once it is done.
    pub sound: Option<bool>,
    /// Why it could not go on.
    pub error: Option<String>,
}

/// The collection under way, or the last one.
pub struct Collections {
    repository: Repository,
    options: CollectOptions,
    current: Mutex<Option<Collection>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stop: AtomicBool,
    counters: CollectCounters,
}

/// What collections did since the daemon started.
#[derive(Debug, Default)]
struct CollectCounters {
    runs: AtomicU64,
    failures: AtomicU64,
    points: AtomicU64,
    dead_bytes: AtomicU64,
    copied_bytes: AtomicU64,
    removed_packs: AtomicU64,
    removed_bytes: AtomicU64,
    pardoned_packs: AtomicU64,
    waiting_bytes: AtomicU64,
}

/// A collection cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// One runs.
    #[error("a collection is under way already: wait for its end, or stop it")]
    UnderWay,
    /// The system refuses a thread.
    #[error("cannot start a thread for the collection")]
    Thread(#[source] std::io::Error),
}

impl Collections {
    /// None yet.
    pub fn new(repository: Repository, options: CollectOptions) -> Arc<Self> {
        Arc::new(Self {
            repository,
            options,
            current: Mutex::default(),
            thread: Mutex::default(),
            stop: AtomicBool::new(false),
            counters: CollectCounters::default(),
        })
    }

    /// Starts one on a thread of its own.
    ///
    /// # Errors
    /// If one is under way, or the system refuses a thread.
    pub fn start(self: &Arc<Self>, mode: CollectMode) -> Result<(), CollectError> {
        let mut thread = self.thread.lock();
        if self.is_running() {
            return Err(CollectError::UnderWay);
        }
        self.stop.store(false, Ordering::Relaxed);
        *self.current.lock() = Some(Collection {
            mode,
            started: SystemClock.now(),
            state: JobState::Running,
            progress: None,
            report: None,
            sound: None,
            error: None,
        });
        let collections = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("collect".to_owned())
            .spawn(move || collections.run(mode));
        *thread = Some(started.map_err(CollectError::Thread)?);
        Ok(())
    }

    /// The collection under way, or the last one.
    pub fn current(&self) -> Option<Collection> {
        self.current.lock().clone()
    }

    /// Whether one is under way.
    pub fn is_running(&self) -> bool {
        let current = self.current.lock();
        current
            .as_ref()
            .is_some_and(|current| current.state == JobState::Running)
    }

    /// Stops the one under way and waits for its end. The next one takes its work up.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("a collection panicked");
        }
    }

    /// For `/metrics`.
    pub fn samples(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.counters;
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("holdfast_collect_running", u64::from(self.is_running())),
            ("holdfast_collect_runs_total", value(&counters.runs)),
            ("holdfast_collect_failures_total", value(&counters.failures)),
            ("holdfast_collect_points_total", value(&counters.points)),
            (
                "holdfast_collect_dead_bytes_total",
                value(&counters.dead_bytes),
            ),
            (
                "holdfast_collect_copied_bytes_total",
                value(&counters.copied_bytes),
            ),
            (
                "holdfast_collect_removed_packs_total",
                value(&counters.removed_packs),
            ),
            (
                "holdfast_collect_removed_bytes_total",
                value(&counters.removed_bytes),
            ),
            (
                "holdfast_collect_pardoned_packs_total",
                value(&counters.pardoned_packs),
            ),
            (
                "holdfast_collect_waiting_bytes",
                value(&counters.waiting_bytes),
            ),
        ]
    }

    fn run(&self, mode: CollectMode) {
        let outcome = self.work(mode);
        let mut current = self.current.lock();
        let Some(current) = current.as_mut() else {
            return;
        };
        self.counters.runs.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok((report, sound)) => {
                tracing::info!(?mode, sound, "a collection ended");
                current.report = Some(report);
                current.sound = Some(sound);
                current.state = JobState::Done;
            }
            Err(RepoError::Stopped) => current.state = JobState::Stopped,
            Err(error) => {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                let error = chain(&error);
                tracing::error!(error, "a collection could not go on");
                current.error = Some(error);
                current.state = JobState::Failed;
            }
        }
    }

    fn work(&self, mode: CollectMode) -> Result<(serde_json::Value, bool), RepoError> {
        let mut show = |progress: CollectProgress| {
            if let Some(current) = self.current.lock().as_mut() {
                current.progress = Some(progress);
            }
            match self.stop.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let options = match mode {
            CollectMode::Audit => {
                let report = self.repository.audit(&mut show)?;
                let sound = report.is_sound();
                return Ok((as_json(&report), sound));
            }
            CollectMode::Collect => self.options,
            CollectMode::Now => CollectOptions {
                grace: Duration::ZERO,
                ..self.options
            },
        };
        let report = self.repository.collect(&options, &mut show)?;
        self.count(&report);
        let sound = report.hurt_packs.is_empty();
        Ok((as_json(&report), sound))
    }

    fn count(&self, report: &CollectReport) {
        let counters = &self.counters;
        for (counter, value) in [
            (&counters.points, report.points),
            (&counters.dead_bytes, report.dead_bytes),
            (&counters.copied_bytes, report.copied_bytes),
            (&counters.removed_packs, report.removed_packs),
            (&counters.removed_bytes, report.removed_bytes),
            (&counters.pardoned_packs, report.pardoned_packs),
        ] {
            counter.fetch_add(value, Ordering::Relaxed);
        }
        counters
            .waiting_bytes
            .store(report.waiting_bytes, Ordering::Relaxed);
    }
}

fn as_json(report: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(report).unwrap_or_default()
}

impl fmt::Debug for Collections {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Collections")
            .field("current", &self.current.lock())
            .finish_non_exhaustive()
    }
}
