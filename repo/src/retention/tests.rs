//! Rules by example, and what holds for all rules.

use proptest::prelude::*;

use super::{Keeper, Reach, RetainedPoint, RetentionRules, Verdict, judge};
use crate::clock::UnixNanoseconds;

const HOUR: u64 = 3_600_000_000_000;
const DAY: u64 = 24 * HOUR;

fn moment(text: &str) -> UnixNanoseconds {
    let moment: jiff::Timestamp = text.parse().unwrap();
    UnixNanoseconds(u64::try_from(moment.as_nanosecond()).unwrap())
}

fn point(sequence: u64, created: UnixNanoseconds) -> RetainedPoint {
    RetainedPoint {
        name: format!("web@{sequence}").parse().unwrap(),
        created,
        held: false,
    }
}

/// Points every six hours, the last one at `end`.
fn four_a_day(count: u64, end: UnixNanoseconds) -> Vec<RetainedPoint> {
    (0..count)
        .map(|number| {
            point(
                number + 1,
                UnixNanoseconds(end.0 - (count - 1 - number) * DAY / 4),
            )
        })
        .collect()
}

fn kept(verdicts: &[Verdict]) -> Vec<u64> {
    let kept = verdicts.iter().filter(|verdict| !verdict.goes());
    kept.map(|verdict| verdict.point.sequence).collect()
}

#[test]
fn last_and_daily_by_count_and_by_days() {
    let now = moment("2026-11-26T18:30:00Z");
    let points = four_a_day(40, moment("2026-11-26T18:00:00Z"));
    let check = |rules: RetentionRules, expected: &[u64]| {
        assert_eq!(kept(&judge(&points, &rules, now)), expected, "{rules:?}");
    };
    check(
        RetentionRules {
            last: Some(3),
            ..Default::default()
        },
        &[40, 39, 38],
    );
    let daily = |reach| RetentionRules {
        daily: Some(reach),
        ..Default::default()
    };
    // Days end with the points of 18:00: 40, 36, 32, ...
    check(daily(Reach::Count(4)), &[40, 36, 32, 28]);
    check(daily(Reach::Days(2)), &[40, 36]);
    check(
        RetentionRules {
            days: Some(1),
            ..Default::default()
        },
        &[40, 39, 38, 37],
    );
    check(
        RetentionRules::default(),
        &(1..=40).rev().collect::<Vec<_>>(),
    );
    check(
        RetentionRules {
            last: Some(0),
            ..Default::default()
        },
        &[40],
    );
}

#[test]
fn weeks_begin_on_monday_and_months_and_years_with_their_first_day() {
    let rules = RetentionRules {
        weekly: Some(Reach::Count(2)),
        monthly: Some(Reach::Count(2)),
        yearly: Some(Reach::Count(2)),
        ..Default::default()
    };
    let points = [
        point(1, moment("2025-12-30T12:00:00Z")),
        point(2, moment("2025-12-31T23:59:59Z")),
        point(3, moment("2026-01-01T00:00:00Z")),
        point(4, moment("2026-11-22T23:59:59Z")), // a Sunday
        point(5, moment("2026-11-23T00:00:00Z")), // a Monday
        point(6, moment("2026-11-24T00:00:00Z")),
    ];
    let verdicts = judge(&points, &rules, moment("2026-11-25T00:00:00Z"));
    let of = |sequence: u64| {
        let found = verdicts
            .iter()
            .find(|verdict| verdict.point.sequence == sequence);
        found.unwrap().kept_by.clone()
    };
    assert_eq!(
        of(6),
        [
            Keeper::Newest,
            Keeper::Weekly,
            Keeper::Monthly,
            Keeper::Yearly
        ]
    );
    assert_eq!(of(5), []);
    assert_eq!(of(4), [Keeper::Weekly]);
    assert_eq!(of(3), [Keeper::Monthly]);
    assert_eq!(of(2), [Keeper::Yearly]);
    assert_eq!(of(1), []);
}

#[test]
fn held_points_stay_and_do_not_take_the_place_of_others_by_count() {
    let mut points = four_a_day(8, moment("2026-11-26T18:00:00Z"));
    points[0].held = true;
    let rules = RetentionRules {
        last: Some(2),
        ..Default::default()
    };
    let verdicts = judge(&points, &rules, moment("2026-11-26T18:00:00Z"));
    assert_eq!(kept(&verdicts), [8, 7, 1]);
}

#[test]
fn a_clock_that_was_ahead_expires_nothing() {
    let rules = RetentionRules {
        days: Some(7),
        ..Default::default()
    };
    let mut points = four_a_day(8, moment("2026-11-26T18:00:00Z"));
    points[2].created = moment("2099-01-01T00:00:00Z");
    let verdicts = judge(&points, &rules, moment("2026-11-26T18:00:00Z"));
    assert_eq!(verdicts[5].kept_by, [Keeper::Future, Keeper::Days]);
}

#[test]
fn a_clock_that_was_behind_expires_nothing() {
    let now = moment("2026-11-26T18:30:00Z");
    let mut points = four_a_day(20, moment("2026-11-26T18:00:00Z"));
    points[15].created = moment("2020-01-01T00:00:00Z");
    let rules = RetentionRules {
        days: Some(2),
        ..Default::default()
    };
    let verdicts = judge(&points, &rules, now);
    assert_eq!(kept(&verdicts), (13..=20).rev().collect::<Vec<_>>());
}

#[test]
fn points_from_a_clock_that_was_ahead_take_no_place_of_others() {
    let now = moment("2026-11-26T18:30:00Z");
    let sound = four_a_day(40, moment("2026-11-26T18:00:00Z"));
    let mut points = sound.clone();
    for (number, point) in (0_u64..).zip(points.iter_mut().skip(20).take(6)) {
        point.created = UnixNanoseconds(now.0 + (number + 1) * 30 * DAY);
    }
    let rules = RetentionRules {
        daily: Some(Reach::Count(4)),
        monthly: Some(Reach::Count(2)),
        ..Default::default()
    };
    let kept_now = kept(&judge(&points, &rules, now));
    for sequence in kept(&judge(&sound, &rules, now)) {
        assert!(kept_now.contains(&sequence), "{sequence}: {kept_now:?}");
    }
    // And when the time has come that they say, the days in between are still told apart.
    let later = UnixNanoseconds(now.0 + 365 * DAY);
    let kept_later = kept(&judge(&points, &rules, later));
    for sequence in kept(&judge(&sound, &rules, later)) {
        assert!(kept_later.contains(&sequence), "{sequence}: {kept_later:?}");
    }
}

fn rules() -> impl Strategy<Value = RetentionRules> {
    let reach = || {
        prop::option::of(prop_oneof![
            (0..6_u32).prop_map(Reach::Count),
            (0..400_u32).prop_map(Reach::Days)
        ])
    };
    (
        prop::option::of(0..6_u32),
        prop::option::of(0..30_u32),
        reach(),
        reach(),
        reach(),
        reach(),
        reach(),
    )
        .prop_map(
            |(last, days, hourly, daily, weekly, monthly, yearly)| RetentionRules {
                last,
                days,
                hourly,
                daily,
                weekly,
                monthly,
                yearly,
            },
        )
}

fn points() -> impl Strategy<Value = Vec<RetainedPoint>> {
    let steps = prop::collection::vec((0..200_u64, prop::bool::weighted(0.1)), 1..40);
    steps.prop_map(|steps| {
        let mut at = moment("2024-02-27T07:00:00Z").0;
        let mut points = Vec::new();
        for (number, (hours, held)) in (1..).zip(steps) {
            at += hours * HOUR;
            points.push(RetainedPoint {
                held,
                ..point(number, UnixNanoseconds(at))
            });
        }
        points
    })
}

proptest! {
    #[test]
    fn whatever_the_rules_say(points in points(), rules in rules(), later in 0..2000_u64) {
        let last = points.last().unwrap().created;
        let now = UnixNanoseconds(last.0 + later * HOUR);
        let verdicts = judge(&points, &rules, now);
        prop_assert_eq!(verdicts.len(), points.len());
        // The newest and those that are held stay.
        prop_assert!(!verdicts[0].goes());
        for point in points.iter().filter(|point| point.held) {
            let verdict = verdicts.iter().find(|verdict| verdict.point == point.name).unwrap();
            prop_assert!(!verdict.goes());
        }
        // Expiring what goes and asking again expires nothing more: a rule is no ratchet.
        let goes: Vec<_> = verdicts.iter().filter(|verdict| verdict.goes()).map(|verdict| &verdict.point).collect();
        let rest: Vec<_> = points.iter().filter(|point| !goes.contains(&&point.name)).cloned().collect();
        let again = judge(&rest, &rules, now);
        prop_assert!(again.iter().all(|verdict| !verdict.goes()), "{:?} then {:?}", verdicts, again);
        // A rule more keeps no less.
        let more = RetentionRules { last: Some(rules.last.unwrap_or(0) + 2), ..rules.clone() };
        if !rules.is_empty() {
            let kept_more = judge(&points, &more, now);
            for (one, other) in verdicts.iter().zip(&kept_more) {
                prop_assert!(one.goes() || !other.goes());
            }
        }
        // Each period that a rule reaches has a point that stays.
        if let Some(Reach::Count(count)) = rules.daily {
            let mut days: Vec<u64> = points.iter().map(|point| point.created.0 / DAY).collect();
            days.dedup();
            for day in days.iter().rev().take(usize::try_from(count).unwrap()) {
                let stays = verdicts.iter().any(|verdict| !verdict.goes() && verdict.created.0 / DAY == *day);
                prop_assert!(stays, "day {}", day);
            }
        }
    }
}
