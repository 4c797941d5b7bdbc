//! The programs of xfsprogs, and the kernel's own XFS.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use crate::image::{Mount, run, tree, volume};
use crate::manifest::{Manifest, compare, of_folder, of_tree};

/// Makes a filesystem of `megabytes`. The variables let mkfs make one that is smaller than what it takes for sensible.
pub(crate) fn mkfs(image: &Path, megabytes: u64, options: &str) {
    let file = File::create(image).unwrap();
    file.set_len(megabytes << 20).unwrap();
    run(Command::new("mkfs.xfs")
        .args(["-q", "-f"])
        .envs(["TEST_DIR", "TEST_DEV", "QA_CHECK_FS"].map(|name| (name, "yes")))
        .args(options.split_whitespace())
        .arg(image));
}

pub(crate) fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("--sparse=always").args([from, to]));
}

/// What the kernel makes of an image, of which it gets a copy; `None` where it refuses.
pub(crate) fn by_kernel(image: &Path) -> Option<Manifest> {
    let replayed = image.with_extension("replayed");
    copy(image, &replayed);
    let manifest =
        Mount::new(&replayed, "xfs", "nouuid,noatime").map(|mount| of_folder(mount.path()));
    fs::remove_file(&replayed).unwrap();
    manifest
}

/// Stops a filesystem at once, or after the log is written.
pub(crate) fn shut_down(mount: &Path, how: &str) {
    run(Command::new("xfs_io").args(["-x", "-c", how]).arg(mount));
}

/// Copies what is in use to an image that is otherwise full of rubbish: it must be as good as the original, to the reader
/// and to the kernel.
pub(crate) fn check_used_copy(image: &Path, expected: &Manifest, what: &str) {
    let copied = image.with_extension("used");
    let source = File::open(image).unwrap();
    let length = source.metadata().unwrap().len();
    let target = File::create(&copied).unwrap();
    let rubbish = vec![0x5A; 1 << 20];
    for at in (0..length).step_by(1 << 20) {
        let rest = usize::try_from((length - at).min(1 << 20)).unwrap();
        target.write_all_at(&rubbish[..rest], at).unwrap();
    }
    let mut used = 0;
    for range in volume(image).allocated().unwrap() {
        let range = range.unwrap();
        used += range.end - range.start;
        let mut at = range.start;
        while at < range.end {
            let step = (range.end - at).min(1 << 20);
            let mut bytes = vec![0; usize::try_from(step).unwrap()];
            source.read_exact_at(&mut bytes, at).unwrap();
            target.write_all_at(&bytes, at).unwrap();
            at += step;
        }
    }
    println!("{what}: {used} of {length} bytes are in use");
    assert!(used < length);
    compare(&of_tree(&*tree(&copied)), expected, what);
    let original = image.with_extension("original");
    copy(image, &original);
    let checked = [&copied, &original].map(|image| {
        let mount = Mount::new(image, "xfs", "nouuid,noatime").unwrap();
        compare(&of_folder(mount.path()), expected, what);
        drop(mount);
        let output = Command::new("xfs_repair")
            .args(["-n", "-f"])
            .arg(image)
            .output();
        output.unwrap().status.code()
    });
    // The kernel itself may leave inodes that were removed while open to a later mount.
    assert_eq!(checked[0], checked[1], "{what}");
    fs::remove_file(&original).unwrap();
    fs::remove_file(&copied).unwrap();
}
