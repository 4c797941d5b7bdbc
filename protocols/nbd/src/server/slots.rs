//! Counts connections, overall and by peer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::directory::Peer;

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
    peer: Option<IpAddr>,
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
    pub(super) fn take(self: &Arc<Self>, peer: &Peer) -> Option<Slot> {
        let mut taken = self.taken.lock();
        if taken.all >= self.most {
            return None;
        }
        let peer = peer.ip();
        if let Some(ip) = peer {
            let count = taken.by_peer.entry(ip).or_default();
            if *count >= self.most_per_peer {
                return None;
            }
            *count += 1;
        }
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
        if let Some(ip) = self.peer
            && let Some(count) = taken.by_peer.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                taken.by_peer.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::PeerAddress;

    #[test]
    fn both_limits_hold_and_slots_come_back() {
        let peer = |ip: &str| Peer::new(PeerAddress::Tcp(format!("{ip}:1").parse().unwrap()));
        let slots = Arc::new(Slots::new(3, 2));
        let first = slots.take(&peer("127.0.0.1"));
        let second = slots.take(&peer("127.0.0.1"));
        assert!(first.is_some() && second.is_some());
        assert!(slots.take(&peer("127.0.0.1")).is_none(), "two of one peer");
        let third = slots.take(&peer("127.0.0.2"));
        assert!(
            third.is_some() && slots.take(&peer("127.0.0.3")).is_none(),
            "three in all"
        );
        drop(first);
        assert!(slots.take(&peer("127.0.0.1")).is_some());
        drop((second, third));
        assert!(slots.taken.lock().by_peer.is_empty());
    }
}
