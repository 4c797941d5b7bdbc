//! Time that moves with every change.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Timestamp;

/// Gives each change a later time than the one before, so that clients see every change.
#[derive(Debug, Default)]
pub(super) struct Clock {
    pub(super) last_nanoseconds: AtomicU64,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this crate stands below the one with the clock"
    )]
    pub(super) fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX - 1);
        let last = self.last_nanoseconds.fetch_max(now, Ordering::Relaxed);
        let moved = if now > last {
            now
        } else {
            self.last_nanoseconds.fetch_add(1, Ordering::Relaxed) + 1
        };
        Timestamp {
            seconds: moved / 1_000_000_000,
            nanoseconds: u32::try_from(moved % 1_000_000_000).unwrap_or_default(),
        }
    }
}
