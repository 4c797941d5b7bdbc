//! Damaged images of XFS, clean and with a log to be replayed, of both versions.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{XattrFlags, setxattr};
use tempfile::tempdir;

use super::programs::{mkfs, shut_down};
use super::version_4;
use crate::image::{Mount, have};
use crate::mutation::check_damaged;

fn small_tree(folder: &Path) {
    fs::create_dir_all(folder.join("folder/inner")).unwrap();
    for number in 0..150 {
        let name = format!("folder/a name of some length {number}");
        fs::write(folder.join(name), "x".repeat(number)).unwrap();
    }
    std::os::unix::fs::symlink("t".repeat(600), folder.join("slow")).unwrap();
    std::os::unix::fs::symlink("short", folder.join("fast")).unwrap();
    let sparse = File::create(folder.join("sparse")).unwrap();
    for step in 0..400_u64 {
        sparse.write_all_at(b"island", step * 20_000).unwrap();
    }
    for (name, length) in [
        ("user.short", 20),
        ("user.in a leaf", 900),
        ("user.remote", 9000),
    ] {
        let value = vec![7; length];
        setxattr(folder.join("sparse"), name, &value, XattrFlags::empty()).unwrap();
    }
}

#[test]
fn damaged_images_do_no_harm() {
    if !have("mkfs.xfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    for how in ["clean", "shutdown -f"] {
        mkfs(&image, 16, "-b size=1024 -m reflink=0");
        let Some(mount) = Mount::new(&image, "xfs", "noatime") else {
            return;
        };
        small_tree(mount.path());
        if how != "clean" {
            shut_down(mount.path(), how);
        }
        drop(mount);
        check_damaged(&format!("version 5, {how}"), fs::read(&image).unwrap());
    }
    version_4::make(&image, 120, "-b size=512");
    check_damaged("version 4", fs::read(&image).unwrap());
}
