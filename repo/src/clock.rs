//! The only source of time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

/// Tells the time. The store asks no one else, so that tests own the clock.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Nanoseconds since 1970-01-01 UTC.
    fn now(&self) -> UnixNanoseconds;
}

/// Nanoseconds since 1970-01-01 UTC, until the year 2554.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct UnixNanoseconds(pub u64);

impl fmt::Display for UnixNanoseconds {
    /// RFC 3339, in UTC.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(timestamp) => write!(formatter, "{timestamp}"),
            Err(_) => write!(formatter, "{} ns", self.0),
        }
    }
}

impl Serialize for UnixNanoseconds {
    /// As text, like [`Display`](fmt::Display).
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The clock of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is what the others call instead"
    )]
    fn now(&self) -> UnixNanoseconds {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        UnixNanoseconds(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A clock that moves when it is told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: AtomicU64,
}

impl ManualClock {
    /// Starts at `now`.
    pub fn new(now: UnixNanoseconds) -> Self {
        Self {
            now: AtomicU64::new(now.0),
        }
    }

    /// Moves on by `nanoseconds`.
    pub fn advance(&self, nanoseconds: u64) {
        self.now.fetch_add(nanoseconds, Ordering::SeqCst);
    }

    /// Is set, forwards or backwards.
    pub fn set(&self, now: UnixNanoseconds) {
        self.now.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixNanoseconds {
        UnixNanoseconds(self.now.load(Ordering::SeqCst))
    }
}
