//! File systems that a test mounts for itself.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system, until it is dropped.
pub(crate) struct Mounted {
    folder: TempDir,
}

impl Mounted {
    /// An ext4 of so many MiB in a file. `None` without root, or without what it takes, but not where `CI` is set.
    pub(crate) fn ext4(mebibytes: u64) -> Option<Self> {
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            return skip("mounting a file system takes root");
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image)
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        let made = Self { folder };
        fs::create_dir(made.root()).unwrap();
        let (image, root) = (image.to_str().unwrap(), made.root());
        // Nothing is set aside for root, so that a full one is full.
        if !run("mkfs.ext4", &["-q", "-m", "0", image])
            || !run("mount", &["-o", "loop", image, root.to_str().unwrap()])
        {
            return skip("no file system can be made and mounted here");
        }
        Some(made)
    }

    /// Where it is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// From now on nobody can write to it.
    pub(crate) fn make_read_only(&self) {
        let root = self.root();
        assert!(run("mount", &["-o", "remount,ro", root.to_str().unwrap()]));
        assert!(fs::write(root.join("x"), b"x").is_err());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["--lazy", self.root().to_str().unwrap()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .is_ok_and(|output| output.status.success())
}

#[expect(
    clippy::print_stderr,
    reason = "the person at the terminal must see what was left out"
)]
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "cannot run: {reason}");
    eprintln!("SKIPPED: {reason}");
    None
}

/// Copies a folder with all below it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}
