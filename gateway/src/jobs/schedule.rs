//! What the daemon does by itself: keeps the account of space in step, applies retention rules, collects.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use repo::{PointName, RepoError, UnixNanoseconds};
use serde::{Deserialize, Serialize};

use super::collect::{CollectError, CollectMode, Collections};
use super::rounds::{End, Rounds};
use crate::Core;
use crate::alerts::ClockWatch;
use crate::exports::chain;

/// The thread that does it.
#[derive(Debug)]
pub struct Schedule(Rounds);

/// When what was last done, by the time that only goes forward.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
struct Done {
    retention_unix_nanoseconds: u64,
    collect_unix_nanoseconds: u64,
}

impl Schedule {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn start(core: &Arc<Core>) -> std::io::Result<Self> {
        let core = Arc::clone(core);
        let mut clock = ClockWatch::default();
        clock.look(core.repository.clock_state(), &core.alerts);
        let round = move |end: &End| {
            clock.look(core.repository.clock_state(), &core.alerts);
            core.keep_house(end);
        };
        Rounds::start("schedule", PAUSE, PAUSE, round).map(Self)
    }

    /// Stops it and waits for its end.
    pub fn stop(&mut self) {
        self.0.stop();
    }
}

impl Core {
    fn keep_house(&self, end: &End) {
        match self.repository.settle_account(&mut || !end.is_reached()) {
            Ok(()) | Err(RepoError::Stopped) => {}
            Err(error) => {
                tracing::warn!(error = chain(&error), "the account of space is not in step");
            }
        }
        let now = self.repository.trusted_now();
        let mut done = self.last_done();
        let due = |every: Duration, last: u64| {
            let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
            every > 0 && now.0.saturating_sub(last) >= every
        };
        let before = done;
        if due(
            self.config.retention.every.duration(),
            done.retention_unix_nanoseconds,
        ) {
            self.apply_all_rules();
            done.retention_unix_nanoseconds = now.0;
        }
        if due(
            self.config.collect.every.duration(),
            done.collect_unix_nanoseconds,
        ) && !end.is_reached()
        {
            start_collection(&self.collections);
            done.collect_unix_nanoseconds = now.0;
        }
        if done.retention_unix_nanoseconds != before.retention_unix_nanoseconds
            || done.collect_unix_nanoseconds != before.collect_unix_nanoseconds
        {
            self.note_done(done);
        }
    }

    fn apply_all_rules(&self) {
        if self.repository.clock_state().is_suspicious() {
            tracing::warn!(
                "the machine's clock differs from the time that went by: retention rules wait until somebody looked"
            );
            return;
        }
        for workload in self.repository.workloads() {
            let applied = self
                .retention
                .apply(&workload, &|point| self.may_expire(point));
            match applied {
                Ok(applied) => {
                    self.metrics
                        .retention_points_expired
                        .inc_by(applied.expired);
                }
                Err(error) => {
                    tracing::error!(%workload, error = chain(&error), "retention rules could not be applied");
                }
            }
        }
    }

    /// Why a point cannot be expired now.
    pub fn may_expire(&self, point: &PointName) -> Result<(), String> {
        match self.sessions.user_of(&point.to_string()) {
            None => Ok(()),
            Some(session) => Err(format!(
                "restore point {point} is in use by recovery session {session}; discard that first"
            )),
        }
    }

    /// When what was last done. A daemon that starts for the first time counts from now on.
    fn last_done(&self) -> Done {
        let read = self.state.read(Path::new(FILE), FILE_BYTES_MAX);
        let stored = read.ok().flatten();
        let done = stored.and_then(|text| serde_json::from_slice(&text).ok());
        done.unwrap_or_else(|| {
            let UnixNanoseconds(now) = self.repository.trusted_now();
            let done = Done {
                retention_unix_nanoseconds: now,
                collect_unix_nanoseconds: now,
            };
            self.note_done(done);
            done
        })
    }

    fn note_done(&self, done: Done) {
        let text = serde_json::to_vec_pretty(&done).expect("the record has only text keys");
        if let Err(error) = self.state.replace(Path::new(FILE), &text) {
            tracing::warn!(error = chain(&error), "cannot note when what was done");
        }
    }
}

fn start_collection(collections: &Arc<Collections>) {
    match collections.start(CollectMode::Collect) {
        Ok(()) | Err(CollectError::UnderWay) => {}
        Err(error) => tracing::error!(error = chain(&error), "a collection could not be started"),
    }
}

const FILE: &str = "schedule.json";
const FILE_BYTES_MAX: u64 = 1 << 16;

/// How often it is looked whether something is due.
const PAUSE: Duration = Duration::from_secs(30);
