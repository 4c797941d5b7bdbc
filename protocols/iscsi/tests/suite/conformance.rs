//! libiscsi's test suite against the target: every family, and the tests that need two paths.
//!
//! No test may fail, and none may be left out but for the reasons that docs/protocols/scsi.md lists.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use export::{BlockingPool, MemoryDisk};
use iscsi::{Authentication, Limits};
use scsi::{LunMask, UnitOptions};

use crate::support::{Fixture, TARGET, need};

/// Why the suite leaves tests out, and that this is as it should be.
const ALLOWED: &[&str] = &[
    "--allow-sanitize flag is not set.",
    "LBPPB < 2.",
    "Logical unit is not removable.",
    "Logical unit is not write-protected.",
    "Media is not removable.",
    ONE_PATH,
    "WRITESAME10 does not support 0-blocks.",
    "WRITESAME16 does not support 0-blocks.",
];

/// Why tests are left out that get only one URL.
const ONE_PATH: &str = "Multipath unavailable.";

/// What one run of the suite told.
#[derive(Debug, Default)]
struct Told {
    passed: usize,
    failed: Vec<String>,
    skipped: BTreeMap<String, usize>,
}

impl Told {
    /// Runs every suite of `family` in a process of its own.
    fn of(family: &str, urls: &[String]) -> Self {
        let mut told = Self::default();
        let list = Command::new("iscsi-test-cu").arg("-l").output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        let suites = list.lines().filter(|line| {
            line.split_once('.')
                .is_some_and(|(name, suite)| name == family && !suite.contains('.'))
        });
        for suite in suites {
            told.run(suite, urls);
        }
        assert!(told.passed > 0, "the family {family} is there");
        told
    }

    fn run(&mut self, suite: &str, urls: &[String]) {
        // Its report and its remarks go to different places, and only unbuffered into the right order.
        let script =
            "exec timeout -k 5 120 stdbuf -o0 -e0 iscsi-test-cu -d -n -t \"$0\" \"$@\" 2>&1";
        let output = Command::new("sh")
            .args(["-c", script, suite])
            .args(urls)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // `tests  TOTAL RUN PASSED FAILED INACTIVE`
        let counts: Option<Vec<usize>> = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("tests "))
            .map(|counts| {
                counts
                    .split_whitespace()
                    .map_while(|one| one.parse().ok())
                    .collect()
            });
        match counts.as_deref() {
            Some([total, run, passed, 0, ..]) if total == run => self.passed += passed,
            _ => self.failed.push(format!("{suite}:\n{text}")),
        }
        for line in text.lines() {
            if let Some((_, reason)) = line.split_once("[SKIPPED] ") {
                *self.skipped.entry(reason.trim().to_owned()).or_default() += 1;
            }
        }
    }

    fn check(&self) {
        assert!(self.failed.is_empty(), "{}", self.failed.join("\n\n"));
        let allowed = |reason: &&String| ALLOWED.iter().any(|allowed| reason.contains(allowed));
        let others: Vec<_> = self
            .skipped
            .keys()
            .filter(|reason| !allowed(reason))
            .collect();
        assert!(others.is_empty(), "left out: {others:#?}");
    }
}

/// A thin disk that can be written, as unit 1. Its physical blocks have one logical block each, because a test of GET LBA
/// STATUS does not expect others.
fn fixture() -> (Fixture, Vec<String>) {
    let options = UnitOptions {
        physical_block_bytes: Some(512),
        ..UnitOptions::default()
    };
    let fixture = Fixture::empty(Limits::default(), BlockingPool::start(2, 64).unwrap());
    let disk = Arc::new(MemoryDisk::new(64 << 20));
    fixture.target.attach(1, disk, options).unwrap();
    fixture.allow("*", LunMask::All, Authentication::None);
    let url = |portal| format!("iscsi://{portal}/{TARGET}/1");
    let urls = vec![url(fixture.portal()), url(fixture.second_portal())];
    (fixture, urls)
}

fn family(name: &str) {
    if !need("iscsi-test-cu") {
        return;
    }
    let (fixture, urls) = fixture();
    Told::of(name, &urls[..1]).check();
    drop(fixture);
}

#[test]
fn the_family_iscsi() {
    family("iSCSI");
}

#[test]
fn the_family_scsi() {
    family("SCSI");
}

#[test]
fn the_family_linux() {
    family("LINUX");
}

#[test]
fn the_tests_with_two_paths() {
    if !need("iscsi-test-cu") {
        return;
    }
    let (fixture, urls) = fixture();
    let mut told = Told::default();
    for suite in [
        "SCSI.MultipathIO",
        "SCSI.CompareAndWrite",
        "SCSI.ProutReserve",
        "SCSI.ProutPreempt",
    ] {
        told.run(suite, &urls);
    }
    told.check();
    let one_path = |reason: &String| reason.contains(ONE_PATH);
    assert!(!told.skipped.keys().any(one_path), "both paths are used");
    drop(fixture);
}
