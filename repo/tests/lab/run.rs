//! Telling a story to a repository, and comparing what it does with what it should.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use repo::clock::{Clock as _, ManualClock};
use repo::disk::{Disk as _, Effect, Fault, SimulatedDisk};
use repo::{
    CreateOptions, OpenOptions, Overlay, RepoError, Repository, SimulatedIndex, UnixNanoseconds,
};
use uuid::Uuid;

use crate::backups::OpenBackup;
use crate::chance::Chance;
use crate::lies::Lie;
use crate::model::Model;
use crate::rot::RottenPage;
use crate::story::{Act, Step};
use crate::trouble::{effect, key_slot, opening_fault, options, some_fault};

/// How what the repository did differs from what it should have done.
pub(crate) type Wrong = String;

/// A repository on a simulated disk, and all that is known of it.
pub(crate) struct Run {
    pub(crate) disk: SimulatedDisk,
    pub(crate) lie: Lie,
    pub(crate) index: SimulatedIndex,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) options: OpenOptions,
    repository: Option<Repository>,
    pub(crate) model: Model,
    pub(crate) backups: Vec<OpenBackup>,
    pub(crate) overlays: BTreeMap<Uuid, Arc<Overlay>>,
    /// Faults that had hit when the repository was opened.
    faults_at_opening: u64,
    /// Some hit while it was opened, so it may know less than is there.
    pub(crate) degraded: bool,
    /// Where bits have flipped.
    pub(crate) rot: Vec<RottenPage>,
    /// How the world ends when it stops in the middle of a call: by power failure, or a kill.
    stop_is_power_failure: bool,
    pub(crate) counts: Counts,
    /// What happened, in words.
    pub(crate) log: Vec<String>,
}

/// What was done.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) openings: u64,
    pub(crate) points: u64,
    pub(crate) restores: u64,
    pub(crate) calls: u64,
    pub(crate) collections: u64,
    pub(crate) removed_packs: u64,
    pub(crate) mended_pages: u64,
    /// Losses beyond parity that were looked at.
    pub(crate) losses: u64,
}

impl Run {
    pub(crate) fn new(seed: u64, lie: Lie) -> Self {
        let mut chance = Chance::new(seed ^ 0x6c61_6262);
        Self {
            disk: match chance.one_in(4) {
                true => SimulatedDisk::seeded(seed).without_direct(),
                false => SimulatedDisk::seeded(seed),
            },
            lie,
            index: SimulatedIndex::new(),
            clock: Arc::new(ManualClock::new(UnixNanoseconds(1_000_000))),
            options: options(&mut chance),
            repository: None,
            model: Model::default(),
            backups: Vec::new(),
            overlays: BTreeMap::new(),
            faults_at_opening: 0,
            degraded: false,
            rot: Vec::new(),
            stop_is_power_failure: false,
            counts: Counts::default(),
            log: Vec::new(),
        }
    }

    /// Tells the whole story.
    pub(crate) fn tell(&mut self, steps: &[Step]) -> Result<(), Wrong> {
        let disk = self.lie.told_by(&self.disk);
        let options = CreateOptions {
            key_slots: self
                .options
                .secret
                .clone()
                .map(key_slot)
                .into_iter()
                .collect(),
        };
        Repository::create_on(&*disk, root(), &*self.clock, &options)
            .map_err(|error| format!("no repository could be made: {error}"))?;
        self.open(None)?;
        for step in steps {
            self.counts.steps += 1;
            self.step(step)
                .map_err(|fault| format!("{:?}: {fault}", step.act))?;
            if self.disk_is_dead() {
                let chance = &mut Chance::new(step.seed ^ 1);
                self.end(self.stop_is_power_failure, chance)?;
            }
        }
        self.counts.calls += self.disk.operations();
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), Wrong> {
        let chance = &mut Chance::new(step.seed);
        match step.act {
            Act::Backup => self.backup(chance),
            Act::Begin => self.begin_backup(chance),
            Act::Continue => self.continue_backup(chance),
            Act::Commit => self.commit_backup(chance),
            Act::Abandon => {
                self.backups.pop();
                Ok(())
            }
            Act::Expire => self.expire(chance),
            Act::Unexpire => self.unexpire(chance),
            Act::Retain => self.retain(chance),
            Act::Collect => self.collect(60, chance),
            Act::Compact => self.collect(100, chance),
            Act::Star => self.star(chance),
            Act::Lock => self.lock(chance),
            Act::LiftLock => self.lift_lock(chance),
            Act::Read => self.read_some_point(chance),
            Act::Overlay => self.make_overlay(chance),
            Act::Write => self.write_overlay(chance),
            Act::Clear => self.clear_overlay(chance),
            Act::Flush => self.flush_overlay(chance),
            Act::Checkpoint => self.checkpoint_overlay(chance),
            Act::Seal => self.seal_overlay(chance),
            Act::Discard => self.discard_overlay(chance),
            Act::Close => self.close(chance),
            Act::Kill => self.end(false, chance),
            Act::PowerLoss => self.end(true, chance),
            Act::StopSoon | Act::Fail | Act::FailOften | Act::Full => {
                self.plan_trouble(step.act, chance);
                Ok(())
            }
            Act::Room => {
                self.say("there is room again, and nothing more goes wrong");
                self.disk.clear_faults();
                Ok(())
            }
            Act::Clock => {
                self.set_clock(chance);
                Ok(())
            }
            Act::Verify => self.verify(),
            Act::Repair => self.repair(),
            Act::Rot => {
                self.rot(chance);
                Ok(())
            }
            Act::Lose => self.lose(chance),
            Act::LoseIndex => {
                self.index = SimulatedIndex::new();
                self.end(chance.one_in(2), chance)
            }
            Act::FailAtOpening => {
                let fault = opening_fault(chance);
                self.end_and_open(chance.one_in(2), chance, Some(fault))
            }
            Act::StopAtOpening => {
                let stop = (chance.below(12), effect(chance));
                self.stop_is_power_failure = chance.one_in(2);
                self.end_and_stop(chance, stop)
            }
            Act::ForgetCache => {
                self.say("the kernel forgets what it takes for written");
                self.disk.forget_clean();
                Ok(())
            }
        }
    }

    pub(crate) fn say(&mut self, what: impl Display) {
        self.log.push(what.to_string());
    }

    pub(crate) fn repository(&self) -> Repository {
        self.repository
            .clone()
            .expect("it is open between two steps")
    }

    /// Faults that hit so far.
    pub(crate) fn faults(&self) -> u64 {
        self.disk
            .injected()
            .iter()
            .filter(|(what, _)| what.starts_with("failed") || what.contains("space"))
            .map(|(_, count)| count)
            .sum()
    }

    /// Whether an error may be the consequence of a fault that hit since there were `before` of them, or of one that
    /// ends all writing until the repository is opened again.
    pub(crate) fn is_excused(&self, before: u64) -> bool {
        self.faults() > before || self.hard_faults() > self.faults_at_opening || self.disk_is_dead()
    }

    /// Whether reading may fail: only while reads do.
    pub(crate) fn reads_are_excused(&self, before: u64) -> bool {
        self.faults() > before || self.disk_is_dead()
    }

    /// Passes what went well on, and an error only if nothing excuses it.
    pub(crate) fn judge<T>(
        &mut self,
        what: &str,
        before: u64,
        result: Result<T, RepoError>,
    ) -> Result<Option<T>, Wrong> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.is_excused(before) => {
                self.say(format!("{what} failed: {}", chain(&error)));
                Ok(None)
            }
            Err(error) => Err(format!(
                "{what} failed, and the disk did nothing wrong: {}",
                chain(&error)
            )),
        }
    }

    /// Whether no call has failed since the repository was opened, but for lack of space.
    pub(crate) fn nothing_failed(&self) -> bool {
        !self.degraded && self.hard_faults() == self.faults_at_opening && !self.disk_is_dead()
    }

    pub(crate) fn has_threads(&self) -> bool {
        self.options.workers > 0
    }

    fn hard_faults(&self) -> u64 {
        let injected = self.disk.injected();
        let hard = injected
            .iter()
            .filter(|(what, _)| what.starts_with("failed"));
        hard.map(|(_, count)| count).sum()
    }

    pub(crate) fn disk_is_dead(&self) -> bool {
        self.disk.space().is_err()
    }

    fn plan_trouble(&mut self, act: Act, chance: &mut Chance) {
        match act {
            Act::StopSoon => {
                let calls = chance.below(12);
                self.stop_is_power_failure = chance.one_in(2);
                let operation = self.disk.operations() + calls;
                let effect = effect(chance);
                self.say(format!("the world will stop in {calls} calls ({effect:?})"));
                self.disk.inject(Fault::StopAt { operation, effect });
            }
            Act::Full => {
                let bytes = chance.of(&[0, 100, 5_000, 40_000, 200_000, 700_000]);
                self.say(format!("{bytes} bytes of space are left"));
                self.disk.inject(Fault::FullAfter { bytes });
            }
            _ => {
                let count = if act == Act::Fail {
                    1
                } else {
                    1 + chance.below(5)
                };
                for _ in 0..count {
                    let fault = some_fault(chance);
                    self.say(format!("planned: {fault:?}"));
                    self.disk.inject(fault);
                }
            }
        }
    }

    fn set_clock(&mut self, chance: &mut Chance) {
        let passes = chance.below(1 << 43);
        self.clock.advance(passes);
        let now = self.clock.now().0;
        let to = match chance.one_in(3) {
            true => now.saturating_sub(chance.below(1 << 40)),
            false => now + chance.below(1 << 44),
        };
        self.say(format!(
            "{passes} ns pass, and the clock is set from {now} to {to}"
        ));
        self.clock.set(UnixNanoseconds(to));
    }

    /// Ends in good order, and opens again.
    fn close(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        self.say("closes");
        let before = self.faults();
        self.backups.clear();
        let closed = self.repository().close();
        self.overlays.clear();
        self.repository = None;
        if self.judge("closing", before, closed)?.is_none() && chance.one_in(2) {
            self.index = self.index.crash(chance.next());
        }
        if self.disk_is_dead() {
            return Ok(());
        }
        self.disk.clear_faults();
        let lossy = self.loses_unsynced(false);
        self.open(Some(lossy))
    }

    /// The process is killed or power fails; then the repository is opened again.
    fn end(&mut self, power_failed: bool, chance: &mut Chance) -> Result<(), Wrong> {
        self.end_and_open(power_failed, chance, None)
    }

    fn end_and_open(
        &mut self,
        power_failed: bool,
        chance: &mut Chance,
        fault: Option<Fault>,
    ) -> Result<(), Wrong> {
        let lossy = self.loses_unsynced(power_failed);
        self.fall(power_failed, chance);
        if let Some(fault) = fault {
            self.say(format!("while opening: {fault:?}"));
            self.disk.inject(fault);
        }
        self.open(Some(lossy))
    }

    /// Whether what was not synced may be gone at the next opening: not if only the process ends, unless a sync failed.
    fn loses_unsynced(&self, power_failed: bool) -> bool {
        power_failed || self.hard_faults() > self.faults_at_opening
    }

    /// The world stops once more while the repository is opened.
    fn end_and_stop(&mut self, chance: &mut Chance, stop: (u64, Effect)) -> Result<(), Wrong> {
        let first = chance.one_in(2);
        let lossy = self.loses_unsynced(first);
        self.fall(first, chance);
        let operation = self.disk.operations() + stop.0;
        self.say(format!("the world will stop {} calls into opening", stop.0));
        self.disk.inject(Fault::StopAt {
            operation,
            effect: stop.1,
        });
        let opened = self.try_open();
        if self.disk_is_dead() {
            drop(opened);
            let second = self.stop_is_power_failure;
            self.fall(second, chance);
            return self.open(Some(lossy || second));
        }
        self.disk.clear_faults();
        self.repository = opened.map_err(|error| format!("it does not open: {}", chain(&error)))?;
        self.check_all(lossy)
    }

    /// Everything that was in memory is gone.
    fn fall(&mut self, power_failed: bool, chance: &mut Chance) {
        self.counts.calls += self.disk.operations();
        self.say(if power_failed {
            "power fails"
        } else {
            "is killed"
        });
        let after = match power_failed {
            true => self.disk.crash(chance.next()),
            false => self.disk.kill(),
        };
        if !power_failed && chance.one_in(2) {
            after.forget_clean();
        }
        self.disk = after;
        self.backups.clear();
        self.overlays.clear();
        self.repository = None;
        self.index = match chance.one_in(6) {
            true => SimulatedIndex::new(),
            false => self.index.crash(chance.next()),
        };
    }

    fn try_open(&mut self) -> Result<Option<Repository>, RepoError> {
        self.counts.openings += 1;
        let disk = self.lie.told_by(&self.disk);
        let clock = self.lie.told_by_clock(&self.clock);
        Repository::open_with(disk, root(), clock, &self.index, &self.options).map(Some)
    }

    /// Opens what an end has left, and checks all of it.
    fn open(&mut self, power_failed: Option<bool>) -> Result<(), Wrong> {
        let before = self.faults();
        let opened = match self.try_open() {
            Err(error) if self.faults() > before => {
                self.say(format!("opening failed: {}", chain(&error)));
                self.disk.clear_faults();
                return self.open(power_failed);
            }
            other => other,
        };
        self.repository = opened.map_err(|error| format!("it does not open: {}", chain(&error)))?;
        self.degraded = self.faults() > before;
        self.disk.clear_faults();
        self.faults_at_opening = self.hard_faults();
        match power_failed {
            Some(power_failed) => self.check_all(power_failed),
            None => Ok(()),
        }
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text = format!("{text}: {cause}");
        below = cause.source();
    }
    text
}

/// Only named in errors.
pub(crate) fn root() -> &'static Path {
    Path::new("laboratory")
}
