//! The verification that runs by itself: a share of the packs each day, so that all are proven within a period.
//!
//! Nothing is kept of it but the proofs of the packs: whatever stops it, it goes on with the packs that were proven
//! longest ago.

use std::sync::Arc;
use std::time::Duration;

use repo::clock::{Clock as _, SystemClock, UnixNanoseconds};
use repo::{Repair, Repository, VerifyOptions, VerifyScope};

use super::rounds::Rounds;
use super::{JobState, Jobs};
use crate::config::VerifyConfig;

/// Starts verify jobs when they are due.
#[derive(Debug)]
pub struct Proving(Rounds);

impl Proving {
    /// Starts looking for what is due, in a while.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        repository: Repository,
        jobs: Arc<Jobs>,
        config: VerifyConfig,
    ) -> std::io::Result<Self> {
        let look = move || look(&repository, &jobs, &config);
        Rounds::start("verify-schedule", FIRST_LOOK, BETWEEN_LOOKS, move |_| {
            look()
        })
        .map(Self)
    }

    /// Stops looking. Jobs under way are not stopped by it.
    pub fn stop(mut self) {
        self.0.stop();
    }
}

/// Starts a job if packs are due and none runs.
fn look(repository: &Repository, jobs: &Jobs, config: &VerifyConfig) {
    let busy = jobs
        .list()
        .iter()
        .any(|job| job.outcome().state() == JobState::Running);
    if busy {
        return;
    }
    let now = SystemClock.now();
    let day_ago = UnixNanoseconds(now.0.saturating_sub(DAY_NANOSECONDS));
    let due = due_packs(
        repository.proofs().packs,
        repository.examined_since(day_ago),
        config.period.duration(),
    );
    if due == 0 {
        return;
    }
    let options = VerifyOptions {
        scope: VerifyScope::Oldest { packs: due },
        rate: Some(config.rate.bytes()),
        repair: Repair::Yes,
    };
    if let Err(error) = jobs.verify(options) {
        tracing::warn!(%error, "the daily verification cannot be started");
    }
}

/// How many packs of `packs` are to be proven now, if so many were proven within a day.
fn due_packs(packs: u64, today: u64, period: Duration) -> u64 {
    if period.is_zero() {
        return 0;
    }
    let days = period.as_secs().div_ceil(DAY.as_secs()).max(1);
    packs.div_ceil(days).saturating_sub(today)
}

const DAY: Duration = Duration::from_secs(86_400);
const DAY_NANOSECONDS: u64 = 86_400_000_000_000;
/// After a start there is other work to do.
const FIRST_LOOK: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_packs_are_due_once_in_a_period_and_none_twice_a_day() {
        let month = DAY * 30;
        assert_eq!(due_packs(0, 0, month), 0);
        assert_eq!(due_packs(1, 0, month), 1);
        assert_eq!(due_packs(1, 1, month), 0);
        assert_eq!(due_packs(3000, 0, month), 100);
        assert_eq!(due_packs(3000, 40, month), 60);
        assert_eq!(due_packs(3000, 400, month), 0);
        assert_eq!(due_packs(7, 0, Duration::from_secs(60)), 7);
        assert_eq!(due_packs(7, 0, Duration::ZERO), 0);
    }
}
