//! Memory that all connections of a server share.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes of data all sessions may hold together.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: u64,
    used_bytes: AtomicU64,
}

/// One session's part of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: std::sync::Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of which nothing is used.
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            used_bytes: AtomicU64::new(0),
        }
    }

    /// Bytes that are in use. More than the limit is possible: every session may hold one request of any size.
    pub fn used(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

impl Share {
    pub(super) fn new(budget: std::sync::Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Tells how much the session holds now.
    pub(super) fn set(&mut self, bytes: u64) {
        let used = &self.budget.used_bytes;
        match bytes.checked_sub(self.bytes) {
            Some(0) => {}
            Some(more) => drop(used.fetch_add(more, Ordering::Relaxed)),
            None => drop(used.fetch_sub(self.bytes - bytes, Ordering::Relaxed)),
        }
        self.bytes = bytes;
    }

    /// Whether `more` bytes fit the budget beside the `held` ones that the session has by now.
    pub(super) fn admits(&self, held: u64, more: u64) -> bool {
        let others = self.budget.used().saturating_sub(self.bytes);
        others.saturating_add(held).saturating_add(more) <= self.budget.limit_bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn shares_add_up_and_come_back() {
        let budget = Arc::new(Budget::new(100));
        let mut first = Share::new(Arc::clone(&budget));
        let mut second = Share::new(Arc::clone(&budget));
        first.set(60);
        second.set(30);
        assert!(second.admits(30, 10) && !second.admits(30, 11));
        assert!(
            !second.admits(35, 10),
            "what was taken since it was told counts"
        );
        first.set(20);
        assert_eq!(budget.used(), 50);
        drop(first);
        assert_eq!(budget.used(), 30);
        drop(second);
        assert_eq!(budget.used(), 0);
    }
}
