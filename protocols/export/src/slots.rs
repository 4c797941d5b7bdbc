//! Counts connections, overall and by peer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// How many connections a server has, and how many it may have.
#[derive(Debug)]
pub struct Slots {
    most: usize,
    most_per_peer: usize,
    taken: Mutex<Taken>,
}

/// Room for one connection, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    peer: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_peer: HashMap<IpAddr, usize>,
}

impl Slots {
    /// Room for `most` connections, of them `most_per_peer` of one address.
    pub fn new(most: usize, most_per_peer: usize) -> Self {
        Self {
            most,
            most_per_peer,
            taken: Mutex::default(),
        }
    }

    /// Takes a slot for `peer`, if it may have one more. A peer without an address, such as one on a unix socket, counts
    /// among all alone.
    pub fn take(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Slot> {
        let mut taken = self.taken.lock();
        if taken.all >= self.most {
            return None;
        }
        let peer = peer.map(|ip| ip.to_canonical());
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

    #[test]
    fn both_limits_hold_and_slots_come_back() {
        let slots = Arc::new(Slots::new(3, 2));
        let take = |ip: &str| slots.take(Some(ip.parse().unwrap()));
        let first = take("127.0.0.1");
        let second = take("::ffff:127.0.0.1");
        assert!(first.is_some() && second.is_some());
        assert!(take("127.0.0.1").is_none(), "two of one peer");
        let third = take("127.0.0.2");
        assert!(third.is_some() && take("127.0.0.3").is_none());
        assert!(slots.take(None).is_none(), "three in all");
        drop(first);
        assert!(take("127.0.0.1").is_some());
        drop((second, third));
        assert!(slots.taken.lock().by_peer.is_empty());
        let unnamed: Vec<_> = (0..3).map_while(|_| slots.take(None)).collect();
        assert_eq!(unnamed.len(), 3);
    }
}
