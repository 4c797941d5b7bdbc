//! What the laboratory did, in a line.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use crate::run::Counts;

/// How a story ended.
pub(crate) struct Outcome {
    pub(crate) wrong: Option<String>,
    pub(crate) counts: Counts,
    pub(crate) injected: BTreeMap<&'static str, u64>,
    pub(crate) log: Vec<String>,
}

/// Sums over stories.
pub(crate) struct Report {
    started: Instant,
    seconds: u64,
    seeds: u64,
    counts: Counts,
    injected: BTreeMap<&'static str, u64>,
    pub(crate) failed: Vec<u64>,
}

impl Report {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            seconds: 0,
            seeds: 0,
            counts: Counts::default(),
            injected: BTreeMap::new(),
            failed: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.counts.steps += outcome.counts.steps;
        self.counts.openings += outcome.counts.openings;
        self.counts.points += outcome.counts.points;
        self.counts.restores += outcome.counts.restores;
        self.counts.calls += outcome.counts.calls;
        self.counts.collections += outcome.counts.collections;
        self.counts.removed_packs += outcome.counts.removed_packs;
        self.counts.mended_pages += outcome.counts.mended_pages;
        self.counts.losses += outcome.counts.losses;
        for (what, count) in &outcome.injected {
            *self.injected.entry(what).or_default() += count;
        }
        if outcome.wrong.is_some() {
            self.failed.push(seed);
        }
    }

    pub(crate) fn end(&mut self) {
        self.seconds = self.started.elapsed().as_secs();
        self.failed.sort_unstable();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            steps,
            openings,
            points,
            restores,
            calls,
            collections,
            removed_packs,
            mended_pages,
            losses,
        } = self.counts;
        write!(
            formatter,
            "laboratory: {} seeds, {} steps, {} changing calls to the disk, {} points made, {} openings, {} points compared, {} collections, {} packs removed, {} pages mended, {} losses looked at; {}; {} failures{}, {} s",
            grouped(self.seeds),
            grouped(steps),
            grouped(calls),
            grouped(points),
            grouped(openings),
            grouped(restores),
            grouped(collections),
            grouped(removed_packs),
            grouped(mended_pages),
            grouped(losses),
            faults(&self.injected),
            self.failed.len(),
            match self.failed.as_slice() {
                [] => String::new(),
                failed => format!(" (seeds {failed:?})"),
            },
            self.seconds,
        )
    }
}

/// What went wrong with the disk, in words.
pub(crate) fn faults(injected: &BTreeMap<&'static str, u64>) -> String {
    let each: Vec<String> = injected
        .iter()
        .map(|(what, count)| format!("{} {what}", grouped(*count)))
        .collect();
    each.join(", ")
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
