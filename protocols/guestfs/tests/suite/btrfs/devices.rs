//! Filesystems on several devices, also where one is missing.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use guestfs::Volume;
use tempfile::tempdir;

use crate::image::{have, run, volume};
use crate::manifest::{Manifest, compare, of_folder, of_tree};

/// Files as loop devices, until they are dropped.
struct Loops(Vec<PathBuf>);

impl Loops {
    fn new(images: &[PathBuf]) -> Option<Self> {
        let mut loops = Self(Vec::new());
        for image in images {
            let made = Command::new("losetup")
                .args(["-f", "--show"])
                .arg(image)
                .output();
            match made {
                Ok(output) if output.status.success() => {
                    let name = String::from_utf8(output.stdout).unwrap();
                    loops.0.push(name.trim().into());
                }
                other => {
                    println!("left out: cannot make loop devices here: {other:?}");
                    return None;
                }
            }
        }
        Some(loops)
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.0 {
            drop(Command::new("losetup").arg("-d").arg(device).status());
        }
    }
}

/// Makes a filesystem on `count` devices, fills it, and says what the kernel shows of it.
fn make(home: &Path, count: usize, options: &str) -> Option<(Vec<PathBuf>, Manifest)> {
    let images: Vec<PathBuf> = (0..count)
        .map(|at| home.join(format!("device-{at}")))
        .collect();
    for image in &images {
        File::create(image).unwrap().set_len(256 << 20).unwrap();
    }
    let mut command = Command::new("mkfs.btrfs");
    run(command
        .args(["-q", "-f"])
        .args(options.split_whitespace())
        .args(&images));
    let loops = Loops::new(&images)?;
    let devices: Vec<String> = loops
        .0
        .iter()
        .map(|path| format!("device={}", path.display()))
        .collect();
    let point = home.join("mount");
    fs::create_dir(&point).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "btrfs", "-o"])
        .arg(format!("noatime,{}", devices.join(",")))
        .args([&loops.0[0], &point])
        .output()
        .unwrap();
    if !mounted.status.success() {
        println!("left out: cannot mount here: {mounted:?}");
        return None;
    }
    for number in 0..60 {
        let content: Vec<u8> = (0..number * 20_000)
            .map(|at: usize| at.to_le_bytes()[(at >> 8) % 3] ^ u8::try_from(number).unwrap())
            .collect();
        fs::write(point.join(format!("file-{number}")), content).unwrap();
    }
    fs::create_dir(point.join("folder")).unwrap();
    rustix::fs::syncfs(File::open(&point).unwrap()).unwrap();
    let expected = of_folder(&point);
    run(Command::new("umount").arg(&point));
    drop(loops);
    Some((images, expected))
}

fn files(volumes: &[Volume]) -> Manifest {
    of_tree(&*volumes[0].files_with(&volumes[1..]).unwrap())
}

#[test]
fn profiles_on_several_devices_are_read() {
    if !have("mkfs.btrfs") {
        return;
    }
    for (count, options, missing) in [
        (2, "-d raid1 -m raid1", 1),
        (2, "-d raid0 -m raid1", 0),
        (2, "-d single -m dup", 0),
        (3, "-d raid1c3 -m raid1c3", 2),
        (4, "-d raid10 -m raid10", 1),
        (4, "-d raid1c4 -m raid1c3", 1),
        (3, "-d raid5 -m raid5", 1),
        (5, "-d raid6 -m raid6", 2),
    ] {
        let home = tempdir().unwrap();
        let Some((images, expected)) = make(home.path(), count, options) else {
            return;
        };
        let mut volumes: Vec<Volume> = images.iter().map(|image| volume(image)).collect();
        let first = volumes[0].filesystem().unwrap();
        assert!(
            volumes
                .iter()
                .all(|other| other.filesystem().unwrap() == first && first.is_some())
        );
        volumes.reverse();
        compare(&files(&volumes), &expected, options);
        // Each that may be missing, and then one more than may be.
        for lost in 0..count {
            let mut left = volumes.clone();
            for _ in 0..missing {
                left.remove(lost % left.len());
            }
            compare(&files(&left), &expected, options);
        }
        volumes.truncate(volumes.len() - missing - 1);
        // What has copies may have one on those that are left.
        if !["raid0", "raid5", "raid6"]
            .iter()
            .any(|profile| options.contains(profile))
        {
            continue;
        }
        let fault = match volumes[0].files_with(&volumes[1..]) {
            Err(error) => error.to_string(),
            Ok(tree) => {
                let entries = tree.list(tree.root(), 0, 100).unwrap();
                let files = entries.iter().filter(|entry| entry.name != b"folder");
                let mut faults = files.filter_map(|entry| tree.read(entry.file, 0, 1 << 20).err());
                faults.next().unwrap().to_string()
            }
        };
        assert!(
            fault.contains("of the filesystem is missing"),
            "{options}: {fault}"
        );
    }
}

#[test]
fn a_bad_copy_is_passed_over() {
    if !have("mkfs.btrfs") {
        return;
    }
    let home = tempdir().unwrap();
    let Some((images, expected)) = make(home.path(), 2, "-d raid1 -m raid1") else {
        return;
    };
    let damage = |image: &Path, from: u64, until: u64| {
        let file = File::options().write(true).open(image).unwrap();
        for at in from..until {
            file.write_all_at(&vec![0xA5; 1 << 20], at << 20).unwrap();
        }
    };
    let volumes: Vec<Volume> = images.iter().map(|image| volume(image)).collect();
    damage(&images[0], 1, 256);
    compare(&files(&volumes), &expected, "one bad device");
    let used = volumes[1].allocated_with(&volumes[..1]).unwrap();
    assert!(used.map(|range| range.unwrap().end).max().unwrap() > 1 << 20);
    // Now content has no good copy, and nothing is given in its place.
    damage(&images[1], 130, 256);
    damage(&images[1], 60, 100);
    match volumes[0].files_with(&volumes[1..]) {
        Ok(tree) => {
            let entries = tree.list(tree.root(), 0, 100).unwrap();
            let faults = entries
                .iter()
                .filter_map(|entry| tree.read(entry.file, 0, 2 << 20).err());
            let faults: Vec<String> = faults.map(|fault| fault.to_string()).collect();
            assert!(
                faults.iter().any(|fault| fault.contains("checksum")),
                "{faults:?}"
            );
        }
        Err(error) => assert!(error.to_string().contains("checksum"), "{error}"),
    }
}
