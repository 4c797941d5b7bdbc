//! Who may touch which part of a unit at once.
//!
//! Ordinary reads and writes share; COMPARE AND WRITE, ORWRITE, WRITE ATOMIC and copies that must be seen whole hold
//! their range alone. The disk is laid over a fixed number of locks in stripes of 1 MiB: a small command takes one
//! uncontended lock, and memory does not grow with the disk. All locks of a call are taken in ascending order, so
//! that no two calls wait for one another in a circle.

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use smallvec::SmallVec;

use crate::response::Ending;

/// The locks of one unit.
#[derive(Debug)]
pub(crate) struct Stripes {
    locks: [RwLock<()>; STRIPES],
}

/// Whether a call may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Memory alone has to answer.
    None,
    /// It may wait for a disk, or for others.
    Waits,
}

/// A range that is shared with others of its kind.
pub(crate) type Shared<'a> = SmallVec<[RwLockReadGuard<'a, ()>; 2]>;

/// The ranges of two units, shared.
pub(crate) type PairGuards<'a> = (Shared<'a>, Shared<'a>);

/// A range that is held alone.
pub(crate) type Exclusive<'a> = SmallVec<[RwLockWriteGuard<'a, ()>; 2]>;

impl Stripes {
    pub(crate) fn new() -> Self {
        Self {
            locks: [const { RwLock::new(()) }; STRIPES],
        }
    }

    /// Shares `length` bytes from `offset`.
    pub(crate) fn share(
        &self,
        offset: u64,
        length: u64,
        patience: Patience,
    ) -> Result<Shared<'_>, Ending> {
        self.covering(offset, length)
            .map(|lock| match patience {
                Patience::Waits => Ok(lock.read()),
                Patience::None => lock.try_read().ok_or(Ending::WouldWait),
            })
            .collect()
    }

    /// Shares several ranges of `(offset, length)` at once; waits.
    pub(crate) fn share_all(&self, ranges: &[(u64, u64)]) -> Shared<'_> {
        let mut wanted = 0_u64;
        for &(offset, length) in ranges {
            for index in covering(offset, length) {
                wanted |= 1 << index;
            }
        }
        let indices = (0..STRIPES).filter(|index| wanted & (1 << index) != 0);
        indices
            .filter_map(|index| self.locks.get(index))
            .map(RwLock::read)
            .collect()
    }

    /// Guards of nothing.
    pub(crate) fn nothing<'a>() -> Shared<'a> {
        SmallVec::new()
    }

    /// Takes `length` bytes from `offset` alone; waits for those who are there.
    pub(crate) fn hold(&self, offset: u64, length: u64) -> Exclusive<'_> {
        self.covering(offset, length)
            .map(|lock| lock.write())
            .collect()
    }

    /// The locks of a range, in ascending order, each once.
    fn covering(&self, offset: u64, length: u64) -> impl Iterator<Item = &RwLock<()>> {
        covering(offset, length).filter_map(|index| self.locks.get(index))
    }
}

/// The indices of the locks of a range, in ascending order, each once.
fn covering(offset: u64, length: u64) -> impl Iterator<Item = usize> {
    let first = offset / STRIPE_BYTES;
    let last = offset.saturating_add(length.saturating_sub(1)) / STRIPE_BYTES;
    let count = (last - first).saturating_add(1).min(STRIPES as u64);
    let start = first % STRIPES as u64;
    let end = start + count;
    // The part that goes round the end comes first: its indices are the smaller ones.
    let wrapped = end.saturating_sub(STRIPES as u64);
    (0..wrapped)
        .chain(start..end - wrapped)
        .filter_map(|index| usize::try_from(index).ok())
}

const STRIPES: usize = 64;
const STRIPE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn held(stripes: &Stripes, offset: u64, length: u64) -> usize {
        stripes.hold(offset, length).len()
    }

    #[test]
    fn a_range_takes_its_stripes_once() {
        let stripes = Stripes::new();
        for (offset, length, locks) in [
            (0, 512, 1),
            (STRIPE_BYTES - 512, 512, 1),
            (STRIPE_BYTES - 512, 1024, 2),
            (63 * STRIPE_BYTES, 3 * STRIPE_BYTES, 3),
            (5 * STRIPE_BYTES, 64 * STRIPE_BYTES, 64),
            (7, u64::MAX - 7, 64),
            (u64::MAX - 512, 512, 1),
        ] {
            assert_eq!(
                held(&stripes, offset, length),
                locks,
                "{length} at {offset}"
            );
        }
    }

    #[test]
    fn ranges_together_take_each_lock_once() {
        let stripes = Stripes::new();
        let ranges = [(0, 2 * STRIPE_BYTES), (STRIPE_BYTES, 2 * STRIPE_BYTES)];
        assert_eq!(stripes.share_all(&ranges).len(), 3);
        assert_eq!(
            stripes
                .share_all(&[(63 * STRIPE_BYTES, STRIPE_BYTES)])
                .len(),
            1
        );
    }

    #[test]
    fn sharing_does_not_wait_when_it_must_not() {
        let stripes = Stripes::new();
        let holder = stripes.hold(0, 512);
        assert_eq!(
            stripes.share(512, 512, Patience::None).err(),
            Some(Ending::WouldWait)
        );
        assert!(stripes.share(STRIPE_BYTES, 512, Patience::None).is_ok());
        drop(holder);
        assert_eq!(stripes.share(0, 512, Patience::None).unwrap().len(), 1);
    }
}
