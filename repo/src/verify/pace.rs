//! Reading no faster than wanted, and stopping when told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::RepoError;

/// Shared by all threads of one verification.
#[derive(Debug)]
pub(crate) struct Pace<'a> {
    bytes_per_second: Option<u64>,
    started: Instant,
    read_bytes: AtomicU64,
    stop: &'a AtomicBool,
}

impl<'a> Pace<'a> {
    /// Starts now. Without a rate nothing waits.
    pub(crate) fn new(bytes_per_second: Option<u64>, stop: &'a AtomicBool) -> Self {
        Self {
            bytes_per_second: bytes_per_second.filter(|rate| *rate > 0),
            started: Instant::now(),
            read_bytes: AtomicU64::new(0),
            stop,
        }
    }

    /// Counts bytes that were read, and waits until they may have been.
    pub(crate) fn spend(&self, bytes: u64) -> Result<(), RepoError> {
        let read = self.read_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(RepoError::Stopped);
            }
            let Some(rate) = self.bytes_per_second else {
                return Ok(());
            };
            let due = Duration::from_nanos(
                u64::try_from(u128::from(read) * 1_000_000_000 / u128::from(rate))
                    .unwrap_or(u64::MAX),
            );
            let early = due.saturating_sub(self.started.elapsed());
            if early.is_zero() {
                return Ok(());
            }
            std::thread::sleep(early.min(PATIENCE));
        }
    }

    /// Tells everyone to stop.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Bytes so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }
}

/// How long a stop may go unnoticed.
const PATIENCE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_and_a_stop_ends_the_waiting() {
        let stop = AtomicBool::new(false);
        let pace = Pace::new(Some(10 << 20), &stop);
        for _ in 0..4 {
            pace.spend(256 << 10).unwrap();
        }
        assert!(pace.started.elapsed() >= Duration::from_millis(100));
        assert_eq!(pace.read_bytes(), 1 << 20);
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(pace.spend(1 << 40), Err(RepoError::Stopped)));
    }
}
