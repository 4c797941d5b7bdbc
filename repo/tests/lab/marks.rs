//! Stars and locks.

use repo::clock::Clock as _;
use repo::{AuthorityAge, Lock, LockMode, PointName, RepoError, UnixNanoseconds};

use crate::chance::Chance;
use crate::model::{LockModel, MarksModel};
use crate::run::{Run, Wrong};

impl Run {
    pub(crate) fn star(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let Some(name) = self.some_marked_point(chance) else {
            return Ok(());
        };
        let before = self.faults();
        let starred = chance.one_in(2);
        let answer = match starred {
            true => self.repository().star(&name),
            false => self.repository().unstar(&name),
        };
        let what = format!("changing the star of {name}");
        let answered = self.judge(&what, before, answer)?.is_some();
        if answered {
            self.say(format!("{name} is starred: {starred}"));
        }
        let marks = self.model.marks.entry(name).or_default();
        match answered {
            true => (marks.starred, marks.star_in_doubt) = (starred, false),
            false => marks.star_in_doubt = true,
        }
        Ok(())
    }

    pub(crate) fn lock(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let Some(name) = self.some_marked_point(chance) else {
            return Ok(());
        };
        let before = self.faults();
        let nanoseconds = chance.of(&[HOUR, 8 * HOUR, 1_000 * HOUR]);
        let now = self.repository().trusted_now();
        let lock = Lock {
            mode: chance.of(&[LockMode::Governance, LockMode::Compliance]),
            until: UnixNanoseconds(now.0 + nanoseconds),
        };
        let answer = match self.repository().lock(&name, lock) {
            Err(RepoError::LockNotLonger { .. }) if self.may_be_kept(&name) => return Ok(()),
            other => self.judge(&format!("locking {name}"), before, other)?,
        };
        if answer.is_some() {
            self.say(format!("{name} is locked: {lock:?}"));
        }
        let placed = self.clock.uptime().nanoseconds;
        let marks = self.model.marks.entry(name).or_default();
        marks.locks.push(LockModel {
            lock,
            placed,
            nanoseconds,
            in_doubt: answer.is_none(),
        });
        Ok(())
    }

    /// Lifts a lock in governance mode; one in compliance mode stays.
    pub(crate) fn lift_lock(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let locked: Vec<PointName> = self.model.marks.keys().cloned().collect();
        let at = chance.below(locked.len() as u64) as usize;
        let Some(name) = locked.get(at).filter(|name| self.is_certain(name)) else {
            return Ok(());
        };
        let before = self.faults();
        let answer = match self.repository().lift_lock(name, AuthorityAge::default()) {
            Err(RepoError::NotLocked(_) | RepoError::Locked { .. }) => return Ok(()),
            other => self.judge(&format!("lifting a lock of {name}"), before, other)?,
        };
        let marks = self.model.marks.entry(name.clone()).or_default();
        match answer {
            Some(()) => marks
                .locks
                .retain(|lock| lock.lock.mode == LockMode::Compliance),
            None => marks.doubt_locks(LockMode::Governance),
        }
        self.say(format!("a lock of {name} is lifted: {}", answer.is_some()));
        Ok(())
    }

    /// After an opening: marks are as they were.
    pub(crate) fn check_marks(&mut self) -> Result<(), Wrong> {
        let repository = self.repository();
        let uptime = self.clock.uptime().nanoseconds;
        for name in self.model.points.keys() {
            let found = repository.marks(name);
            let marks = self.model.marks.entry(name.clone()).or_default();
            marks
                .settle(&found, uptime)
                .map_err(|fault| format!("marks of {name}: {fault}"))?;
        }
        Ok(())
    }

    /// Whether a point must not go.
    pub(crate) fn is_kept(&self, name: &PointName) -> bool {
        let uptime = self.clock.uptime().nanoseconds;
        let marks = self.model.marks.get(name);
        marks.is_some_and(|marks| marks.keeps(uptime))
    }

    /// Whether a point may be kept.
    pub(crate) fn may_be_kept(&self, name: &PointName) -> bool {
        let uptime = self.clock.uptime().nanoseconds;
        let time_was_lost = self.faults() > 0;
        let marks = self.model.marks.get(name);
        marks.is_some_and(|marks| marks.may_keep(uptime, time_was_lost))
    }

    /// What becomes of the marks of a point that goes is not told.
    pub(crate) fn doubt_marks(&mut self, name: &PointName) {
        if let Some(marks) = self.model.marks.get_mut(name) {
            marks.doubt_locks(LockMode::Compliance);
        }
    }

    fn some_marked_point(&mut self, chance: &mut Chance) -> Option<PointName> {
        self.some_point(chance).filter(|name| self.is_certain(name))
    }

    fn is_certain(&self, name: &PointName) -> bool {
        !self.degraded && self.model.points.contains_key(name) && !self.model.leaving.contains(name)
    }
}

impl MarksModel {
    /// Locks of a mode, or of one that is easier to lift, may be there or not.
    fn doubt_locks(&mut self, mode: LockMode) {
        for lock in self.locks.iter_mut().filter(|lock| lock.lock.mode <= mode) {
            lock.in_doubt = true;
        }
    }
}

const HOUR: u64 = 3_600_000_000_000;
