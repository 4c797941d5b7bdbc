//! Memory that all connections of a server share (docs/protocols/nbd.md, "Memory").
//!
//! A connection holds bytes: of the payload that it receives, of requests that run, and of replies that wait. The first
//! [`OWN_BYTES`] are its own, so that a small request always goes on. For more it takes a part of the [`Memory`] before
//! anything is allocated, and those that have to wait for one get it in the order in which they asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// What all connections may hold together, beside what is each one's own.
#[derive(Debug)]
pub struct Memory {
    /// One permit is one byte.
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// One connection's part of a [`Memory`], given back when it is dropped.
pub(super) struct Share {
    memory: Arc<Memory>,
    taken: Option<OwnedSemaphorePermit>,
    asking: Option<Asking>,
}

/// A place in the queue, left when it is dropped.
struct Asking {
    memory: Arc<Memory>,
    free: PollSemaphore,
    bytes: u32,
}

impl Memory {
    /// Memory of which nothing is taken. With less than 32 MiB, the longest payload, some requests would wait for ever.
    pub fn new(bytes: u64) -> Self {
        let permits = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            free: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Share {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self {
            memory,
            taken: None,
            asking: None,
        }
    }

    /// Bytes of the memory that are taken.
    pub(super) fn taken(&self) -> u64 {
        let permits = self.taken.as_ref().map_or(0, |taken| taken.num_permits());
        u64::try_from(permits).expect("a usize fits 64 bits")
    }

    /// Whether `bytes` may be held. If not, what is missing is asked for: [`poll`](Self::poll) tells when it has come.
    pub(super) fn reach(&mut self, bytes: u64) -> bool {
        let missing = bytes.saturating_sub(OWN_BYTES + self.taken());
        if missing == 0 {
            self.forget();
            return true;
        }
        if self.asking.is_some() {
            return false;
        }
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let free = &self.memory.free;
        match Arc::clone(free).try_acquire_many_owned(missing) {
            Ok(more) => {
                self.add(more);
                true
            }
            Err(_) => {
                self.asking = Some(Asking::start(&self.memory, missing));
                false
            }
        }
    }

    /// Waits for what was asked for; if that is nothing, for ever.
    pub(super) fn poll(&mut self, waker: &mut Context<'_>) -> Poll<()> {
        let Some(asking) = &mut self.asking else {
            return Poll::Pending;
        };
        let Poll::Ready(more) = asking.free.poll_acquire_many(waker, asking.bytes) else {
            return Poll::Pending;
        };
        self.asking = None;
        self.add(more.expect("the memory is never closed"));
        Poll::Ready(())
    }

    /// Gives back what is not needed to hold `bytes`.
    pub(super) fn settle(&mut self, bytes: u64) {
        let Some(taken) = &mut self.taken else {
            return;
        };
        let needed = usize::try_from(bytes.saturating_sub(OWN_BYTES)).unwrap_or(usize::MAX);
        let more = taken.num_permits().saturating_sub(needed);
        drop(taken.split(more));
        if needed == 0 {
            self.taken = None;
        }
    }

    /// Asks no longer.
    pub(super) fn forget(&mut self) {
        self.asking = None;
    }

    /// Whether another connection waits for what this one has.
    pub(super) fn is_wanted(&self) -> bool {
        let own = usize::from(self.asking.is_some());
        self.taken.is_some() && self.memory.waiting.load(Ordering::Relaxed) > own
    }

    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Share")
            .field("taken", &self.taken())
            .finish_non_exhaustive()
    }
}

impl Asking {
    fn start(memory: &Arc<Memory>, bytes: u32) -> Self {
        memory.waiting.fetch_add(1, Ordering::Relaxed);
        Self {
            memory: Arc::clone(memory),
            free: PollSemaphore::new(Arc::clone(&memory.free)),
            bytes,
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.memory.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection may hold of its own: one small request.
pub(super) const OWN_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    const MIB: u64 = 1 << 20;

    fn is_ready(share: &mut Share) -> bool {
        share
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn what_is_taken_comes_back() {
        let memory = Arc::new(Memory::new(3 * MIB));
        let mut first = Share::new(Arc::clone(&memory));
        let mut second = Share::new(Arc::clone(&memory));
        assert!(first.reach(OWN_BYTES) && first.taken() == 0);
        assert!(first.reach(2 * MIB + OWN_BYTES));
        assert!(second.reach(MIB + OWN_BYTES));
        assert!(!first.reach(3 * MIB + OWN_BYTES), "all is taken");
        assert!(!is_ready(&mut first));
        second.settle(OWN_BYTES);
        assert!(is_ready(&mut first) && first.taken() == 3 * MIB);
        drop((first, second));
        assert_eq!(memory.free.available_permits() as u64, 3 * MIB);
        assert_eq!(memory.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_small_request_goes_on_and_a_long_one_is_not_overtaken() {
        let memory = Arc::new(Memory::new(4 * MIB));
        let mut shares: Vec<Share> = (0..4).map(|_| Share::new(Arc::clone(&memory))).collect();
        assert!(shares[0].reach(4 * MIB) && !shares[0].is_wanted());
        assert!(!shares[1].reach(3 * MIB));
        assert!(!is_ready(&mut shares[1]));
        assert!(!shares[2].reach(MIB), "it came later");
        assert!(!is_ready(&mut shares[2]));
        assert!(shares[0].is_wanted());
        assert!(shares[3].reach(OWN_BYTES), "this one needs nobody's");
        shares[0].settle(2 * MIB);
        assert!(!is_ready(&mut shares[2]), "there is room for it alone");
        assert!(!is_ready(&mut shares[1]));
        shares[0].settle(0);
        assert!(is_ready(&mut shares[1]) && is_ready(&mut shares[2]));
    }

    #[test]
    fn who_needs_no_more_leaves_the_queue() {
        let memory = Arc::new(Memory::new(MIB));
        let mut first = Share::new(Arc::clone(&memory));
        let mut second = Share::new(Arc::clone(&memory));
        assert!(first.reach(MIB));
        assert!(!second.reach(MIB) && !is_ready(&mut second));
        assert!(first.is_wanted());
        assert!(second.reach(OWN_BYTES));
        assert!(!first.is_wanted());
        drop(first);
        assert!(second.reach(MIB), "what it had been given came back");
    }
}
