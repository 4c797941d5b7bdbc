//! Damaged discs.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::tempdir;

use super::content::make;
use crate::fat::damage::small_tree;
use crate::image::have;
use crate::mutation::check_damaged;

#[test]
fn damaged_discs_do_no_harm() {
    if !have("genisoimage") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    small_tree(&source);
    fs::create_dir_all(source.join("1/2/3/4/5/6/7/8/9")).unwrap();
    fs::write(source.join("1/2/3/4/5/6/7/8/9/deep"), "content").unwrap();
    symlink("long/".repeat(100), source.join("link")).unwrap();
    symlink("short", source.join("1/link")).unwrap();
    let image = home.path().join("image");
    for (program, options) in [
        ("xorriso", "-R"),
        ("genisoimage", "-R"),
        ("genisoimage", "-J -input-charset utf-8"),
    ] {
        if program == "genisoimage" {
            // It takes for ever to write one of so many parts.
            drop(fs::remove_file(source.join("link")));
        }
        make(program, &image, &source, options);
        check_damaged(options, fs::read(&image).unwrap());
    }
}
