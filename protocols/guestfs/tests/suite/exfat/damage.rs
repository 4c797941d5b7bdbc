//! Damaged images of exFAT.

use std::fs;

use tempfile::tempdir;

use super::raw::mkfs_exfat;
use crate::fat::damage::small_tree;
use crate::mutation::check_damaged;

#[test]
fn damaged_images_do_no_harm() {
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    for options in ["-c 512", "-c 4096"] {
        if mkfs_exfat(&image, 4, options, |root| {
            small_tree(root);
            fs::create_dir(root.join("$RECYCLE.BIN")).unwrap();
            fs::write(root.join("$RECYCLE.BIN/thrown"), "away").unwrap();
        })
        .is_none()
        {
            return;
        }
        check_damaged(options, fs::read(&image).unwrap());
    }
}
