//! Single files out of a disk backup.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::{Daemon, need};

const MIB: u64 = 1 << 20;

/// Files as a guest may have them.
fn plant(tree: &Path) {
    fs::create_dir_all(tree.join("etc/deep/deeper")).unwrap();
    fs::create_dir(tree.join("many")).unwrap();
    fs::write(tree.join("etc/hostname"), "guest\n").unwrap();
    fs::write(tree.join("etc/deep/deeper/grüße.txt"), "umlaut").unwrap();
    let big: Vec<u8> = (0..900_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(tree.join("etc/big"), big).unwrap();
    let sparse = fs::File::create(tree.join("etc/sparse")).unwrap();
    sparse.set_len(5 * MIB).unwrap();
    sparse.write_all_at(b"island", 3 * MIB + 77).unwrap();
    std::os::unix::fs::symlink("hostname", tree.join("etc/link")).unwrap();
    for number in 0..2500 {
        fs::write(tree.join(format!("many/file-{number}")), number.to_string()).unwrap();
    }
    let secret = tree.join("etc/deep/secret");
    fs::write(&secret, "s").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).unwrap();
    let comment = ("user.comment", b"kept");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&secret, comment.0, comment.1, flags).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    fs::File::options()
        .write(true)
        .open(tree.join("etc/hostname"))
        .unwrap()
        .set_modified(then)
        .unwrap();
}

/// A disk with an MBR, an ext4 filesystem in its first partition and nothing in its second.
fn make_disk(tree: &Path, disk: &Path) {
    let partition = disk.with_extension("ext4");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(tree)
        .arg(&partition)
        .arg("48M")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let content = fs::read(partition).unwrap();
    let file = fs::File::create(disk).unwrap();
    file.set_len(64 * MIB).unwrap();
    file.write_all_at(&content, MIB).unwrap();
    let mut table = [0_u8; 66];
    for (slot, first, count) in [(0, 2048_u32, 48 * 2048_u32), (1, 50 * 2048, 8 * 2048)] {
        let entry = &mut table[slot * 16..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&count.to_le_bytes());
    }
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&table, 446).unwrap();
}

fn paths(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect()
}

fn assert_same_trees(one: &Path, other: &Path) {
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "lost+found")
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(one), names(other));
    for name in names(one) {
        let (one, other) = (one.join(&name), other.join(&name));
        let (left, right) = (
            fs::symlink_metadata(&one).unwrap(),
            fs::symlink_metadata(&other).unwrap(),
        );
        assert_eq!(left.file_type(), right.file_type(), "{}", one.display());
        if left.is_dir() {
            assert_same_trees(&one, &other);
        } else if left.is_symlink() {
            assert_eq!(fs::read_link(&one).unwrap(), fs::read_link(&other).unwrap());
        } else {
            assert!(
                fs::read(&one).unwrap() == fs::read(&other).unwrap(),
                "{}",
                one.display()
            );
            assert_eq!(left.mode(), right.mode(), "{}", one.display());
            assert_eq!(left.mtime(), right.mtime(), "{}", one.display());
        }
    }
}

/// A daemon that has backed up the disk of `tree`.
fn backed_up() -> Option<(Daemon, PathBuf)> {
    if !need("mke2fs") {
        return None;
    }
    let daemon = Daemon::start();
    let (tree, disk) = (daemon.path("tree"), daemon.path("disk.raw"));
    plant(&tree);
    make_disk(&tree, &disk);
    daemon.json(&["backup", "image", "web01", disk.to_str().unwrap()]);
    Some((daemon, tree))
}

#[test]
fn what_lies_on_a_disk_is_listed() {
    let Some((daemon, _)) = backed_up() else {
        return;
    };
    let point = "web01@1";
    assert_eq!(paths(&daemon.json(&["files", "list", point])), ["disk-0"]);
    let volumes = daemon.json(&["files", "list", point, "disk-0"]);
    assert_eq!(paths(&volumes), ["disk-0/p1", "disk-0/p2.txt"]);
    let etc = daemon.json(&["files", "list", point, "disk-0/p1/etc"]);
    let mut names = paths(&etc);
    names.sort_unstable();
    let at = |name: &str| format!("disk-0/p1/etc/{name}");
    assert_eq!(names, ["big", "deep", "hostname", "link", "sparse"].map(at));
    let file = |name: &str| {
        let list = etc.as_array().unwrap();
        let found = list.iter().find(|file| file["path"] == json!(at(name)));
        found.unwrap().clone()
    };
    assert_eq!(file("link")["target"], "hostname");
    assert_eq!(file("hostname")["modified"], "2017-07-14T02:40:00Z");
    assert_eq!(file("sparse")["size_bytes"], json!(5 * MIB));
    let found = daemon.json(&["files", "list", point, "--name", "secret"]);
    assert_eq!(paths(&found), ["disk-0/p1/etc/deep/secret"]);
    let many = daemon.json(&["files", "list", point, "disk-0/p1/many"]);
    assert_eq!(many.as_array().unwrap().len(), 2500);

    // What is not there is told, and no session is left.
    let missing = daemon.cli(&["files", "list", point, "disk-0/p1/etc/nothing"]);
    let text = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(text.contains("disk-0/p1/etc has no nothing"), "{text}");
    assert_eq!(daemon.json(&["recover", "list"]), json!([]));
}

#[test]
fn a_file_comes_out_of_a_disk_and_goes_on_where_it_was_cut() {
    let Some((daemon, tree)) = backed_up() else {
        return;
    };
    let point = "web01@1";
    let out = daemon.path("big");
    let out_text = out.to_str().unwrap();
    let big = ["files", "get", point, "disk-0/p1/etc/big", "--to", out_text];
    daemon.json(&big);
    let wanted = fs::read(tree.join("etc/big")).unwrap();
    assert!(fs::read(&out).unwrap() == wanted);
    let refused = daemon.cli(&big);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && text.contains("is there already"),
        "{text}"
    );
    let cut = fs::File::options().write(true).open(&out).unwrap();
    cut.set_len(1_234_567).unwrap();
    daemon.json(&[&big[..], &["--resume"]].concat());
    assert!(fs::read(&out).unwrap() == wanted);
    let printed = daemon.cli(&["files", "get", point, "disk-0/p1/etc/hostname", "--to", "-"]);
    assert_eq!(printed.stdout, b"guest\n");
    let printed = daemon.cli(&["files", "get", point, "disk-0/p2.txt", "--to", "-"]);
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(
        text.starts_with("The files of p2 are not shown: "),
        "{text}"
    );
}

#[test]
fn a_folder_comes_out_of_a_disk_as_it_is_and_as_an_archive() {
    let Some((daemon, tree)) = backed_up() else {
        return;
    };
    let point = "web01@1";
    let out = daemon.path("copied");
    let done = daemon.json(&[
        "files",
        "get",
        point,
        "disk-0/p1",
        "--to",
        out.to_str().unwrap(),
    ]);
    assert_eq!(done["left_out"], json!([]));
    assert_same_trees(&tree, &out);
    let mut comment = [0; 16];
    let secret = out.join("etc/deep/secret");
    let length = rustix::fs::getxattr(&secret, "user.comment", &mut comment).unwrap();
    assert_eq!(&comment[..length], b"kept");
    let sparse = fs::metadata(out.join("etc/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < MIB, "holes stay holes");
    let archive = daemon.path("copied.tar");
    let archive = archive.to_str().unwrap();
    daemon.json(&["files", "get", point, "disk-0/p1", "--to", archive]);
    let unpacked = daemon.path("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let tar = Command::new("tar")
        .args(["--same-permissions", "-xf", archive, "-C"])
        .arg(&unpacked)
        .output()
        .unwrap();
    assert!(tar.status.success(), "{tar:?}");
    assert_same_trees(&tree, &unpacked);
}
