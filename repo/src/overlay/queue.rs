//! Calls that come together are appended together.
//!
//! Each caller queues its call. One of them leads: it takes the journal's tail, appends what is queued, in order, as one
//! write, and passes the lead on when its own call is done. The others sleep until theirs is done or the lead comes to
//! them. So many callers cost the disk few long writes and the processor few wake-ups, and the answers come in the
//! order of the journal all the same.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::journal::Draft;
use crate::error::RepoError;

/// Calls in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct CallQueue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Call>>,
    is_led: bool,
}

/// The records of one write, discard or zeroing.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) drafts: Vec<Draft>,
    turn: Mutex<Option<Turn>>,
    turned: Condvar,
}

/// What a caller that waited is to do.
#[derive(Debug)]
enum Turn {
    Lead,
    Return(Result<(), RepoError>),
}

/// The one who appends. When it goes, the lead is with the next who waits, or free.
#[derive(Debug)]
pub(super) struct Lead<'a> {
    queue: &'a CallQueue,
}

impl CallQueue {
    /// Queues a call. Gives its outcome if somebody else has done it; otherwise the caller leads, and its call is the
    /// next to be [taken](Lead::take).
    pub(super) fn enter(&self, drafts: Vec<Draft>) -> Result<Result<(), RepoError>, Lead<'_>> {
        let call = Arc::new(Call {
            drafts,
            turn: Mutex::new(None),
            turned: Condvar::new(),
        });
        let mut state = self.state.lock();
        state.waiting.push_back(Arc::clone(&call));
        if !state.is_led {
            state.is_led = true;
            return Err(Lead { queue: self });
        }
        drop(state);
        match call.wait() {
            Turn::Lead => Err(Lead { queue: self }),
            Turn::Return(outcome) => Ok(outcome),
        }
    }
}

impl Lead<'_> {
    /// The next calls, of at most about `limit_bytes` but at least one: the first is the leader's own.
    pub(super) fn take(&self, limit_bytes: u64) -> Vec<Arc<Call>> {
        let mut state = self.queue.state.lock();
        let mut calls: Vec<Arc<Call>> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = state.waiting.front() {
            bytes += next.drafts.iter().map(Draft::total_bytes).sum::<u64>();
            if bytes > limit_bytes && !calls.is_empty() {
                break;
            }
            calls.extend(state.waiting.pop_front());
        }
        calls
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        match state.waiting.front() {
            Some(next) => next.turn_to(Turn::Lead),
            None => state.is_led = false,
        }
    }
}

impl Call {
    /// Says how a call that was taken has ended.
    pub(super) fn finish(&self, outcome: Result<(), RepoError>) {
        self.turn_to(Turn::Return(outcome));
    }

    fn turn_to(&self, turn: Turn) {
        *self.turn.lock() = Some(turn);
        self.turned.notify_one();
    }

    fn wait(&self) -> Turn {
        let mut turn = self.turn.lock();
        loop {
            match turn.take() {
                Some(turn) => return turn,
                None => self.turned.wait(&mut turn),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::overlay::format::RecordKind;

    fn drafts(offset: u64) -> Vec<Draft> {
        vec![Draft {
            offset,
            ..Draft::bare(RecordKind::Discard, false)
        }]
    }

    fn offsets(calls: &[Arc<Call>]) -> Vec<u64> {
        calls.iter().map(|call| call.drafts[0].offset).collect()
    }

    fn wait_until_queued(queue: &CallQueue, count: usize) {
        while queue.state.lock().waiting.len() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn the_first_leads_and_the_others_are_done_in_order_or_lead_in_turn() {
        let queue = CallQueue::default();
        let lead = queue.enter(drafts(0)).expect_err("nobody led");
        assert_eq!(offsets(&lead.take(1)), [0], "one at least");
        thread::scope(|scope| {
            let (done, results) = channel();
            for offset in [1, 2, 3] {
                let (queue, done) = (&queue, done.clone());
                scope.spawn(move || match queue.enter(drafts(offset)) {
                    Ok(outcome) => done.send((offset, outcome.is_ok(), Vec::new())).unwrap(),
                    Err(lead) => {
                        let taken = lead.take(1000);
                        for call in taken.iter().skip(1) {
                            call.finish(Ok(()));
                        }
                        done.send((offset, true, offsets(&taken))).unwrap();
                    }
                });
                wait_until_queued(queue, usize::try_from(offset).unwrap());
            }
            drop(lead);
            let mut results: Vec<_> = (0..3).map(|_| results.recv().unwrap()).collect();
            results.sort_by_key(|(offset, ..)| *offset);
            assert_eq!(
                results,
                [
                    (1, true, vec![1, 2, 3]),
                    (2, true, vec![]),
                    (3, true, vec![])
                ]
            );
        });
        assert!(!queue.state.lock().is_led);
    }

    #[test]
    fn a_limit_leaves_the_rest_to_the_next_leader() {
        let queue = CallQueue::default();
        let lead = queue.enter(drafts(0)).expect_err("nobody led");
        drop(lead.take(1000));
        thread::scope(|scope| {
            for offset in [1, 2] {
                let queue = &queue;
                scope.spawn(move || {
                    let lead = queue.enter(drafts(offset)).expect_err("the lead comes");
                    assert_eq!(offsets(&lead.take(1)), [offset]);
                });
                wait_until_queued(queue, usize::try_from(offset).unwrap());
            }
            drop(lead);
        });
        assert!(queue.state.lock().waiting.is_empty());
    }
}
