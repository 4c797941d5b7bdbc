//! Backups without what nobody needs back.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Daemon, need};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
/// What lies in blocks that nothing uses.
const OLD: u8 = 0x5A;

/// A disk of 64 MiB full of old bytes: a table, an ext4 of 48 MiB from 1 MiB on, swap of 8 MiB from 50 MiB on.
struct Guest {
    home: PathBuf,
}

impl Guest {
    fn new(daemon: &Daemon) -> Self {
        let guest = Self {
            home: daemon.path(""),
        };
        fs::create_dir(guest.path("tree")).unwrap();
        fs::write(guest.path("tree/kept"), vec![1; 3_000_000]).unwrap();
        fs::write(guest.path("ext4"), vec![OLD; 48 << 20]).unwrap();
        run(Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-E", "nodiscard", "-d"])
            .arg(guest.path("tree"))
            .arg(guest.path("ext4")));
        let mut swap = vec![OLD; 8 << 20];
        swap[..BLOCK].fill(0);
        swap[BLOCK - 10..BLOCK].copy_from_slice(b"SWAPSPACE2");
        fs::write(guest.path("swap"), swap).unwrap();
        guest.assemble();
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Puts the partitions into the disk.
    fn assemble(&self) {
        let mut disk = vec![OLD; 64 << 20];
        disk[..1 << 20].fill(0);
        for (slot, kind, first, count) in [(0, 0x83, 1, 48), (1, 0x82, 50, 8)] {
            let entry = &mut disk[446 + slot * 16..][..16];
            entry[4] = kind;
            entry[8..12].copy_from_slice(&(first * 2048_u32).to_le_bytes());
            entry[12..16].copy_from_slice(&(count * 2048_u32).to_le_bytes());
        }
        disk[510..512].copy_from_slice(&[0x55, 0xAA]);
        for (name, at) in [("ext4", 1), ("swap", 50)] {
            let content = fs::read(self.path(name)).unwrap();
            disk[at << 20..][..content.len()].copy_from_slice(&content);
        }
        fs::write(self.path("disk.raw"), disk).unwrap();
    }

    /// Restores a point and checks its filesystem; gives the whole disk.
    fn restored(&self, daemon: &Daemon, point: &str) -> Vec<u8> {
        let out = self.path(&format!("{point}.raw"));
        daemon.json(&["restore", "image", point, "--to", out.to_str().unwrap()]);
        let disk = fs::read(&out).unwrap();
        fs::write(self.path("out.ext4"), &disk[1 << 20..49 << 20]).unwrap();
        run(Command::new("e2fsck").arg("-fn").arg(self.path("out.ext4")));
        disk
    }

    fn file(&self, name: &str) -> Vec<u8> {
        let out = self.path("dumped");
        run(Command::new("debugfs")
            .arg("-R")
            .arg(format!("dump {name} {}", out.display()))
            .arg(self.path("out.ext4")));
        fs::read(out).unwrap()
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn back_up(daemon: &Daemon, workload: &str, file: &Path, more: &[&str]) -> Value {
    let mut arguments = vec!["backup", "image", workload, file.to_str().unwrap()];
    arguments.extend(more);
    daemon.json(&arguments)
}

/// The guest writes a file. Gives the list of what changed, in which nothing stands of what was written where nothing was.
fn write_more(guest: &Guest) -> PathBuf {
    let disk = guest.path("disk.raw");
    fs::write(guest.path("more"), vec![2; 2_000_000]).unwrap();
    let before = fs::read(&disk).unwrap();
    run(Command::new("debugfs")
        .args(["-w", "-R"])
        .arg(format!("write {} more", guest.path("more").display()))
        .arg(guest.path("ext4")));
    guest.assemble();
    let after = fs::read(&disk).unwrap();
    let mut list = String::new();
    let mut hidden = 0;
    for (number, (old, new)) in before.chunks(BLOCK).zip(after.chunks(BLOCK)).enumerate() {
        match old == new {
            true => {}
            false if old.iter().all(|byte| *byte == OLD) => hidden += 1,
            false => list.push_str(&format!("{} {BLOCK}\n", number * BLOCK)),
        }
    }
    assert!(hidden > 400, "{hidden} blocks came into use");
    let changed = guest.path("changed");
    fs::write(&changed, list).unwrap();
    changed
}

fn bytes(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

#[test]
fn free_blocks_swap_and_gaps_stay_out_and_come_when_they_are_used() {
    if !need("mke2fs") || !need("debugfs") || !need("qemu-img") {
        return;
    }
    let daemon = Daemon::start();
    let guest = Guest::new(&daemon);
    let disk = guest.path("disk.raw");
    let done = back_up(&daemon, "web01", &disk, &["--leave-out"]);
    let left_out = &done["left_out"][0];
    let by = &left_out["by"];
    assert!(bytes(&by["free"]) > 35 * MIB, "{left_out}");
    assert_eq!(bytes(&by["swap"]), 8 * MIB - 4096);
    // Behind the filesystem, and behind the swap but for the disk's last mebibyte.
    assert_eq!(bytes(&by["gaps"]), MIB + 5 * MIB);
    assert!(bytes(&done["sent_bytes"]) < 16 * MIB, "{done}");
    let shown = daemon.json(&["point", "show", "web01@1"]);
    assert_eq!(shown["disks"][0]["excluded_bytes"], left_out["bytes"]);
    let restored = guest.restored(&daemon, "web01@1");
    assert!(guest.file("kept") == [1; 3_000_000]);
    let old = |disk: &[u8]| {
        disk.chunks(BLOCK)
            .filter(|block| block.iter().all(|byte| *byte == OLD))
            .count()
    };
    // What a journal holds that was never written is in use, too.
    assert!(old(&restored) < 1400 && old(&fs::read(&disk).unwrap()) > 12_000);

    // Another form of the same disk is sent in another way and gives the same.
    run(Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .arg(&disk)
        .arg(guest.path("disk.qcow2")));
    let streamed = back_up(
        &daemon,
        "web02",
        &guest.path("disk.qcow2"),
        &["--leave-out"],
    );
    assert_eq!(
        streamed["disks"][0]["root_id"],
        shown["disks"][0]["root_id"]
    );
    assert_eq!(streamed["left_out"], done["left_out"]);

    let changed = write_more(&guest);
    let after = fs::read(&disk).unwrap();
    let changed = ["--changed-extents", changed.to_str().unwrap()];
    let done = back_up(
        &daemon,
        "web01",
        &disk,
        &[&changed[..], &["--leave-out=free,swap"]].concat(),
    );
    assert_eq!(done["kind"], "incremental");
    assert!(bytes(&done["sent_bytes"]) < 12 * MIB, "{done}");
    // Gaps were not asked for this time: they are there again.
    assert!(done["left_out"][0]["by"].get("gaps").is_none());
    let restored = guest.restored(&daemon, "web01@2");
    assert!(guest.file("more") == [2; 2_000_000] && guest.file("kept") == [1; 3_000_000]);
    assert!(restored[58 << 20..63 << 20].iter().all(|byte| *byte == OLD));

    // Without leaving anything out, whatever was missing is sent, changed or not.
    fs::write(guest.path("changed"), "0 512\n").unwrap();
    let done = back_up(&daemon, "web01", &disk, &changed);
    assert!(done.get("left_out").is_none());
    assert!(guest.restored(&daemon, "web01@3") == after);
    let shown = daemon.json(&["point", "show", "web01@3"]);
    assert_eq!(shown["disks"][0]["excluded_bytes"], 0);
    assert_eq!(daemon.json(&["verify"])["sound"], true);
}

#[test]
fn what_cannot_be_told_is_kept_and_named() {
    if !need("mke2fs") || !need("debugfs") {
        return;
    }
    let daemon = Daemon::start();
    let guest = Guest::new(&daemon);
    // The guest has found faults in its own filesystem.
    run(Command::new("debugfs")
        .args(["-w", "-R", "set_super_value state 3"])
        .arg(guest.path("ext4")));
    guest.assemble();
    let disk = guest.path("disk.raw");
    let done = back_up(&daemon, "web01", &disk, &["--leave-out=free"]);
    let left_out = &done["left_out"][0];
    assert_eq!(left_out["bytes"], 0);
    assert_eq!(left_out["whole"][0]["volume"], "disk-0/p1");
    let reason = left_out["whole"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("faults"), "{reason}");
    assert!(guest_is_whole(&daemon, &disk));
    let said = daemon.cli(&[
        "backup",
        "image",
        "web01",
        disk.to_str().unwrap(),
        "--leave-out",
    ]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("Left out of disk 0: ") && said.contains("disk-0/p1 is kept whole: "),
        "{said}"
    );
}

fn guest_is_whole(daemon: &Daemon, disk: &Path) -> bool {
    let out = daemon.path("out.raw");
    daemon.json(&["restore", "image", "web01@1", "--to", out.to_str().unwrap()]);
    let whole = fs::read(&out).unwrap() == fs::read(disk).unwrap();
    let mut end = [0; 512];
    fs::File::open(&out)
        .unwrap()
        .read_exact_at(&mut end, 64 * MIB - 512)
        .unwrap();
    whole && end == [OLD; 512]
}
