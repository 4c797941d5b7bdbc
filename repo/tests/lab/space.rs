//! Points that go, and their space with them.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use repo::disk::Disk as _;
use repo::retention::{Reach, RetainedPoint, RetentionRules, judge};
use repo::{CollectOptions, CollectReport, PointName, RepoError, SimulatedIndex, WorkloadName};

use crate::chance::Chance;
use crate::model::ExpiredModel;
use crate::run::{Run, Wrong, chain, root};

impl Run {
    pub(crate) fn expire(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        match self.some_point(chance) {
            Some(name) => self.expire_point(&name),
            None => Ok(()),
        }
    }

    fn expire_point(&mut self, name: &PointName) -> Result<(), Wrong> {
        let before = self.faults();
        let in_use = self.model.in_use(name);
        let reserve_helps = self.has_reserve() && self.nothing_failed();
        let answer = self.repository().expire(name);
        match answer {
            Err(RepoError::PointInUse { .. }) if self.model.may_be_in_use(name) => return Ok(()),
            Err(RepoError::NoSuchPoint(_))
                if self.degraded || self.model.leaving.contains(name) =>
            {
                return Ok(());
            }
            Err(RepoError::Starred(_) | RepoError::Locked { .. }) if self.may_be_kept(name) => {
                self.say(format!("{name} is kept"));
                return Ok(());
            }
            Err(RepoError::MarkDamaged { .. }) if self.degraded => return Ok(()),
            Ok(()) if in_use => return Err(format!("{name} was expired under an overlay")),
            Ok(()) if self.is_kept(name) => {
                return Err(format!("{name} is starred or locked and was expired"));
            }
            Err(error) if error.is_full() && reserve_helps && self.nothing_failed() => {
                return Err(format!("the reserve did not help to expire {name}"));
            }
            other => {
                let what = format!("expiring {name}");
                if self.judge(&what, before, other)?.is_none() {
                    self.model.leaving.insert(name.clone());
                    self.doubt_marks(name);
                    return Ok(());
                }
            }
        }
        self.say(format!("{name} is expired"));
        self.model.leaving.remove(name);
        self.doubt_marks(name);
        if let Some(content) = self.model.points.remove(name) {
            let expired = ExpiredModel {
                content,
                may_be_gone: false,
            };
            self.model.expired.insert(name.clone(), expired);
        }
        Ok(())
    }

    /// Brings an expired point back; one whose space was given back must stay away.
    pub(crate) fn unexpire(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        if chance.one_in(4) {
            let at = chance.below(self.model.gone.len() as u64) as usize;
            let Some(name) = self.model.gone.iter().nth(at).cloned() else {
                return Ok(());
            };
            return match self.repository().unexpire(&name) {
                Err(_) => Ok(()),
                Ok(_) => Err(format!("{name} came back, and its space was given back")),
            };
        }
        let at = chance.below(self.model.expired.len() as u64) as usize;
        let Some((name, expired)) = self.model.expired.iter().nth(at) else {
            return Ok(());
        };
        let (name, expired) = (name.clone(), expired.clone());
        let before = self.faults();
        match self.repository().unexpire(&name) {
            Err(RepoError::GivenBack(_) | RepoError::NoSuchPoint(_))
                if expired.may_be_gone || self.degraded =>
            {
                return Ok(());
            }
            other => {
                let what = format!("bringing {name} back");
                if self.judge(&what, before, other)?.is_none() {
                    self.model.leaving.insert(name.clone());
                } else {
                    self.say(format!("{name} is back"));
                }
            }
        }
        self.model.expired.remove(&name);
        self.model.points.insert(name, expired.content);
        Ok(())
    }

    /// Applies rules to a workload.
    pub(crate) fn retain(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let workload = WorkloadName::parse(chance.of(&["web", "web", "db"])).unwrap();
        let last = 1 + chance.below(4) as u32;
        let rules = RetentionRules {
            last: Some(last),
            hourly: chance.one_in(2).then_some(Reach::Count(2)),
            ..RetentionRules::default()
        };
        let repository = self.repository();
        let points: Vec<RetainedPoint> = repository
            .points(Some(&workload))
            .iter()
            .map(|point| {
                let marks = repository.marks(&point.name);
                RetainedPoint {
                    name: point.name.clone(),
                    created: point.created,
                    held: marks.starred || !marks.locks.is_empty() || marks.damaged.is_some(),
                }
            })
            .collect();
        let verdicts = judge(&points, &rules, repository.trusted_now());
        let going: Vec<&PointName> = verdicts
            .iter()
            .filter(|verdict| verdict.goes())
            .map(|verdict| &verdict.point)
            .collect();
        for name in &going {
            let newer = points.iter().filter(|point| point.name > **name).count();
            if newer < last as usize || self.is_kept(name) {
                return Err(format!("rules that keep the last {last} let {name} go"));
            }
        }
        self.say(format!("rules let {} points go", going.len()));
        for name in going {
            if self.model.points.contains_key(name) {
                self.expire_point(name)?;
            }
        }
        Ok(())
    }

    /// A collection that takes packs from which less than `percent` is needed.
    pub(crate) fn collect(&mut self, percent: u8, chance: &mut Chance) -> Result<(), Wrong> {
        let options = CollectOptions {
            grace: chance.of(&[Duration::ZERO, Duration::ZERO, HOUR]),
            compact_below_percent: percent,
            // They are drawn at random, which would make another story of it each time.
            samples: if self.has_threads() { 8 } else { 0 },
            reserve_bytes: chance.of(&[0, 0, RESERVE_BYTES]),
        };
        let mut steps_left = match chance.one_in(5) {
            true => chance.below(20),
            false => u64::MAX,
        };
        let before = self.faults();
        let collected = self.repository().collect(&options, &mut |_| {
            if steps_left == 0 {
                return ControlFlow::Break(());
            }
            steps_left -= 1;
            ControlFlow::Continue(())
        });
        for expired in self.model.expired.values_mut() {
            expired.may_be_gone = true;
        }
        let leaving = self.model.leaving.iter().cloned();
        self.model.met_leaving.extend(leaving);
        self.counts.collections += 1;
        let report = match collected {
            Err(RepoError::Stopped) if steps_left == 0 => {
                self.say("a collection is stopped");
                return Ok(());
            }
            Err(_) if self.degraded => return Ok(()),
            other => match self.judge("a collection", before, other)? {
                Some(report) => report,
                None => return Ok(()),
            },
        };
        self.say(format!(
            "a collection gives {} points back, condemns {} packs and removes {}",
            report.points, report.condemned_packs, report.removed_packs
        ));
        self.counts.removed_packs += report.removed_packs;
        self.check_collected(&report)?;
        if self.is_excused(before) {
            return Ok(());
        }
        self.check_space(&options, &report, chance)
    }

    /// Whatever nobody reads is given back.
    fn check_collected(&mut self, report: &CollectReport) -> Result<(), Wrong> {
        if self.degraded {
            return Ok(());
        }
        if !report.points_in_use.is_empty() && self.backups.is_empty() {
            return Err(format!("{:?} wait, and nobody reads", report.points_in_use));
        }
        let waiting: Vec<_> = self.repository().expired();
        for name in self.model.expired.keys() {
            if !report.points_in_use.contains(name) {
                self.model.gone.insert(name.clone());
            }
        }
        self.model
            .expired
            .retain(|name, _| report.points_in_use.contains(name));
        for expired in self.model.expired.values_mut() {
            expired.may_be_gone = false;
        }
        match waiting
            .iter()
            .filter(|expired| !self.model.leaving.contains(&expired.name))
            .find(|expired| !report.points_in_use.contains(&expired.name))
        {
            Some(left) => Err(format!("{} was not given back", left.name)),
            None => Ok(()),
        }
    }

    /// Packs hold what is needed, and not much more.
    fn check_space(
        &mut self,
        options: &CollectOptions,
        report: &CollectReport,
        chance: &mut Chance,
    ) -> Result<(), Wrong> {
        let disturbed = self.degraded
            || self.is_rotten()
            || !self.backups.is_empty()
            || self
                .model
                .marks
                .values()
                .any(|marks| !marks.locks.is_empty());
        if disturbed || !(options.grace.is_zero() || report.reserve_used) {
            return Ok(());
        }
        if report.waiting_packs > 0 || !report.hurt_packs.is_empty() {
            return Err(format!("a collection leaves packs: {report:?}"));
        }
        let statistics = self.repository().space_statistics();
        let statistics = statistics.map_err(|error| chain(&error))?;
        let alive = statistics.alive_bytes;
        let packs = self.packs();
        let stored: u64 = packs.iter().map(|pack| pack.length_bytes).sum();
        let shared = alive * 100 / u64::from(options.compact_below_percent);
        let bound = shared + PACK_OVERHEAD_BYTES * (packs.len() as u64 + 1);
        if stored > bound {
            return Err(format!(
                "{stored} bytes in {} packs, of which {alive} are needed",
                packs.len()
            ));
        }
        if chance.one_in(3) {
            self.count_anew(alive)?;
        }
        Ok(())
    }

    /// Whoever counts from nothing counts the same.
    fn count_anew(&self, alive: u64) -> Result<(), Wrong> {
        let disk = Arc::new(self.disk.fork());
        let clock = Arc::clone(&self.clock) as Arc<_>;
        let index = SimulatedIndex::new();
        let counted = repo::Repository::open_with(disk, root(), clock, &index, &self.options)
            .and_then(|repository| {
                repository.settle_account(&mut || true)?;
                repository.space_statistics()
            });
        let counted = counted
            .map_err(|error| format!("nobody can count anew: {}", chain(&error)))?
            .alive_bytes;
        // Map nodes hold places, which compress one way or the other.
        match counted.abs_diff(alive) <= counted / 50 + 4096 {
            true => Ok(()),
            false => Err(format!("{alive} bytes count as needed, anew {counted}")),
        }
    }

    /// Whether there is a reserve, which has any use only on a disk that is nearly full.
    fn has_reserve(&self) -> bool {
        let is_limited = self
            .disk
            .space()
            .is_ok_and(|space| space.available_bytes < space.total_bytes);
        is_limited
            && self
                .disk
                .fork()
                .list(Path::new(""))
                .unwrap_or_default()
                .iter()
                .any(|item| item.name == "reserve" && item.length_bytes == RESERVE_BYTES)
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const RESERVE_BYTES: u64 = 30_000;

/// What a pack has beside records: header, padding, table.
const PACK_OVERHEAD_BYTES: u64 = 16_384;
