//! Files of a filesystem for which there is no reader, by commands and over HTTP.

use std::fs;
use std::path::Path;
use std::process::Command;

use guestworker::Found;

use crate::files::{assert_same_trees, paths};
use crate::support::{Daemon, need};

fn have_parts() -> bool {
    if let Err(missing) = Found::look() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{missing}: deploy/packages"
        );
        return false;
    }
    need("mkfs.f2fs") && need("sload.f2fs")
}

fn make_disk(tree: &Path, disk: &Path) {
    fs::File::create(disk).unwrap().set_len(128 << 20).unwrap();
    for (program, arguments) in [
        ("mkfs.f2fs", vec!["-q", "-f"]),
        ("sload.f2fs", vec!["-f", tree.to_str().unwrap()]),
    ] {
        let made = Command::new(program).args(arguments).arg(disk).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{program}: {made:?}");
    }
}

#[test]
fn files_of_a_phone_are_shown() {
    if !have_parts() {
        return;
    }
    let daemon = Daemon::start();
    let (tree, disk) = (daemon.path("tree"), daemon.path("disk.raw"));
    fs::create_dir_all(tree.join("camera/2026")).unwrap();
    let picture: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(tree.join("camera/2026/1.jpg"), picture).unwrap();
    std::os::unix::fs::symlink("2026/1.jpg", tree.join("camera/newest")).unwrap();
    make_disk(&tree, &disk);
    daemon.json(&["backup", "image", "phone", disk.to_str().unwrap()]);

    let without = ["files", "list", "phone@1", "disk-0", "--no-machine"];
    assert_eq!(paths(&daemon.json(&without)), ["disk-0/disk.txt"]);
    let why = [
        "files",
        "get",
        "phone@1",
        "disk-0/disk.txt",
        "--to",
        "-",
        "--no-machine",
    ];
    let why = String::from_utf8(daemon.cli(&why).stdout).unwrap();
    assert!(
        why.contains("F2FS") && why.contains("switched off"),
        "{why}"
    );

    let out = daemon.path("copied");
    let to = out.to_str().unwrap();
    let done = daemon.json(&["files", "get", "phone@1", "disk-0/disk", "--to", to]);
    assert_eq!(done["left_out"], serde_json::json!([]));
    assert_same_trees(&tree, &out);

    let files = "/v1/points/phone@1/files";
    let found = daemon.call("GET", &format!("{files}?path=disk-0/disk/camera"), "");
    assert_eq!(found.status, 200, "{:?}", found.body);
    let names = found.body.to_string();
    assert!(
        names.contains("2026") && names.contains("newest"),
        "{names}"
    );
}
