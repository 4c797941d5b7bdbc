//! libiscsi's test suite against the target: every family, and the tests that need two paths.
//!
//! No test may fail, and none may be left out but for the reasons that docs/protocols/scsi.md lists.

use std::sync::Arc;

use export::{BlockingPool, MemoryDisk};
use iscsi::{Authentication, Limits};
use scsi::{LunMask, UnitOptions};

use crate::libiscsi::Told;
use crate::support::{Fixture, TARGET, need};

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
    Told::of(name, &urls[..1]).check(&[]);
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
    Told::with_two_paths(&urls).check(&[]);
    drop(fixture);
}
