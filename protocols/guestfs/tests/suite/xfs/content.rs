//! Files and folders as the kernel makes them, in filesystems of every kind.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{XattrFlags, setxattr};
use tempfile::tempdir;

use super::programs::{by_kernel, check_used_copy, copy, mkfs, shut_down};
use crate::ext::content::{check_fifty_thousand, fill};
use crate::ext::crash::{change, decorate};
use crate::image::{Mount, have, run, tree, volume};
use crate::manifest::{compare, of_tree};

/// What XFS alone has, or has in another form.
pub(crate) fn adorn(root: &Path) {
    let set = |name: &str, attribute: &str, value: &[u8]| {
        setxattr(root.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    // Values in blocks of their own; so many names that their leaves have an index.
    set("size-59", "user.large", &vec![7; 65536]);
    set("size-59", "trusted.larger than a block", &vec![8; 9000]);
    for number in 0..300 {
        let value = vec![3; number];
        set(
            "size-159",
            &format!("user.one of very many {number}"),
            &value,
        );
    }
    for number in 0..40 {
        set("many", &format!("trusted.{number}"), b"of a folder");
    }
    let far = File::options()
        .append(true)
        .open(root.join("size-1"))
        .unwrap();
    far.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(5_000_000_000_123_456_789))
        .unwrap();
    run(Command::new("cp")
        .arg("--reflink=auto")
        .args([root.join("size-5242880"), root.join("shared")]));
    let shared = File::options()
        .write(true)
        .open(root.join("shared"))
        .unwrap();
    for place in [0, 12345, 3 << 20] {
        shared.write_all_at(b"its own", place).unwrap();
    }
    // Folders in every form: in one block, with one leaf, with several, in many pieces.
    for count in [1, 5, 30, 100, 1500] {
        let folder = root.join(format!("folder of {count}"));
        fs::create_dir(&folder).unwrap();
        for number in 0..count {
            File::create(folder.join(format!("{number} is the number of this one"))).unwrap();
        }
        for number in (0..count).step_by(3) {
            fs::remove_file(folder.join(format!("{number} is the number of this one"))).unwrap();
        }
    }
}

const KINDS: &[&str] = &[
    "-b size=1024 -m rmapbt=1 -i size=512,nrext64=1 -n size=4096",
    "-b size=65536 -n size=65536 -i size=2048",
    "-s size=4096 -n size=65536 -m reflink=0,bigtime=0,finobt=0,inobtcount=0 -i sparse=0 -l su=32k",
];

#[test]
fn what_the_kernel_made_is_read_after_an_end_and_after_a_crash() {
    if !have("mkfs.xfs") {
        return;
    }
    for kind in KINDS {
        let home = tempdir().unwrap();
        let image = home.path().join("image");
        mkfs(
            &image,
            if kind.contains("-b size=65536") {
                256
            } else {
                128
            },
            kind,
        );
        let Some(mount) = Mount::new(&image, "xfs", "noatime") else {
            return;
        };
        fill(mount.path());
        decorate(mount.path());
        adorn(mount.path());
        drop(mount);
        let began = Instant::now();
        let expected = by_kernel(&image).unwrap();
        compare(&of_tree(&*tree(&image)), &expected, kind);
        let mount = Mount::new(&image, "xfs", "noatime").unwrap();
        change(mount.path());
        let crashed = home.path().join("crashed");
        copy(&image, &crashed);
        drop(mount);
        let expected = by_kernel(&crashed).unwrap();
        assert!(expected.contains_key(b"/new folder/newest".as_slice()));
        compare(&of_tree(&*tree(&crashed)), &expected, kind);
        if kind.contains("rmapbt") {
            check_used_copy(&crashed, &expected, kind);
        }
        println!("{kind}: {:?}", began.elapsed());
    }
}

#[test]
fn a_folder_of_fifty_thousand_is_listed_and_searched_at_once() {
    if !have("mkfs.xfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mkfs(&image, 128, "");
    let Some(mount) = Mount::new(&image, "xfs", "noatime") else {
        return;
    };
    let folder = mount.path().join("big");
    fs::create_dir(&folder).unwrap();
    for number in 0..50_000 {
        File::create(folder.join(format!("entry number {number}"))).unwrap();
    }
    drop(mount);
    let tree = tree(&image);
    let folder = tree.lookup(tree.root(), b"big").unwrap();
    let began = Instant::now();
    let all = tree.list(folder, 0, usize::MAX).unwrap();
    println!(
        "50,000 entries: listed with attributes in {:?}",
        began.elapsed()
    );
    check_fifty_thousand(&*tree, folder, &all);
}

#[test]
fn another_uuid_leaves_the_structures_theirs() {
    if !have("xfs_admin") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mkfs(&image, 64, "-L label");
    let Some(mount) = Mount::new(&image, "xfs", "noatime") else {
        return;
    };
    fill(mount.path());
    drop(mount);
    run(Command::new("xfs_admin")
        .args(["-f", "-U", "generate"])
        .arg(&image));
    assert_eq!(volume(&image).label.as_deref(), Some("label"));
    compare(
        &of_tree(&*tree(&image)),
        &by_kernel(&image).unwrap(),
        "other uuid",
    );
    let mount = Mount::new(&image, "xfs", "noatime").unwrap();
    change(mount.path());
    shut_down(mount.path(), "shutdown -f");
    drop(mount);
    let expected = by_kernel(&image).unwrap();
    compare(&of_tree(&*tree(&image)), &expected, "other uuid, crashed");
}
