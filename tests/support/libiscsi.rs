//! libiscsi's test suite: `iscsi-test-cu`, every suite in a process of its own.
//!
//! It counts a test that it leaves out as passed and says `[SKIPPED]`; docs/protocols/scsi.md lists the good reasons.

use std::collections::BTreeMap;
use std::process::Command;

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
pub struct Told {
    /// How many tests passed.
    pub passed: usize,
    /// What those said that did not, by suite and name.
    pub failed: BTreeMap<String, String>,
    /// How many were left out, by reason.
    pub skipped: BTreeMap<String, usize>,
}

impl Told {
    /// Runs every suite of `family` in a process of its own.
    pub fn of(family: &str, urls: &[String]) -> Self {
        let mut told = Self::default();
        let list = Command::new("iscsi-test-cu")
            .arg("-l")
            .output()
            .expect("iscsi-test-cu runs");
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
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

    /// Runs the suites that use two paths, if `urls` has them.
    pub fn with_two_paths(urls: &[String]) -> Self {
        let mut told = Self::default();
        for suite in [
            "SCSI.MultipathIO",
            "SCSI.CompareAndWrite",
            "SCSI.ProutReserve",
            "SCSI.ProutPreempt",
        ] {
            told.run(suite, urls);
        }
        let one_path = |reason: &String| reason.contains(ONE_PATH);
        assert!(!told.skipped.keys().any(one_path), "both paths are used");
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
            .expect("a shell runs");
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
            Some([total, run, passed, failed, ..]) if total == run => {
                self.passed += passed;
                let before = self.failed.len();
                for name in failures(&text) {
                    self.failed.insert(format!("{suite}.{name}"), text.clone());
                }
                assert_eq!(self.failed.len() - before, *failed, "{text}");
            }
            _ => drop(self.failed.insert(suite.to_owned(), text.clone())),
        }
        for line in text.lines() {
            if let Some((_, reason)) = line.split_once("[SKIPPED] ") {
                *self.skipped.entry(reason.trim().to_owned()).or_default() += 1;
            }
        }
    }

    /// Fails unless all passed but for those that `may_fail`, and none was left out without a good reason.
    pub fn check(&self, may_fail: &[&str]) {
        let failed: Vec<_> = self
            .failed
            .iter()
            .filter(|(name, _)| !may_fail.contains(&name.as_str()))
            .collect();
        assert!(failed.is_empty(), "{failed:#?}");
        let allowed = |reason: &&String| ALLOWED.iter().any(|allowed| reason.contains(allowed));
        let others: Vec<_> = self
            .skipped
            .keys()
            .filter(|reason| !allowed(reason))
            .collect();
        assert!(others.is_empty(), "left out: {others:#?}");
    }
}

/// The names of the tests that failed: `Suite SUITE, Test NAME had failures:`.
fn failures(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (_, rest) = line.trim().split_once(", Test ")?;
        rest.strip_suffix(" had failures:")
    })
}
