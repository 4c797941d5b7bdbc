//! What a test needs of the machine: programs, rights, room.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Finds `program` on the path. Without it a test is skipped on a laptop and fails where `CI` is set.
///
/// ```no_run
/// let Some(qemu_img) = support::need("qemu-img") else { return };
/// ```
pub fn need(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        skip(&format!("there is no {program}: tests/run installs it"));
    }
    found
}

/// Finds the Python that has the packages of the reader of another language, which tests/run installs.
pub fn need_reader_python() -> Option<PathBuf> {
    let python = target_folder().join("reader/bin/python");
    if python.is_file() {
        return Some(python);
    }
    skip("there is no environment for tests/reader: tests/run makes it");
    None
}

/// Says whether the test runs as root, which ports below 1024 and the making of the guest take.
pub fn need_root() -> Option<()> {
    if rustix::process::geteuid().is_root() {
        return Some(());
    }
    skip("this test takes root");
    None
}

/// A folder for one test's files, on a disk rather than in RAM, removed at the end.
pub fn scratch() -> TempDir {
    let parent = target_folder().join("tmp");
    fs::create_dir_all(&parent).expect("the target folder is writable");
    tempfile::tempdir_in(parent).expect("a folder for the test's files")
}

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests is a folder of the workspace")
}

/// Cargo's target folder: the test binary lies in its `PROFILE/deps`.
pub(crate) fn target_folder() -> PathBuf {
    let profile = profile_folder();
    profile
        .parent()
        .expect("PROFILE has a parent")
        .to_path_buf()
}

/// Where cargo puts the binaries of the profile that this test was built with.
pub(crate) fn profile_folder() -> PathBuf {
    let binary = env::current_exe().expect("a running test has a path");
    binary
        .ancestors()
        .nth(2)
        .expect("tests lie in PROFILE/deps")
        .to_path_buf()
}

/// Tells why a test does not run; where `CI` is set, that is a failure.
#[expect(
    clippy::print_stderr,
    reason = "the person at the terminal must see what was left out"
)]
pub(crate) fn skip(reason: &str) {
    assert!(env::var_os("CI").is_none(), "cannot run: {reason}");
    eprintln!("SKIPPED: {reason}");
}
