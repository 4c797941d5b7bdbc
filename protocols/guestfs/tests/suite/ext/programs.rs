//! The programs of e2fsprogs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::image::run;

/// Makes a filesystem of `size` with the content of `folder`.
pub(crate) fn mke2fs(image: &Path, size: &str, folder: Option<&Path>, options: &[&str]) {
    let mut command = Command::new("mke2fs");
    command.args([
        "-q",
        "-F",
        "-E",
        "hash_seed=6b1f3d5a-7f0c-4b4e-9c51-0f6e3c2f9a10",
    ]);
    command.args(options);
    if let Some(folder) = folder {
        command.arg("-d").arg(folder);
    }
    run(command.arg(image).arg(size));
}

/// Runs commands of debugfs that change an image.
pub(crate) fn debugfs(image: &Path, commands: &[&str]) -> String {
    let script = image.with_extension("debugfs");
    fs::write(&script, commands.join("\n") + "\n").unwrap();
    let output = Command::new("debugfs")
        .args(["-w", "-f"])
        .arg(&script)
        .arg(image)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.lines().count() <= 1,
        "debugfs says more than its version: {said}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
