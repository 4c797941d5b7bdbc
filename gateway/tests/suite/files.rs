//! Single files out of a disk backup.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::{Daemon, ends_quietly, need, open_nbd, url};

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
pub(crate) fn make_disk(tree: &Path, disk: &Path) {
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

pub(crate) fn paths(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect()
}

pub(crate) fn assert_same_trees(one: &Path, other: &Path) {
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

/// A mount by the command line, in a process of its own.
pub(crate) struct Mounted {
    process: std::process::Child,
    pub(crate) folder: PathBuf,
}

impl Mounted {
    pub(crate) fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        let folder = daemon.path("mounted");
        fs::create_dir_all(&folder).unwrap();
        let mut process = daemon
            .plain_command()
            .arg("--state")
            .arg(daemon.state())
            .arg("mount")
            .args(arguments)
            .arg(&folder)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = String::new();
        let stderr = process.stderr.as_mut().unwrap();
        BufReader::new(stderr).read_line(&mut told).unwrap();
        assert!(told.contains(" is mounted on "), "{told}");
        Self { process, folder }
    }

    pub(crate) fn end(mut self, how: impl FnOnce(&Self)) {
        how(&self);
        assert!(self.process.wait().unwrap().success());
        assert_eq!(fs::read_dir(&self.folder).unwrap().count(), 0);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|done| done.is_none()) {
            drop(self.process.kill());
            drop(Command::new("umount").arg("-l").arg(&self.folder).output());
        }
    }
}

pub(crate) fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    assert!(
        can || std::env::var_os("CI").is_none(),
        "CI is root and has /dev/fuse"
    );
    can
}

#[test]
fn a_point_is_mounted_with_its_files_and_formats() {
    if !can_mount() || !need("qemu-img") {
        return;
    }
    let Some((daemon, tree)) = backed_up() else {
        return;
    };
    let mounted = Mounted::start(&daemon, &["web01@1"]);
    assert_same_trees(&tree, &mounted.folder.join("disk-0/p1"));
    let files: Vec<_> = fs::read_dir(mounted.folder.join("disk-0"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, ["p1", "p2.txt"]);
    let mut comment = [0; 16];
    let secret = mounted.folder.join("disk-0/p1/etc/deep/secret");
    let length = rustix::fs::getxattr(&secret, "user.comment", &mut comment).unwrap();
    assert_eq!(&comment[..length], b"kept");
    let raw = mounted.folder.join("disk-0.raw");
    assert!(fs::read(&raw).unwrap() == fs::read(daemon.path("disk.raw")).unwrap());
    for (name, format) in [
        ("disk-0.qcow2", "qcow2"),
        ("disk-0.vmdk", "vmdk"),
        ("disk-0-sparse.vmdk", "vmdk"),
        ("disk-0.vhd", "vpc"),
        ("disk-0.vhdx", "vhdx"),
    ] {
        let same = Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", format])
            .arg(&raw)
            .arg(mounted.folder.join(name))
            .output()
            .unwrap();
        assert!(same.status.success(), "{name}: {same:?}");
    }
    assert!(fs::write(&secret, "changed").is_err());
    assert!(fs::File::options().write(true).open(&raw).is_err());
    mounted.end(|mounted| {
        let umount = Command::new("umount")
            .arg(&mounted.folder)
            .output()
            .unwrap();
        assert!(umount.status.success(), "{umount:?}");
    });
    assert_eq!(daemon.json(&["recover", "list"]), json!([]));
}

#[test]
fn a_session_is_mounted_and_written() {
    if !can_mount() {
        return;
    }
    let Some((daemon, _)) = backed_up() else {
        return;
    };
    let refused = daemon.cli(&["mount", "web01@1", "/nowhere", "--write"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("a restore point is never written"), "{text}");
    daemon.json(&["recover", "start", "web01@1", "--name", "lab"]);
    let mounted = Mounted::start(&daemon, &["lab", "--write", "--format", "raw,vhdx"]);
    let raw = fs::File::options()
        .write(true)
        .open(mounted.folder.join("disk-0.raw"))
        .unwrap();
    raw.write_all_at(b"written by hand", 60 * MIB + 3).unwrap();
    raw.sync_all().unwrap();
    drop(raw);
    mounted.end(|mounted| {
        let id = i32::try_from(mounted.process.id()).unwrap();
        let id = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    });
    let session = daemon.json(&["recover", "show", "lab"]);
    assert_eq!(session["state"], "active");
    let mut found = [0; 15];
    let mut disk = open_nbd(url(&session, "nbd"));
    let mut block = [0; 512];
    disk.read_at(60 * MIB, &mut block).unwrap();
    found.copy_from_slice(&block[3..18]);
    assert_eq!(&found, b"written by hand");
}

/// A daemon that has backed up the disk of `tree`.
pub(crate) fn backed_up() -> Option<(Daemon, PathBuf)> {
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
    for path in ["disk-0/p1/etc/hostname", "disk-0/p1/etc"] {
        ends_quietly(daemon.command(&["files", "get", point, path, "--to", "-"]));
    }
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
