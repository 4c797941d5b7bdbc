//! Which points may go: a pure function of points, rules and the time.
//!
//! A rule keeps the newest point of each of the last so many hours, days, weeks, months or years, or of those within so
//! many days; a point stays if any rule keeps it, if it is starred or locked, or if it is the newest. Times are those at
//! which the daemon received the points, in UTC, so no clock of a client has a say. Where these times contradict the order of the
//! points, because the daemon's own clock was wrong for a while, a point stays if any way to read them keeps it.
//! `docs/operations/space.md` is the user's view.

mod period;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use period::Period;

use crate::catalog::PointName;
use crate::clock::UnixNanoseconds;

/// What is kept of a workload. Without any rule, everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionRules {
    /// The newest so many points.
    pub last: Option<u32>,
    /// Every point that is at most so many days old.
    pub days: Option<u32>,
    /// One point for each of some hours.
    pub hourly: Option<Reach>,
    /// One point for each of some days.
    pub daily: Option<Reach>,
    /// One point for each of some weeks, from Monday on.
    pub weekly: Option<Reach>,
    /// One point for each of some months.
    pub monthly: Option<Reach>,
    /// One point for each of some years.
    pub yearly: Option<Reach>,
}

/// How far back a rule reaches: so many periods that have a point, or so many days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// The newest so many periods in which there is a point.
    Count(u32),
    /// The periods that began at most so many days ago.
    Days(u32),
}

/// A point as rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedPoint {
    /// Its name; all are of one workload.
    pub name: PointName,
    /// When the daemon received it.
    pub created: UnixNanoseconds,
    /// A star or lock keeps it: no rule can touch it.
    pub held: bool,
}

/// What becomes of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The point.
    pub point: PointName,
    /// When the daemon received it.
    pub created: UnixNanoseconds,
    /// Why it stays; empty: it goes.
    pub kept_by: Vec<Keeper>,
}

/// Why a point stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeper {
    /// There is no rule for the workload.
    NoRule,
    /// It is the newest.
    Newest,
    /// It is starred or locked.
    Held,
    /// Its time is in the future, so that its age is not known.
    Future,
    /// One of the rules.
    Last,
    /// One of the rules.
    Days,
    /// One of the rules.
    Hourly,
    /// One of the rules.
    Daily,
    /// One of the rules.
    Weekly,
    /// One of the rules.
    Monthly,
    /// One of the rules.
    Yearly,
}

impl RetentionRules {
    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn periods(&self) -> [(Period, Keeper, Option<Reach>); 5] {
        [
            (Period::Hour, Keeper::Hourly, self.hourly),
            (Period::Day, Keeper::Daily, self.daily),
            (Period::Week, Keeper::Weekly, self.weekly),
            (Period::Month, Keeper::Monthly, self.monthly),
            (Period::Year, Keeper::Yearly, self.yearly),
        ]
    }
}

impl Verdict {
    /// Whether the point may go.
    pub fn goes(&self) -> bool {
        self.kept_by.is_empty()
    }
}

/// Judges all points of one workload. Gives a verdict for each, the newest first.
pub fn judge(
    points: &[RetainedPoint],
    rules: &RetentionRules,
    now: UnixNanoseconds,
) -> Vec<Verdict> {
    let mut newest_first: Vec<&RetainedPoint> = points.iter().collect();
    // The number decides where a clock that was set back would confuse.
    newest_first.sort_by_key(|point| std::cmp::Reverse(point.name.sequence));
    let mut verdicts: Vec<Verdict> = newest_first
        .iter()
        .map(|point| Verdict {
            point: point.name.clone(),
            created: point.created,
            kept_by: untouchable(point, rules, now),
        })
        .collect();
    if let Some(newest) = verdicts.first_mut() {
        newest.kept_by.push(Keeper::Newest);
    }
    let last = usize::try_from(rules.last.unwrap_or(0)).unwrap_or(usize::MAX);
    for verdict in verdicts.iter_mut().take(last) {
        verdict.kept_by.push(Keeper::Last);
    }
    for times in readings(&verdicts) {
        apply(rules, &times, &mut verdicts, now);
    }
    verdicts
}

/// The times of points, the newest first, as they may be meant: as they were stamped; none later than that of the next point, as
/// if the clock had been ahead where they are; none earlier than that of the point before, as if it had been behind.
fn readings(newest_first: &[Verdict]) -> [Vec<UnixNanoseconds>; 3] {
    let stamped: Vec<_> = newest_first.iter().map(|verdict| verdict.created).collect();
    let mut earliest = UnixNanoseconds(u64::MAX);
    let no_later = stamped.iter().map(|time| {
        earliest = earliest.min(*time);
        earliest
    });
    let no_later = no_later.collect();
    let mut latest = UnixNanoseconds(0);
    let no_earlier = stamped.iter().rev().map(|time| {
        latest = latest.max(*time);
        latest
    });
    let mut no_earlier: Vec<_> = no_earlier.collect();
    no_earlier.reverse();
    [stamped, no_later, no_earlier]
}

/// Adds what keeps points by their times.
fn apply(
    rules: &RetentionRules,
    times: &[UnixNanoseconds],
    verdicts: &mut [Verdict],
    now: UnixNanoseconds,
) {
    let mut keep = |kept: &[bool], keeper| {
        for (verdict, _) in verdicts.iter_mut().zip(kept).filter(|(_, kept)| **kept) {
            if !verdict.kept_by.contains(&keeper) {
                verdict.kept_by.push(keeper);
            }
        }
    };
    if let Some(days) = rules.days {
        let kept: Vec<_> = times
            .iter()
            .map(|time| is_within(*time, days, now))
            .collect();
        keep(&kept, Keeper::Days);
    }
    for (period, keeper, reach) in rules.periods() {
        if let Some(reach) = reach {
            keep(&one_each(times, period, reach, now), keeper);
        }
    }
}

/// What keeps a point whatever the rules say.
fn untouchable(point: &RetainedPoint, rules: &RetentionRules, now: UnixNanoseconds) -> Vec<Keeper> {
    let mut keepers = Vec::new();
    if rules.is_empty() {
        keepers.push(Keeper::NoRule);
    }
    if point.held {
        keepers.push(Keeper::Held);
    }
    if point.created > now {
        keepers.push(Keeper::Future);
    }
    keepers
}

/// Which points are the newest of their period, as far as the rule reaches.
fn one_each(
    times: &[UnixNanoseconds],
    period: Period,
    reach: Reach,
    now: UnixNanoseconds,
) -> Vec<bool> {
    let mut seen = std::collections::BTreeSet::new();
    let kept = times.iter().map(|time| {
        let is_first = seen.insert(period.ordinal(*time));
        is_first
            && match reach {
                Reach::Count(count) => seen.len() as u64 <= u64::from(count),
                Reach::Days(days) => is_within(*time, days, now),
            }
    });
    kept.collect()
}

fn is_within(created: UnixNanoseconds, days: u32, now: UnixNanoseconds) -> bool {
    let reach = u64::from(days).saturating_mul(DAY_NANOSECONDS);
    now.0.saturating_sub(created.0) <= reach
}

const DAY_NANOSECONDS: u64 = 24 * 60 * 60 * 1_000_000_000;
