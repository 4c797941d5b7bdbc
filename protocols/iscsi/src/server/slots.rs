//! Counts connections, overall and by peer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

/// How many connections there may be.
#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    most_per_peer: usize,
    taken: Mutex<Taken>,
}

/// Room for one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    peer: IpAddr,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_peer: HashMap<IpAddr, usize>,
}

impl Slots {
    pub(super) fn new(most: usize, most_per_peer: usize) -> Self {
        Self {
            most,
            most_per_peer,
            taken: Mutex::default(),
        }
    }

    /// Takes a slot for `peer`, if it may have one more.
    pub(super) fn take(self: &Arc<Self>, peer: SocketAddr) -> Option<Slot> {
        let peer = peer.ip().to_canonical();
        let mut taken = self.taken.lock();
        if taken.all >= self.most {
            return None;
        }
        let count = taken.by_peer.entry(peer).or_default();
        if *count >= self.most_per_peer {
            return None;
        }
        *count += 1;
        taken.all += 1;
        Some(Slot {
            slots: Arc::clone(self),
            peer,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        taken.all -= 1;
        if let Some(count) = taken.by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_slots_come_back() {
        let peer = |ip: &str| format!("{ip}:1").parse().unwrap();
        let slots = Arc::new(Slots::new(3, 2));
        let first = slots.take(peer("127.0.0.1"));
        let second = slots.take(peer("127.0.0.1"));
        assert!(first.is_some() && second.is_some());
        assert!(slots.take(peer("127.0.0.1")).is_none(), "two of one peer");
        let third = slots.take(peer("127.0.0.2"));
        assert!(third.is_some() && slots.take(peer("127.0.0.3")).is_none());
        drop(first);
        assert!(slots.take(peer("127.0.0.1")).is_some());
        drop((second, third));
        assert!(slots.taken.lock().by_peer.is_empty());
    }
}
