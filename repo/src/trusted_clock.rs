//! The time that locks and retention go by, which a clock set wrong does not move (`docs/operations/locks.md`).
//!
//! It runs with the time that the machine is up, which nobody can set, and leans towards the machine's clock by at most
//! an eighth of that. A clock set back therefore does not take it back, and a clock set forward does not carry it away.
//! What passed while the machine was off cannot be measured: at most a day of it is believed at each start, and only if
//! a day has passed since that was last done.
//!
//! The file `clock` in the repository keeps it from one opening to the next (`docs/formats/catalog.md`), sealed where
//! the repository is encrypted. Whatever it says, an opening takes no time that is later than the machine's clock: so who
//! writes that file and nothing else unlocks nothing.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::{Clock, UnixNanoseconds, Uptime};
use crate::disk::Disk;
use crate::error::RepoError;
use crate::keys::KeyRing;

/// Tells a time that only goes forward, at about the pace of the world.
#[derive(Debug)]
pub(crate) struct TrustedClock {
    disk: Arc<dyn Disk>,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    /// What would have been the time at opening, had the machine's clock not been far behind it.
    refused: Option<UnixNanoseconds>,
    state: Mutex<State>,
}

/// How the trusted time stands to the machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClockState {
    /// The time that locks and retention go by.
    pub trusted: UnixNanoseconds,
    /// The time of the machine's clock.
    pub machine: UnixNanoseconds,
    /// The time that was kept from the run before, if it was refused for being far ahead of the machine's clock.
    pub refused: Option<UnixNanoseconds>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    trusted: u64,
    /// When `trusted` was so.
    uptime: Uptime,
    /// Up to when time was believed that nobody measured.
    credited: u64,
    /// When the file was last written, by the uptime.
    stored: u64,
    /// The difference to the machine's clock was told.
    told: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredClock {
    trusted_unix_nanoseconds: u64,
    credited_unix_nanoseconds: u64,
    boot: Uuid,
    uptime_nanoseconds: u64,
}

impl ClockState {
    /// Nanoseconds between the two.
    pub fn difference(&self) -> u64 {
        self.trusted.0.abs_diff(self.machine.0)
    }

    /// Whether somebody should look at the machine's clock.
    pub fn is_suspicious(&self) -> bool {
        self.difference() > DIFFERENCE_TOLD
    }

    /// Whether the machine's clock is far behind, which no time that was off explains.
    pub fn is_ahead(&self) -> bool {
        self.trusted > self.machine && self.is_suspicious()
    }
}

impl TrustedClock {
    /// Goes on from what was kept, and keeps it. `floor` is a time that has certainly passed.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        floor: Option<UnixNanoseconds>,
    ) -> Self {
        let opened = Self::look_into(disk, keys, clock, floor);
        opened.store_or_warn();
        opened
    }

    /// The same, and keeps nothing.
    pub(crate) fn look_into(
        disk: Arc<dyn Disk>,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        floor: Option<UnixNanoseconds>,
    ) -> Self {
        let (machine, uptime) = (clock.now().0, clock.uptime());
        let floor = floor.map(|floor| floor.0);
        let mut state = match Self::read(disk.as_ref(), &keys) {
            Some(kept) => State::resume(&kept, machine, uptime),
            // The file may have been taken away.
            None => State::begin(floor.unwrap_or(machine), uptime),
        };
        state.trusted = state.trusted.max(floor.unwrap_or(0));
        let found = state.trusted;
        // File and locks can be forged where there is no key, and by who has it. The machine's clock is not in the
        // repository's folder.
        state.trusted = found.min(machine);
        state.credited = state.credited.min(state.trusted);
        let far_ahead = found - state.trusted > DIFFERENCE_TOLD;
        let refused = far_ahead.then_some(UnixNanoseconds(found));
        if let Some(found) = refused {
            tracing::error!(%found, machine = %UnixNanoseconds(machine), "the trusted time that was kept is ahead of the machine's clock and is not believed");
        }
        Self {
            disk,
            keys,
            clock,
            refused,
            state: Mutex::new(state),
        }
    }

    /// The time that locks and retention go by.
    pub(crate) fn now(&self) -> UnixNanoseconds {
        self.look().trusted
    }

    /// The trusted time beside the machine's.
    pub(crate) fn look(&self) -> ClockState {
        let machine = self.clock.now();
        let uptime = self.clock.uptime();
        let mut state = self.state.lock();
        state.advance(machine.0, uptime);
        let found = ClockState {
            trusted: UnixNanoseconds(state.trusted),
            machine,
            refused: self.refused,
        };
        if found.is_suspicious() != state.told {
            state.told = found.is_suspicious();
            if state.told {
                tracing::warn!(trusted = %found.trusted, machine = %found.machine, "the machine's clock and the trusted time differ; locks and retention go by the trusted time");
            }
        }
        let due = uptime.nanoseconds.saturating_sub(state.stored) > STORE_EVERY;
        drop(state);
        if due {
            self.store_or_warn();
        }
        found
    }

    /// Keeps the time for the next opening. Time that is not kept counts as not passed, so a failure only makes locks
    /// last longer.
    pub(crate) fn store(&self) -> Result<(), RepoError> {
        let kept = {
            let mut state = self.state.lock();
            state.stored = state.uptime.nanoseconds;
            StoredClock {
                trusted_unix_nanoseconds: state.trusted,
                credited_unix_nanoseconds: state.credited,
                boot: state.uptime.boot,
                uptime_nanoseconds: state.uptime.nanoseconds,
            }
        };
        let body = serde_json::to_string_pretty(&kept).expect("the clock has only text keys");
        let path = Path::new(PATH);
        let text = self.keys.seal_text(KIND, VERSION, path, &body)?;
        Ok(self.disk.replace(path, &text)?)
    }

    fn store_or_warn(&self) {
        if let Err(error) = self.store() {
            tracing::warn!(%error, "the trusted time is not kept");
        }
    }

    fn read(disk: &dyn Disk, keys: &KeyRing) -> Option<StoredClock> {
        let path = Path::new(PATH);
        let read = || -> Result<StoredClock, RepoError> {
            let text = disk.read(path, CLOCK_BYTES_MAX)?;
            let (_, body) = keys.open_text("file clock", KIND, VERSION, path, &text)?;
            serde_json::from_str(&body).map_err(|error| RepoError::Corrupt {
                what: "file clock".to_owned(),
                detail: error.to_string(),
            })
        };
        match read() {
            Ok(kept) => Some(kept),
            Err(RepoError::Disk(error)) if error.is_missing() => None,
            Err(error) => {
                tracing::warn!(%error, "the trusted time starts anew");
                None
            }
        }
    }
}

impl State {
    fn begin(trusted: u64, uptime: Uptime) -> Self {
        Self {
            trusted,
            uptime,
            credited: trusted,
            stored: uptime.nanoseconds,
            told: false,
        }
    }

    /// Goes on from what was kept.
    fn resume(kept: &StoredClock, machine: u64, uptime: Uptime) -> Self {
        let before = Uptime {
            boot: kept.boot,
            nanoseconds: kept.uptime_nanoseconds,
        };
        let mut state = Self {
            credited: kept.credited_unix_nanoseconds,
            ..Self::begin(kept.trusted_unix_nanoseconds, uptime)
        };
        if same_run(&before, &uptime) {
            state.uptime = before;
            state.advance(machine, uptime);
        } else {
            state.credit(machine);
        }
        state
    }

    fn advance(&mut self, machine: u64, uptime: Uptime) {
        let elapsed = uptime.nanoseconds.saturating_sub(self.uptime.nanoseconds);
        self.uptime = uptime;
        let plain = self.trusted.saturating_add(elapsed);
        let lean = elapsed / LEAN;
        self.trusted = if machine > plain {
            machine.min(plain.saturating_add(lean))
        } else {
            machine.max(plain - lean)
        };
    }

    /// Believes some of the time that the machine seems to have been off.
    fn credit(&mut self, machine: u64) {
        let off = machine.saturating_sub(self.trusted);
        if off > 0 && self.trusted.saturating_sub(self.credited) >= CREDIT {
            self.trusted += off.min(CREDIT);
            self.credited = self.trusted;
        }
    }
}

/// Whether both are of one start of a machine, in this order.
fn same_run(earlier: &Uptime, later: &Uptime) -> bool {
    !earlier.boot.is_nil() && earlier.boot == later.boot && earlier.nanoseconds <= later.nanoseconds
}

const PATH: &str = "clock";
const KIND: &str = "clock";
const VERSION: u32 = 1;
const CLOCK_BYTES_MAX: u64 = 1 << 16;

/// The part of the time that passes by which the trusted time may lean towards the machine's clock.
const LEAN: u64 = 8;
/// Time off that is believed at a start: a day.
const CREDIT: u64 = 24 * 3600 * SECOND;
/// How often the time is kept while someone asks for it.
const STORE_EVERY: u64 = 600 * SECOND;
/// From which difference on a person should look.
const DIFFERENCE_TOLD: u64 = 3600 * SECOND;
const SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::disk::SimulatedDisk;

    const DAY: u64 = CREDIT;
    const START: u64 = 20_000 * DAY;

    struct Rig {
        disk: Arc<dyn Disk>,
        clock: Arc<ManualClock>,
    }

    impl Rig {
        fn new() -> Self {
            Self {
                disk: Arc::new(SimulatedDisk::new()),
                clock: Arc::new(ManualClock::new(UnixNanoseconds(START))),
            }
        }

        fn open(&self) -> TrustedClock {
            self.open_with(KeyRing::plain(), None)
        }

        fn open_with(&self, keys: KeyRing, floor: Option<u64>) -> TrustedClock {
            let clock = Arc::<ManualClock>::clone(&self.clock);
            let floor = floor.map(UnixNanoseconds);
            TrustedClock::open(Arc::clone(&self.disk), Arc::new(keys), clock, floor)
        }

        /// Puts a file there that says `trusted`, as somebody can who has `keys`.
        fn forge(&self, keys: &KeyRing, trusted: u64) {
            let stored = StoredClock {
                trusted_unix_nanoseconds: trusted,
                credited_unix_nanoseconds: 0,
                boot: self.clock.uptime().boot,
                uptime_nanoseconds: 0,
            };
            let body = serde_json::to_string(&stored).unwrap();
            let path = Path::new(PATH);
            let text = keys.seal_text(KIND, VERSION, path, &body).unwrap();
            self.disk.replace(path, &text).unwrap();
        }

        /// Days since the start by the trusted clock, in hundredths.
        fn days(&self, trusted: &TrustedClock) -> u64 {
            (trusted.now().0 - START) * 100 / DAY
        }
    }

    #[test]
    fn a_clock_set_back_does_not_take_the_time_back() {
        let rig = Rig::new();
        let trusted = rig.open();
        rig.clock.advance(10 * DAY);
        assert_eq!(rig.days(&trusted), 1_000);
        rig.clock.set(UnixNanoseconds(START - 300 * DAY));
        assert_eq!(rig.days(&trusted), 1_000);
        rig.clock.advance(8 * DAY);
        assert_eq!(rig.days(&trusted), 1_700, "seven eighths of the pace");
        assert!(trusted.look().is_suspicious());
        drop(trusted);
        let trusted = rig.open();
        assert_eq!(
            trusted.now().0,
            START - 292 * DAY,
            "an opening believes no time that is ahead of the machine's clock"
        );
        assert_eq!(
            trusted.look().refused,
            Some(UnixNanoseconds(START + 17 * DAY))
        );
    }

    fn encrypted() -> KeyRing {
        KeyRing::new(crate::keys::MasterKey::from_bytes([5; 32]), Uuid::nil())
    }

    #[test]
    fn a_file_that_is_ahead_of_the_machines_clock_is_not_believed() {
        for keys in [KeyRing::plain, encrypted] {
            let rig = Rig::new();
            drop(rig.open_with(keys(), None));
            rig.clock.advance(DAY);
            rig.forge(&keys(), START + 2_000 * DAY);
            let trusted = rig.open_with(keys(), None);
            assert_eq!(rig.days(&trusted), 100, "not even with the key");
            // The day since then counts, leaning to the machine's clock by an eighth.
            let refused = Some(UnixNanoseconds(START + 2_000 * DAY + DAY / 8 * 7));
            assert_eq!(trusted.look().refused, refused, "and this is told");
            rig.clock.set(UnixNanoseconds(START + 3_000 * DAY));
            assert_eq!(rig.days(&trusted), 100, "nothing of it is left");
            drop(trusted);
            let again = rig.open_with(keys(), None);
            assert_eq!((rig.days(&again), again.look().refused), (100, None));
        }
    }

    #[test]
    fn a_lock_of_the_future_does_not_make_it_later_than_the_machines_clock() {
        let rig = Rig::new();
        rig.forge(&KeyRing::plain(), START + 2_000 * DAY);
        let trusted = rig.open_with(KeyRing::plain(), Some(START + 2_000 * DAY));
        assert_eq!(rig.days(&trusted), 0);
        rig.disk.remove(Path::new(PATH)).unwrap();
        let trusted = rig.open_with(KeyRing::plain(), Some(START + 2_000 * DAY));
        assert_eq!(rig.days(&trusted), 0);
    }

    #[test]
    fn where_there_is_a_key_file_and_clock_together_carry_nothing_away() {
        let rig = Rig::new();
        drop(rig.open_with(encrypted(), Some(START)));
        let sealed = rig.disk.read(Path::new(PATH), 1000).unwrap();
        assert!(!String::from_utf8_lossy(&sealed).contains("trusted"));
        rig.clock.set(UnixNanoseconds(START + 3_000 * DAY));
        let other = KeyRing::new(crate::keys::MasterKey::from_bytes([6; 32]), Uuid::nil());
        for keys in [KeyRing::plain(), other] {
            rig.forge(&keys, START + 2_000 * DAY);
            let trusted = rig.open_with(encrypted(), Some(START));
            assert_eq!(rig.days(&trusted), 0, "it starts from the newest lock");
        }
    }

    #[test]
    fn a_clock_set_forward_does_not_carry_the_time_away() {
        let rig = Rig::new();
        let trusted = rig.open();
        rig.clock.set(UnixNanoseconds(START + 3_000 * DAY));
        assert_eq!(rig.days(&trusted), 0);
        rig.clock.advance(8 * DAY);
        assert_eq!(rig.days(&trusted), 900, "nine eighths of the pace");
        drop(trusted);
        rig.clock.advance(8 * DAY);
        assert_eq!(rig.days(&rig.open()), 1_800, "time between openings counts");
    }

    #[test]
    fn time_off_is_believed_a_day_at_a_time() {
        let rig = Rig::new();
        drop(rig.open());
        rig.clock.advance(DAY);
        drop(rig.open());
        rig.clock.reboot(DAY / 2);
        assert_eq!(rig.days(&rig.open()), 150, "half a day off");
        rig.clock.reboot(100 * DAY);
        assert_eq!(rig.days(&rig.open()), 150, "too soon after that");
        rig.clock.advance(DAY);
        let trusted = rig.open();
        assert_eq!(rig.days(&trusted), 262);
        drop(trusted);
        rig.clock.reboot(DAY);
        assert_eq!(rig.days(&rig.open()), 362, "a day of a hundred");
    }

    #[test]
    fn what_has_certainly_passed_counts_with_and_without_the_file() {
        let rig = Rig::new();
        let trusted = rig.open_with(KeyRing::plain(), Some(START - 5 * DAY));
        assert_eq!(trusted.now().0, START - 5 * DAY);
        drop(trusted);
        let trusted = rig.open_with(KeyRing::plain(), Some(START - DAY));
        assert_eq!(trusted.now().0, START - DAY);
    }

    #[test]
    fn a_damaged_file_is_no_end() {
        let rig = Rig::new();
        drop(rig.open());
        rig.disk
            .replace(Path::new(PATH), b"holdfast clock 1 x\n{}")
            .unwrap();
        assert_eq!(rig.days(&rig.open()), 0);
    }
}
