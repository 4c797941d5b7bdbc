//! Calls that wait for the journal's tail, so that whoever has it takes the others along.
//!
//! Each caller queues its call and then takes the tail. The first to have it appends what is queued, in order, as one
//! write; the others find theirs done. So many callers cost the disk few long writes, and answer in the order of the
//! journal all the same.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::journal::Draft;
use crate::error::RepoError;

/// Calls in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct CallQueue {
    waiting: Mutex<VecDeque<Arc<Call>>>,
}

/// The records of one write, discard or zeroing.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) drafts: Vec<Draft>,
    outcome: Mutex<Option<Result<(), RepoError>>>,
}

impl CallQueue {
    pub(super) fn push(&self, drafts: Vec<Draft>) -> Arc<Call> {
        let call = Arc::new(Call {
            drafts,
            outcome: Mutex::new(None),
        });
        self.waiting.lock().push_back(Arc::clone(&call));
        call
    }

    /// The next calls, of at most about `limit_bytes` but at least one if there is any.
    pub(super) fn take(&self, limit_bytes: u64) -> Vec<Arc<Call>> {
        let mut waiting = self.waiting.lock();
        let mut calls: Vec<Arc<Call>> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = waiting.front() {
            bytes += next.drafts.iter().map(Draft::total_bytes).sum::<u64>();
            if bytes > limit_bytes && !calls.is_empty() {
                break;
            }
            calls.extend(waiting.pop_front());
        }
        calls
    }

    /// Takes a call back that nobody has taken.
    pub(super) fn withdraw(&self, call: &Arc<Call>) {
        self.waiting
            .lock()
            .retain(|other| !Arc::ptr_eq(other, call));
    }
}

impl Call {
    pub(super) fn finish(&self, outcome: Result<(), RepoError>) {
        *self.outcome.lock() = Some(outcome);
    }

    /// How it ended, once.
    pub(super) fn outcome(&self) -> Option<Result<(), RepoError>> {
        self.outcome.lock().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::format::RecordKind;

    #[test]
    fn calls_are_taken_in_order_up_to_a_limit_and_can_be_withdrawn() {
        let queue = CallQueue::default();
        let push = || queue.push(vec![Draft::bare(RecordKind::Discard, false)]);
        let calls = [push(), push(), push(), push()];
        let is = |taken: &[Arc<Call>], expected: &[&Arc<Call>]| {
            taken.len() == expected.len()
                && taken
                    .iter()
                    .zip(expected)
                    .all(|(one, other)| Arc::ptr_eq(one, other))
        };
        assert!(is(&queue.take(1), &[&calls[0]]), "one at least");
        queue.withdraw(&calls[2]);
        assert!(is(&queue.take(1000), &[&calls[1], &calls[3]]));
        assert!(queue.take(1000).is_empty());
        assert!(calls[0].outcome().is_none());
        calls[0].finish(Ok(()));
        assert!(calls[0].outcome().is_some_and(|outcome| outcome.is_ok()));
    }
}
