//! Files on logical volumes, arrays and filesystems over several disks, as a Linux kernel has made them.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::files::{Mounted, assert_same_trees, can_mount, paths};
use crate::files_api::get;
use crate::support::{Daemon, need};

/// Backs up those disks of a machine that are `kept`, as web01@1.
fn back_up(daemon: &Daemon, case: &str, kept: &[usize]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = folder.join("../protocols/guestfs/tests/fixtures/volumes");
    let packed = fs::File::open(folder.join(format!("{case}.zst"))).unwrap();
    let bytes = zstd::decode_all(packed).unwrap();
    let text = fs::read_to_string(folder.join(format!("{case}.expected"))).unwrap();
    let lengths = text.lines().filter_map(|line| line.strip_prefix("disk "));
    let mut rest = &bytes[..];
    let mut arguments = vec!["backup".to_owned(), "image".to_owned(), "web01".to_owned()];
    for (number, length) in lengths.enumerate() {
        let (content, after) = rest.split_at(length.parse().unwrap());
        rest = after;
        if !kept.contains(&number) {
            continue;
        }
        let path = daemon.path(&format!("disk-{number}.raw"));
        let disk = fs::File::create(&path).unwrap();
        disk.set_len(content.len() as u64).unwrap();
        for (at, block) in (0..).step_by(BLOCK).zip(content.chunks(BLOCK)) {
            if block.iter().any(|byte| *byte != 0) {
                disk.write_all_at(block, at).unwrap();
            }
        }
        arguments.push(path.to_str().unwrap().to_owned());
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    daemon.json(&arguments);
}

const BLOCK: usize = 4096;

/// What the guest has written, as a folder.
fn plant(daemon: &Daemon) {
    let tree = daemon.path("expected");
    fs::create_dir_all(tree.join("etc/deep")).unwrap();
    fs::write(tree.join("etc/hostname"), "guest\n").unwrap();
    std::os::unix::fs::symlink("hostname", tree.join("etc/link")).unwrap();
    fs::write(tree.join("etc/numbers"), numbers()).unwrap();
    fs::write(tree.join("etc/deep/budget.txt"), "here it is\n").unwrap();
}

fn numbers() -> Vec<u8> {
    let lines = (1..=60_000).map(|number| format!("{number}\n"));
    lines.collect::<String>().into_bytes()
}

/// Copies what is in `place` out, and compares it with what the guest has written.
fn check_copied(daemon: &Daemon, place: &str) {
    let (tree, out) = (daemon.path("expected"), daemon.path("copied"));
    if !tree.exists() {
        plant(daemon);
    }
    let to = out.to_str().unwrap();
    let done = daemon.json(&["files", "get", "web01@1", place, "--to", to]);
    assert_eq!(done["left_out"], serde_json::json!([]), "{place}");
    // Times are the guest's.
    for file in ["etc/hostname", "etc/numbers", "etc/deep/budget.txt"] {
        let found = fs::metadata(out.join(file)).unwrap().modified().unwrap();
        let file = fs::File::options().append(true).open(tree.join(file));
        file.unwrap().set_modified(found).unwrap();
    }
    assert_same_trees(&tree, &out);
    fs::remove_dir_all(out).unwrap();
}

/// The paths in a folder, and what is said of each.
fn notes(list: &Value) -> Vec<(&str, &str)> {
    let list = list.as_array().unwrap().iter();
    list.map(|file| {
        let note = file["note"].as_str().unwrap_or_default();
        (file["path"].as_str().unwrap(), note)
    })
    .collect()
}

fn printed(daemon: &Daemon, path: &str) -> String {
    let printed = daemon.cli(&["files", "get", "web01@1", path, "--to", "-"]);
    assert!(printed.status.success(), "{printed:?}");
    String::from_utf8(printed.stdout).unwrap()
}

fn refused(daemon: &Daemon, path: &str) -> String {
    let refused = daemon.cli(&["files", "get", "web01@1", path, "--to", "-"]);
    assert!(!refused.status.success(), "{refused:?}");
    String::from_utf8(refused.stderr).unwrap()
}

#[test]
fn logical_volumes_over_two_disks_are_listed_searched_and_copied() {
    let daemon = Daemon::start();
    back_up(&daemon, "files-lvm", &[0, 1]);
    let top = daemon.json(&["files", "list", "web01@1"]);
    assert_eq!(paths(&top), ["disk-0", "disk-1", "volumes"]);
    let role = "a physical volume of the LVM2 volume group vg";
    for disk in ["disk-0", "disk-1"] {
        let found = daemon.json(&["files", "list", "web01@1", disk]);
        assert_eq!(notes(&found), [(format!("{disk}/disk.txt").as_str(), role)]);
    }
    let said = printed(&daemon, "disk-0/disk.txt");
    assert!(said.contains(role) && said.contains("`volumes`"), "{said}");
    let said = refused(&daemon, "disk-1/disk/etc/hostname");
    assert!(said.contains(role), "{said}");
    let volumes = daemon.json(&["files", "list", "web01@1", "volumes"]);
    assert_eq!(
        notes(&volumes),
        [
            ("volumes/vg-both", "striped volume; made of disk-0, disk-1"),
            ("volumes/vg-first", "linear volume; made of disk-0"),
            ("volumes/vg-second", "linear volume; made of disk-1"),
        ]
    );
    let plain = daemon.cli(&["files", "list", "web01@1", "volumes"]);
    let plain = String::from_utf8(plain.stdout).unwrap();
    assert!(
        plain.contains("volumes/vg-both  (striped volume; made of disk-0, disk-1)"),
        "{plain}"
    );
    let found = daemon.json(&["files", "list", "web01@1", "--name", "budget"]);
    assert_eq!(
        paths(&found),
        ["both", "first", "second"].map(|name| format!("volumes/vg-{name}/etc/deep/budget.txt"))
    );
    for place in ["volumes/vg-both", "volumes/vg-second"] {
        check_copied(&daemon, place);
    }
    assert_eq!(
        printed(&daemon, "volumes/vg-both/etc/numbers").into_bytes(),
        numbers()
    );
    // The same of a session, which may be written.
    daemon.json(&["recover", "start", "web01@1", "--name", "lab"]);
    let again = daemon.json(&["files", "list", "lab", "volumes/vg-both/etc"]);
    assert_eq!(again.as_array().unwrap().len(), 4);
}

#[test]
fn what_lacks_a_disk_says_so_in_the_list() {
    let daemon = Daemon::start();
    back_up(&daemon, "files-lvm", &[0]);
    let volumes = daemon.json(&["files", "list", "web01@1", "volumes"]);
    let notes = notes(&volumes);
    let names: Vec<_> = notes.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "volumes/vg-both.txt",
            "volumes/vg-first",
            "volumes/vg-second.txt"
        ]
    );
    for (name, note) in &notes {
        let is_told = note.starts_with("not shown: physical volume pv1 (")
            && note.ends_with("/dev/loop1 in the guest) of volume group vg is missing");
        assert_eq!(is_told, !name.ends_with("first"), "{name}: {note}");
    }
    let said = refused(&daemon, "volumes/vg-both/etc/hostname");
    assert!(
        said.contains("physical volume pv1") && said.contains("is missing"),
        "{said}"
    );
    check_copied(&daemon, "volumes/vg-first");
}

#[test]
fn an_array_that_lacks_a_member_is_read_and_says_so() {
    let daemon = Daemon::start();
    back_up(&daemon, "raid5-files", &[0, 2]);
    let volumes = daemon.json(&["files", "list", "web01@1", "volumes"]);
    assert_eq!(
        notes(&volumes),
        [
            (
                "volumes/md0",
                "RAID 5 array, 1 of 3 members missing; made of disk-0, disk-1"
            ),
            ("volumes/md0.txt", "missing: member 1"),
        ]
    );
    let said = printed(&daemon, "volumes/md0.txt");
    assert!(
        said.starts_with("md0 is read without what is missing: member 1."),
        "{said}"
    );
    check_copied(&daemon, "volumes/md0");
    let disk = daemon.json(&["files", "list", "web01@1", "disk-1"]);
    assert_eq!(
        notes(&disk),
        [("disk-1/disk.txt", "a member of the array md0")]
    );
    // One more, and nothing can be read.
    let daemon = Daemon::start();
    back_up(&daemon, "raid5-files", &[1]);
    let volumes = daemon.json(&["files", "list", "web01@1", "volumes"]);
    let notes = notes(&volumes);
    assert_eq!(notes[0].0, "volumes/md0.txt");
    assert!(notes[0].1.contains("missing"), "{notes:?}");
}

#[test]
fn a_filesystem_over_two_disks_is_one() {
    let daemon = Daemon::start();
    back_up(&daemon, "files-btrfs-raid0", &[0, 1]);
    let volumes = daemon.json(&["files", "list", "web01@1", "volumes"]);
    let note = "btrfs on 2 devices; made of disk-0, disk-1";
    assert_eq!(notes(&volumes), [("volumes/btrfs-pair", note)]);
    check_copied(&daemon, "volumes/btrfs-pair");
    let disk = daemon.json(&["files", "list", "web01@1", "disk-1"]);
    let role = "a device of the filesystem btrfs-pair";
    assert_eq!(notes(&disk), [("disk-1/disk.txt", role)]);
    // Half of it is not enough.
    let daemon = Daemon::start();
    back_up(&daemon, "files-btrfs-raid0", &[1]);
    let volumes = daemon.json(&["files", "list", "web01@1", "volumes"]);
    assert_eq!(
        notes(&volumes),
        [(
            "volumes/btrfs-pair.txt",
            "not shown: device 1 of the filesystem is missing"
        )]
    );
    let said = printed(&daemon, "volumes/btrfs-pair.txt");
    assert!(
        said.contains("btrfs, 1 of 2 devices missing; made of disk-0"),
        "{said}"
    );
}

#[test]
fn volumes_are_there_over_http() {
    if !need("curl") || !need("unzip") {
        return;
    }
    let mut daemon = Daemon::start();
    back_up(&daemon, "files-btrfs-raid1", &[1]);
    let top = get(&daemon, "", &[]).json();
    assert_eq!(paths(&top["files"]), ["disk-0", "volumes"]);
    let volumes = get(&daemon, "?path=volumes", &[]).json();
    assert_eq!(
        notes(&volumes["files"]),
        [
            (
                "volumes/btrfs-pair",
                "btrfs, 1 of 2 devices missing; made of disk-0"
            ),
            ("volumes/btrfs-pair.txt", "missing: 1 of 2 devices"),
        ]
    );
    let found = get(&daemon, "/search?name=BUDGET", &[]).json();
    let budget = "volumes/btrfs-pair/etc/deep/budget.txt";
    assert_eq!(paths(&found["files"]), [budget]);
    let content = "/content?path=volumes/btrfs-pair/etc/numbers";
    let all = get(&daemon, content, &[]);
    assert!(all.body == numbers());
    let part = get(&daemon, content, &["-r", "1000-1999"]);
    assert_eq!((part.status, &part.body[..]), (206, &numbers()[1000..2000]));
    let zip = get(
        &daemon,
        "/archive?path=volumes/btrfs-pair/etc&format=zip",
        &[],
    );
    fs::write(daemon.path("etc.zip"), &zip.body).unwrap();
    let unpacked = Command::new("unzip")
        .args(["-p"])
        .arg(daemon.path("etc.zip"))
        .arg("deep/budget.txt")
        .output()
        .unwrap();
    assert_eq!(unpacked.stdout, b"here it is\n");
    let missing = get(&daemon, "/content?path=disk-0/disk/etc/hostname", &[]);
    assert_eq!(missing.status, 404);
    assert!(
        missing
            .detail()
            .contains("a device of the filesystem btrfs-pair")
    );
    // What a file is called by numbers stays the same, so that a download can go on.
    daemon.restart();
    let again = get(&daemon, content, &["-I"]);
    assert_eq!(again.headers["etag"], all.headers["etag"]);
}

#[test]
fn volumes_are_mounted() {
    if !can_mount() {
        return;
    }
    let daemon = Daemon::start();
    back_up(&daemon, "raid5-files", &[1, 2]);
    let mounted = Mounted::start(&daemon, &["web01@1", "--format", "raw"]);
    let names = |folder: &str| {
        let entries = fs::read_dir(mounted.folder.join(folder)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(""),
        ["disk-0", "disk-0.raw", "disk-1", "disk-1.raw", "volumes"]
    );
    assert_eq!(names("volumes"), ["md0", "md0.txt"]);
    let etc = mounted.folder.join("volumes/md0/etc");
    assert!(fs::read(etc.join("numbers")).unwrap() == numbers());
    assert_eq!(fs::read(etc.join("link")).unwrap(), b"guest\n");
    let said = fs::read_to_string(mounted.folder.join("volumes/md0.txt")).unwrap();
    assert!(said.contains("member 0"), "{said}");
    assert!(fs::write(etc.join("hostname"), "changed").is_err());
    mounted.end(|mounted| {
        let umount = Command::new("umount").arg(&mounted.folder).output();
        assert!(umount.unwrap().status.success());
    });
}
