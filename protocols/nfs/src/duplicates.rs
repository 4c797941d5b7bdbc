//! Answers that are given again.
//!
//! A client that heard nothing sends its call again, often over a new connection. To do a CREATE, REMOVE or RENAME twice
//! gives a wrong answer the second time, so the answers of such calls are kept for a while and sent again. A repeated
//! call whose first copy is still at work waits for that one's answer.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use bytes::Bytes;
use parking_lot::Mutex;

/// What makes two calls the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CallKey {
    peer: IpAddr,
    xid: u32,
    procedure: u32,
    checksum: u64,
}

/// Kept answers, bounded by count and bytes. `W` is whoever waits for an answer.
#[derive(Debug)]
pub(crate) struct DuplicateCache<W> {
    state: Mutex<State<W>>,
    checksums: RandomState,
    limits: DuplicateLimits,
}

/// How much a duplicate request cache may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicateLimits {
    /// Answers.
    pub answers: usize,
    /// Bytes of all answers together.
    pub bytes: usize,
}

/// What to do with a call.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is new: do it, then tell the cache.
    Execute,
    /// It was done: this was the answer.
    Answer(Bytes),
    /// It is being done; the one who waits gets the answer then.
    Wait,
    /// It is being done and enough copies wait already.
    Ignore,
}

#[derive(Debug)]
struct State<W> {
    calls: HashMap<CallKey, Entry<W>>,
    /// Answered calls, oldest first.
    order: VecDeque<CallKey>,
    bytes: usize,
}

#[derive(Debug)]
enum Entry<W> {
    AtWork(Vec<W>),
    Answered(Bytes),
}

impl<W> DuplicateCache<W> {
    pub(crate) fn new(limits: DuplicateLimits) -> Self {
        let state = State {
            calls: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        };
        Self {
            state: Mutex::new(state),
            checksums: RandomState::new(),
            limits,
        }
    }

    /// The key of a call; `body` is the whole call, which a client repeats byte by byte.
    pub(crate) fn key(&self, peer: IpAddr, xid: u32, procedure: u32, body: &[u8]) -> CallKey {
        CallKey {
            peer,
            xid,
            procedure,
            checksum: self.checksums.hash_one(body),
        }
    }

    /// Enters a call. After [`Verdict::Execute`] the caller must come back with `answered` or `abandoned`.
    pub(crate) fn enter(&self, key: CallKey, waiter: impl FnOnce() -> W) -> Verdict {
        let mut state = self.state.lock();
        match state.calls.get_mut(&key) {
            None => {
                state.calls.insert(key, Entry::AtWork(Vec::new()));
                Verdict::Execute
            }
            Some(Entry::Answered(answer)) => Verdict::Answer(answer.clone()),
            Some(Entry::AtWork(waiting)) if waiting.len() < WAITING_MAX => {
                waiting.push(waiter());
                Verdict::Wait
            }
            Some(Entry::AtWork(_)) => Verdict::Ignore,
        }
    }

    /// Keeps the answer of a call and gives back those who wait for it.
    pub(crate) fn answered(&self, key: CallKey, answer: Bytes) -> Vec<W> {
        let mut state = self.state.lock();
        state.bytes += answer.len();
        state.order.push_back(key);
        let before = state.calls.insert(key, Entry::Answered(answer));
        while state.order.len() > self.limits.answers || state.bytes > self.limits.bytes {
            let Some(oldest) = state.order.pop_front() else {
                break;
            };
            if let Some(Entry::Answered(answer)) = state.calls.remove(&oldest) {
                state.bytes -= answer.len();
            }
        }
        match before {
            Some(Entry::AtWork(waiting)) => waiting,
            Some(Entry::Answered(_)) | None => Vec::new(),
        }
    }

    /// Forgets a call that was not done after all.
    pub(crate) fn abandoned(&self, key: CallKey) {
        self.state.lock().calls.remove(&key);
    }
}

impl Default for DuplicateLimits {
    fn default() -> Self {
        Self {
            answers: 4096,
            bytes: 4 << 20,
        }
    }
}

const WAITING_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_repeated_call_gets_the_first_answer() {
        let cache = DuplicateCache::<u32>::new(DuplicateLimits::default());
        let key = cache.key(PEER, 1, 8, b"create a");
        assert!(matches!(cache.enter(key, || 1), Verdict::Execute));
        assert!(matches!(cache.enter(key, || 2), Verdict::Wait));
        assert_eq!(cache.answered(key, Bytes::from_static(b"done")), [2]);
        assert!(matches!(cache.enter(key, || 3), Verdict::Answer(answer) if answer == "done"));
        let other = cache.key(PEER, 1, 8, b"create b");
        assert!(
            matches!(cache.enter(other, || 4), Verdict::Execute),
            "same xid, another call"
        );
        cache.abandoned(other);
        assert!(matches!(cache.enter(other, || 4), Verdict::Execute));
    }

    #[test]
    fn the_oldest_answers_go_first() {
        for limits in [
            DuplicateLimits {
                answers: 2,
                bytes: 1000,
            },
            DuplicateLimits {
                answers: 9,
                bytes: 8,
            },
        ] {
            let cache = DuplicateCache::<u32>::new(limits);
            let keys = [1, 2, 3].map(|xid| cache.key(PEER, xid, 8, b"x"));
            for key in keys {
                assert!(matches!(cache.enter(key, || 0), Verdict::Execute));
                cache.answered(key, Bytes::from_static(b"1234"));
            }
            assert!(matches!(cache.enter(keys[2], || 0), Verdict::Answer(_)));
            assert!(matches!(cache.enter(keys[1], || 0), Verdict::Answer(_)));
            assert!(matches!(cache.enter(keys[0], || 0), Verdict::Execute));
            assert!(cache.state.lock().bytes <= 8);
        }
    }

    #[test]
    fn few_wait_for_one_answer() {
        let cache = DuplicateCache::<u32>::new(DuplicateLimits::default());
        let key = cache.key(PEER, 1, 8, b"x");
        assert!(matches!(cache.enter(key, || 0), Verdict::Execute));
        for _ in 0..WAITING_MAX {
            assert!(matches!(cache.enter(key, || 0), Verdict::Wait));
        }
        assert!(matches!(cache.enter(key, || 0), Verdict::Ignore));
    }
}
