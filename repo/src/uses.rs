//! Who relies on what: points that are being read, and backups under way.
//!
//! Space of a point is not given back while it is read, and no pack is removed while a backup is under way that may
//! have found something in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::catalog::PointName;

/// The uses of a repository.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many read each point.
    points: HashMap<PointName, usize>,
    /// By turn: the lowest number of a pack that the backup may write to.
    backups: BTreeMap<u64, u32>,
    turn: u64,
}

/// Keeps the space of a point from being given back, as long as it lives.
#[derive(Debug)]
pub(crate) struct PointUse {
    uses: Arc<Uses>,
    point: PointName,
}

/// Keeps what a backup may have found, as long as it lives.
#[derive(Debug)]
pub(crate) struct BackupUse {
    uses: Arc<Uses>,
    turn: u64,
}

impl Uses {
    pub(crate) fn read(self: &Arc<Self>, point: &PointName) -> Arc<PointUse> {
        let mut state = self.state.lock();
        *state.points.entry(point.clone()).or_default() += 1;
        Arc::new(PointUse {
            uses: Arc::clone(self),
            point: point.clone(),
        })
    }

    /// A backup begins, which will write to no pack below `floor`.
    pub(crate) fn back_up(self: &Arc<Self>, floor: u32) -> BackupUse {
        let mut state = self.state.lock();
        state.turn += 1;
        let turn = state.turn;
        state.backups.insert(turn, floor);
        BackupUse {
            uses: Arc::clone(self),
            turn,
        }
    }

    pub(crate) fn is_read(&self, point: &PointName) -> bool {
        self.state.lock().points.contains_key(point)
    }

    /// A turn that is later than those of all backups so far.
    pub(crate) fn take_turn(&self) -> u64 {
        let mut state = self.state.lock();
        state.turn += 1;
        state.turn
    }

    /// Whether a backup is under way that began before `turn`.
    pub(crate) fn backup_before(&self, turn: u64) -> bool {
        let state = self.state.lock();
        state
            .backups
            .keys()
            .next()
            .is_some_and(|first| *first < turn)
    }

    /// The lowest number of a pack that a backup under way may write to.
    pub(crate) fn floor(&self) -> Option<u32> {
        self.state.lock().backups.values().min().copied()
    }
}

impl Drop for PointUse {
    fn drop(&mut self) {
        let mut state = self.uses.state.lock();
        if let Some(count) = state.points.get_mut(&self.point) {
            *count -= 1;
            if *count == 0 {
                state.points.remove(&self.point);
            }
        }
    }
}

impl Drop for BackupUse {
    fn drop(&mut self) {
        self.uses.state.lock().backups.remove(&self.turn);
    }
}
