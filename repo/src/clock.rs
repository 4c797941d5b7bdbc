//! The only source of time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};
use uuid::Uuid;

/// Tells the time. The store asks no one else, so that tests own the clock.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Nanoseconds since 1970-01-01 UTC, as the machine's clock has been set.
    fn now(&self) -> UnixNanoseconds;

    /// How long the machine has been up, which nobody can set.
    fn uptime(&self) -> Uptime;
}

/// How far a machine has come since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uptime {
    /// The start, by a name that no other start has; nil if the system does not tell.
    pub boot: Uuid,
    /// Nanoseconds since then, those of sleep among them.
    pub nanoseconds: u64,
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

    fn uptime(&self) -> Uptime {
        let name = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Uptime {
            boot: name.trim().parse().unwrap_or_default(),
            nanoseconds: seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0),
        }
    }
}

/// A clock that moves when it is told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: AtomicU64,
    uptime: AtomicU64,
    boots: AtomicU64,
}

impl ManualClock {
    /// Starts at `now`.
    pub fn new(now: UnixNanoseconds) -> Self {
        Self {
            now: AtomicU64::new(now.0),
            ..Self::default()
        }
    }

    /// Moves on by `nanoseconds`, while the machine is up.
    pub fn advance(&self, nanoseconds: u64) {
        self.now.fetch_add(nanoseconds, Ordering::SeqCst);
        self.uptime.fetch_add(nanoseconds, Ordering::SeqCst);
    }

    /// Is set, forwards or backwards.
    pub fn set(&self, now: UnixNanoseconds) {
        self.now.store(now.0, Ordering::SeqCst);
    }

    /// The machine is off for `nanoseconds` and starts again.
    pub fn reboot(&self, nanoseconds: u64) {
        self.now.fetch_add(nanoseconds, Ordering::SeqCst);
        self.uptime.store(0, Ordering::SeqCst);
        self.boots.fetch_add(1, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixNanoseconds {
        UnixNanoseconds(self.now.load(Ordering::SeqCst))
    }

    fn uptime(&self) -> Uptime {
        Uptime {
            boot: Uuid::from_u128(u128::from(self.boots.load(Ordering::SeqCst)) + 1),
            nanoseconds: self.uptime.load(Ordering::SeqCst),
        }
    }
}
