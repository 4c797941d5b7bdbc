//! What is in use, proven by copying nothing else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::programs::{forget_since, now};
use crate::image::{Mount, tree, volume};
use crate::manifest::{Manifest, compare, of_folder, of_tree};

/// Copies what is in use to an image that is otherwise full of rubbish: it must be as good as the original.
pub(crate) fn check_used_copy(image: &Path, expected: &Manifest, what: &str) {
    let copied = image.with_extension("used");
    let source = File::open(image).unwrap();
    let length = source.metadata().unwrap().len();
    let target = File::create(&copied).unwrap();
    let rubbish = vec![0x5A; 1 << 20];
    for at in (0..length).step_by(1 << 20) {
        target.write_all_at(&rubbish, at).unwrap();
    }
    let mut copied_bytes = 0;
    for range in volume(image).allocated().unwrap() {
        let range = range.unwrap();
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
        source.read_exact_at(&mut bytes, range.start).unwrap();
        target.write_all_at(&bytes, range.start).unwrap();
        copied_bytes += range.end - range.start;
    }
    println!("{what}: {copied_bytes} of {length} bytes are in use");
    assert!(
        copied_bytes < length * 3 / 4,
        "{what}: there is something to leave out"
    );
    let moment = now(image.parent().unwrap());
    let found = of_tree(&*tree(&copied));
    compare(&found, expected, what);
    let checked = Command::new("btrfs")
        .args(["check", "--readonly", "--check-data-csum", "--force"])
        .arg(&copied)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{what}: {checked:?}");
    let mount = Mount::new(&copied, "btrfs", "noatime").unwrap();
    let mut by_kernel = of_folder(mount.path());
    drop(mount);
    forget_since(&mut by_kernel, &found, moment);
    compare(&found, &by_kernel, what);
    fs::remove_file(&copied).unwrap();
}
