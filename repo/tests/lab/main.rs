//! The crash laboratory (`docs/operations/laboratory.md`): thousands of small stories, each made from a seed, of
//! backups, overlays, restarts and everything that a disk can do wrong. After every end of the process all that was
//! acknowledged must be there, byte by byte, and nothing in part.
//!
//! `HOLDFAST_LAB_SEEDS=N` tells how many stories, `HOLDFAST_LAB_FIRST=N` the first seed, `HOLDFAST_LAB_SEED=N` tells
//! one story and prints it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "tests fail by panicking, and their numbers are small; the report is for a person"
)]

mod backups;
mod chance;
mod check;
mod content;
mod lies;
mod loss;
mod marks;
mod model;
mod overlays;
mod report;
mod rot;
mod run;
mod space;
mod story;
mod trouble;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lies::Lie;
use crate::report::{Outcome, Report};
use crate::run::Run;
use crate::story::{Step, story};

#[test]
fn everything_acknowledged_is_there_after_every_end() {
    if let Some(seed) = number("HOLDFAST_LAB_SEED") {
        return tell_one(seed);
    }
    let first = number("HOLDFAST_LAB_FIRST").unwrap_or(0);
    let count = number("HOLDFAST_LAB_SEEDS").unwrap_or(SEEDS);
    let report = tell_many(first..first + count, Lie::None, 3);
    println!("{report}");
    for seed in &report.failed {
        println!("{}", explain(*seed, Lie::None));
    }
    assert!(report.failed.is_empty(), "{report}");
}

/// A laboratory that finds nothing may be blind: each of these lies of a disk must come to light.
#[test]
fn a_disk_that_lies_is_found_out() {
    let mut unseen = Vec::new();
    for lie in Lie::ALL {
        let report = tell_many(0..LYING_SEEDS, *lie, 1);
        match report.failed.first() {
            Some(seed) => println!("{lie:?}: found by seed {seed}"),
            None => unseen.push(*lie),
        }
    }
    assert!(unseen.is_empty(), "nobody noticed: {unseen:?}");
}

/// A story that is told twice goes the same way.
#[test]
fn the_same_seed_is_the_same_story() {
    for seed in 0..6 {
        let tell = || {
            let mut run = Run::new(seed, Lie::None);
            run.tell(&story(seed)).unwrap();
            (run.log.len(), run.disk.injected(), run.counts.calls)
        };
        assert_eq!(tell(), tell(), "seed {seed}");
    }
}

/// Tells stories with two threads until `enough` have failed.
fn tell_many(seeds: std::ops::Range<u64>, lie: Lie, enough: usize) -> Report {
    let next = AtomicU64::new(seeds.start);
    let report = Mutex::new(Report::start());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || report.lock().unwrap().failed.len() >= enough {
                        return;
                    }
                    let outcome = tell(seed, &story(seed), lie);
                    report.lock().unwrap().add(seed, &outcome);
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap();
    report.end();
    report
}

/// Tells a story; a panic is a failure like any other.
fn tell(seed: u64, steps: &[Step], lie: Lie) -> Outcome {
    let mut run = Run::new(seed, lie);
    let told = catch_unwind(AssertUnwindSafe(|| run.tell(steps)));
    let wrong = match told {
        Ok(told) => told.err(),
        Err(panic) => Some(format!("it panics: {}", panic_text(&*panic))),
    };
    Outcome {
        wrong,
        counts: run.counts,
        injected: run.disk.injected(),
        log: std::mem::take(&mut run.log),
    }
}

fn tell_one(seed: u64) {
    let outcome = tell(seed, &story(seed), Lie::None);
    println!("{}", outcome.log.join("\n"));
    if outcome.wrong.is_some() {
        println!("{}", explain(seed, Lie::None));
    }
    assert!(outcome.wrong.is_none(), "{:?}", outcome.wrong);
}

/// The shortest form of a story that still fails, as a person can read it.
fn explain(seed: u64, lie: Lie) -> String {
    let whole = story(seed);
    let mut steps = whole.clone();
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            if tell(seed, &fewer, lie).wrong.is_some() {
                steps = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    let outcome = tell(seed, &steps, lie);
    let Some(wrong) = &outcome.wrong else {
        return format!("seed {seed} fails now and then only; tell it again");
    };
    format!(
        "seed {seed}: {wrong}\n  {} of its {} steps suffice:\n    {}\n  what happened:\n    {}\n  faults: {}",
        steps.len(),
        whole.len(),
        steps
            .iter()
            .map(|step| format!("{:?} {:x}", step.act, step.seed))
            .collect::<Vec<_>>()
            .join("\n    "),
        outcome.log.join("\n    "),
        report::faults(&outcome.injected),
    )
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("the laboratory's settings are numbers"))
}

const SEEDS: u64 = 3_000;
const LYING_SEEDS: u64 = 600;
const THREADS: usize = 2;
