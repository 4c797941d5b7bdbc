//! Tells initiators that the storage under their disks is filling up, before it is full.

use std::sync::Arc;
use std::time::Duration;

use repo::Repository;

use super::rounds::Rounds;
use crate::exports::{Exports, chain};

/// Looks at the free space.
#[derive(Debug)]
pub struct SpaceWatch(Rounds);

/// Whether little space is left. It has to become more than little by a quarter to be enough again.
#[derive(Debug)]
struct Threshold {
    warn_below_bytes: u64,
    /// Looks since initiators were told that there is little.
    looks_since: Option<u32>,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crossing {
    Low,
    /// For so long that those who have come since, and those who have forgotten, are told.
    StillLow,
    Enough,
}

impl SpaceWatch {
    /// Starts looking. With 0 nobody is warned.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        repository: Repository,
        exports: Arc<Exports>,
        warn_below_bytes: u64,
    ) -> std::io::Result<Self> {
        let mut threshold = Threshold {
            warn_below_bytes,
            looks_since: None,
        };
        let mut look = move || match repository.space() {
            Ok(space) => match threshold.look(space.available_bytes) {
                Some(Crossing::Low) => {
                    let free_bytes = space.available_bytes;
                    tracing::warn!(
                        free_bytes,
                        "little space is left; initiators are told (`[recovery] warn_below`)"
                    );
                    exports.storage_fills_up();
                }
                Some(Crossing::StillLow) => exports.storage_fills_up(),
                Some(Crossing::Enough) => {
                    let free_bytes = space.available_bytes;
                    tracing::info!(free_bytes, "there is space again");
                }
                None => {}
            },
            Err(error) => {
                tracing::debug!(
                    error = chain(&error),
                    "the free space could not be asked for"
                );
            }
        };
        Rounds::start("space", BETWEEN_LOOKS, BETWEEN_LOOKS, move |_| look()).map(Self)
    }

    /// Stops looking.
    pub fn stop(mut self) {
        self.0.stop();
    }
}

impl Threshold {
    fn look(&mut self, free_bytes: u64) -> Option<Crossing> {
        let enough = self
            .warn_below_bytes
            .saturating_add(self.warn_below_bytes / 4);
        match &mut self.looks_since {
            None if free_bytes < self.warn_below_bytes => {
                self.looks_since = Some(0);
                Some(Crossing::Low)
            }
            None => None,
            Some(_) if free_bytes >= enough => {
                self.looks_since = None;
                Some(Crossing::Enough)
            }
            Some(looks) => {
                *looks = (*looks + 1) % LOOKS_BETWEEN_WARNINGS;
                (*looks == 0).then_some(Crossing::StillLow)
            }
        }
    }
}

/// A disk fills by some gigabytes in this time at most.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// Five minutes.
const LOOKS_BETWEEN_WARNINGS: u32 = 150;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_been_warned_is_not_warned_again_soon() {
        let mut threshold = Threshold {
            warn_below_bytes: 100,
            looks_since: None,
        };
        let mut look = |free| threshold.look(free);
        assert_eq!(look(100), None);
        assert_eq!(look(99), Some(Crossing::Low));
        assert_eq!([look(0), look(100), look(124)], [None; 3]);
        assert_eq!(look(125), Some(Crossing::Enough));
        assert_eq!(look(50), Some(Crossing::Low));
        for _ in 0..2 {
            for _ in 1..LOOKS_BETWEEN_WARNINGS {
                assert_eq!(look(50), None);
            }
            assert_eq!(look(50), Some(Crossing::StillLow));
        }
        let mut never = Threshold {
            warn_below_bytes: 0,
            looks_since: None,
        };
        assert_eq!(never.look(0), None);
    }
}
