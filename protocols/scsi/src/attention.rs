//! Unit attentions: what an initiator must be told before its next command is done (SAM-5, 5.14).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::sense::{Sense, SenseKey, code};

/// The attentions that wait for one initiator at one unit, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Attentions {
    /// Whether any waits: what every command asks, without the lock.
    waiting: AtomicBool,
    queue: Mutex<VecDeque<(u8, u8)>>,
}

/// One attention: its additional sense code and qualifier.
pub(crate) type Attention = (u8, u8);

impl Attentions {
    /// Adds `attention` unless it waits already. A reset makes what came before it moot.
    pub(crate) fn raise(&self, attention: Attention) {
        let mut queue = self.queue.lock();
        if attention.0 == code::POWER_ON_OR_RESET.0 {
            queue.clear();
        }
        if !queue.contains(&attention) {
            if queue.len() >= QUEUE_MAX {
                queue.pop_front();
            }
            queue.push_back(attention);
        }
        self.waiting.store(true, Ordering::Release);
    }

    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        !self.waiting.load(Ordering::Acquire)
    }

    /// Takes the oldest.
    pub(crate) fn take(&self) -> Option<Sense> {
        let mut queue = self.queue.lock();
        let oldest = queue.pop_front();
        self.waiting.store(!queue.is_empty(), Ordering::Release);
        oldest.map(|attention| Sense::new(SenseKey::UnitAttention, attention))
    }

    /// Takes `attention` out: the initiator has learnt of it by other means.
    pub(crate) fn withdraw(&self, attention: Attention) {
        let mut queue = self.queue.lock();
        queue.retain(|other| *other != attention);
        self.waiting.store(!queue.is_empty(), Ordering::Release);
    }
}

/// More kinds than there are; a bound all the same.
const QUEUE_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_in_order_and_a_reset_clears() {
        let attentions = Attentions::default();
        assert!(attentions.is_empty());
        attentions.raise((0x2a, 0x01));
        attentions.raise((0x2a, 0x09));
        attentions.raise((0x2a, 0x01));
        assert_eq!(attentions.take().unwrap().code, (0x2a, 0x01));
        attentions.raise(code::POWER_ON_OR_RESET);
        attentions.raise(code::BUS_DEVICE_RESET);
        attentions.raise((0x2a, 0x09));
        attentions.withdraw((0x2a, 0x09));
        assert!(!attentions.is_empty());
        assert_eq!(attentions.take().unwrap().code, code::BUS_DEVICE_RESET);
        assert!(attentions.take().is_none() && attentions.is_empty());
    }
}
