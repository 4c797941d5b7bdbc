//! A story: what happens to a repository, one step after the other.

use crate::chance::Chance;

/// One step. What is left open by `act` follows from `seed`, so that a story stays a story when steps are left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) act: Act,
    pub(crate) seed: u64,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// A backup from begin to commit.
    Backup,
    /// A backup is begun and left open; others may come between.
    Begin,
    /// One of the open backups goes on.
    Continue,
    /// One of the open backups is committed.
    Commit,
    /// One of the open backups is dropped.
    Abandon,
    /// Expires a point.
    Expire,
    /// Brings an expired point back.
    Unexpire,
    /// Applies rules of retention.
    Retain,
    /// Gives space back.
    Collect,
    /// The same, copying what is needed out of every pack.
    Compact,
    /// Stars a point, or takes its star off.
    Star,
    Lock,
    LiftLock,
    /// Reads a point.
    Read,
    /// Makes an overlay over a point.
    Overlay,
    /// Writes to an overlay, with or without a flush.
    Write,
    /// Zeroes or discards a range of an overlay.
    Clear,
    Flush,
    Checkpoint,
    /// Makes an overlay the next point, and drops it.
    Seal,
    Discard,
    /// Ends in good order, and opens again.
    Close,
    Kill,
    PowerLoss,
    /// The world stops at some call to come.
    StopSoon,
    /// Some call to come fails.
    Fail,
    /// Several calls to come fail.
    FailOften,
    /// Little space is left.
    Full,
    /// There is room again.
    Room,
    /// The clock is set, also backwards.
    Clock,
    Verify,
    /// Verifies and repairs, which also gives parity to packs that have none.
    Repair,
    /// Bits of a pack flip, no more than its parity makes good.
    Rot,
    /// In a copy of the world, more of a pack is hurt than can be made good.
    Lose,
    /// The index is lost at the next opening.
    LoseIndex,
    /// Some of the calls that the next opening makes fail.
    FailAtOpening,
    /// The world stops while the repository is opened.
    StopAtOpening,
    /// The kernel forgets what it takes for written.
    ForgetCache,
}

/// The story of a seed.
pub(crate) fn story(seed: u64) -> Vec<Step> {
    let mut chance = Chance::new(seed);
    let mut steps = Vec::new();
    let mut add = |act: Act, chance: &mut Chance| {
        let seed = chance.next();
        steps.push(Step { act, seed });
    };
    let trouble = chance.of(TROUBLES);
    add(Act::Backup, &mut chance);
    for _ in 0..8 + chance.below(28) {
        let act = match chance.one_in(4) {
            true => chance.of(trouble),
            false => chance.of(DAILY_LIFE),
        };
        add(act, &mut chance);
    }
    add(chance.clone().of(&[Act::Kill, Act::PowerLoss]), &mut chance);
    for act in [
        Act::Backup,
        Act::Collect,
        Act::Close,
        Act::Verify,
        Act::PowerLoss,
    ] {
        add(act, &mut chance);
    }
    steps
}

const DAILY_LIFE: &[Act] = &[
    Act::Backup,
    Act::Backup,
    Act::Backup,
    Act::Begin,
    Act::Begin,
    Act::Continue,
    Act::Commit,
    Act::Commit,
    Act::Abandon,
    Act::Expire,
    Act::Expire,
    Act::Unexpire,
    Act::Retain,
    Act::Collect,
    Act::Collect,
    Act::Compact,
    Act::Star,
    Act::Lock,
    Act::LiftLock,
    Act::Read,
    Act::Read,
    Act::Overlay,
    Act::Overlay,
    Act::Write,
    Act::Write,
    Act::Write,
    Act::Write,
    Act::Write,
    Act::Write,
    Act::Write,
    Act::Clear,
    Act::Clear,
    Act::Flush,
    Act::Checkpoint,
    Act::Seal,
    Act::Discard,
    Act::Close,
    Act::Clock,
];

/// What goes wrong in a story; some have trouble of one kind only.
const TROUBLES: &[&[Act]] = &[
    &[Act::PowerLoss],
    &[Act::Kill, Act::LoseIndex],
    &[Act::StopSoon, Act::StopSoon, Act::StopAtOpening],
    &[Act::Full, Act::Full, Act::Room, Act::Kill],
    &[
        Act::Fail,
        Act::Fail,
        Act::Kill,
        Act::PowerLoss,
        Act::ForgetCache,
    ],
    &[Act::FailOften, Act::FailAtOpening, Act::Close, Act::Kill],
    &[
        Act::Repair,
        Act::Rot,
        Act::Rot,
        Act::Lose,
        Act::LoseIndex,
        Act::PowerLoss,
    ],
    EVERYTHING,
    EVERYTHING,
    EVERYTHING,
];

const EVERYTHING: &[Act] = &[
    Act::Kill,
    Act::PowerLoss,
    Act::StopSoon,
    Act::StopSoon,
    Act::StopSoon,
    Act::StopAtOpening,
    Act::Fail,
    Act::Fail,
    Act::FailOften,
    Act::FailAtOpening,
    Act::Full,
    Act::Room,
    Act::LoseIndex,
    Act::Verify,
    Act::Repair,
    Act::Rot,
    Act::Rot,
    Act::Lose,
    Act::ForgetCache,
];
