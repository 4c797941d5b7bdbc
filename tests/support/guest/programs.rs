//! A disk with the daemon on it, for a guest that runs it itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::need::{need, profile_folder};
use crate::process::run;

/// Makes an ext4 image at `image` with `holdfast`, and with the libraries that it needs in `lib`. Gives `None`, after
/// saying why, on a machine that cannot make one.
pub fn disk_with_daemon(image: &Path) -> Option<()> {
    let format = need("mkfs.ext4")?;
    let strip = need("strip")?;
    let tree = image.with_extension("tree");
    let libraries = tree.join("lib");
    fs::create_dir_all(&libraries).expect("the test's folder is writable");
    let program = profile_folder().join("holdfast");
    run(Command::new(strip)
        .arg("--strip-debug")
        .arg("-o")
        .arg(tree.join("holdfast"))
        .arg(&program));
    for library in needed_by(&program) {
        let name = library.file_name().expect("a library has a name");
        fs::copy(&library, libraries.join(name)).expect("a library can be copied");
    }
    run(Command::new("truncate").args(["-s", "256M"]).arg(image));
    run(Command::new(format)
        .args(["-q", "-F", "-d"])
        .arg(&tree)
        .arg(image));
    fs::remove_dir_all(&tree).expect("what was made can be removed");
    Some(())
}

/// The libraries that a program is linked with.
fn needed_by(program: &Path) -> Vec<PathBuf> {
    let text = run(Command::new("ldd").arg(program));
    let paths = text.lines().filter_map(|line| {
        let (_, path) = line.split_once("=> ")?;
        path.split_whitespace().next()
    });
    paths
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}
