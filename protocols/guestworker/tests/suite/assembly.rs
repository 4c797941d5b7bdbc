//! What is put together from several disks, in a worker.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use export::{BlockExport, Durability, MemoryDisk};
use guestworker::{GuestReader, Reader as _, Unneeded, VolumePlace, Worker};

use crate::equality::tell;
use crate::support::{act, faulty_with, files, options};

/// Disks that a Linux kernel has made.
fn disks(case: &str) -> Vec<Arc<dyn BlockExport>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guestfs/tests/fixtures/volumes");
    let packed = fs::read(folder.join(format!("{case}.zst"))).unwrap();
    let mut bytes = Bytes::from(zstd::decode_all(&*packed).unwrap());
    let text = fs::read_to_string(folder.join(format!("{case}.expected"))).unwrap();
    let lengths = text.lines().filter_map(|line| line.strip_prefix("disk "));
    let disk = |length: &str| {
        let length: usize = length.parse().unwrap();
        let disk = MemoryDisk::new(length as u64);
        let content = bytes.split_to(length);
        disk.write(0, &[content], Durability::Unstable).unwrap();
        Arc::new(disk) as Arc<dyn BlockExport>
    };
    lengths.map(disk).collect()
}

#[test]
fn what_is_put_together_is_the_same_in_a_worker() {
    for (case, lost, names) in [
        ("files-lvm", None, &["vg-both", "vg-first", "vg-second"][..]),
        ("files-lvm", Some(1), &["vg-first"]),
        ("raid5-files", Some(0), &["md0"]),
        ("files-btrfs-raid0", None, &["btrfs-pair"]),
        ("files-btrfs-raid1", Some(0), &["btrfs-pair"]),
    ] {
        let mut disks = disks(case);
        lost.map(|lost| disks.remove(lost));
        let worker = Worker::start(disks.clone(), options("plain")).unwrap();
        let (here, there) = (GuestReader.assemble(&disks), worker.assemble());
        let (here, there) = (here.unwrap(), there.unwrap());
        assert_eq!(format!("{here:?}"), format!("{there:?}"));
        assert!(!here.memberships.is_empty());
        for (one, other) in here.volumes.iter().zip(&there.volumes) {
            match (one.files(), other.files()) {
                (Ok(one), Ok(other)) => {
                    let text = tell(&*one);
                    assert!(text.contains("/etc/deep/budget.txt"), "{text}");
                    assert_eq!(text, tell(&*other));
                }
                (Err(one), Err(other)) => {
                    assert_eq!(one.to_string(), other.to_string());
                    assert!(one.to_string().contains("missing"), "{one}");
                }
                _ => panic!("{case}: only one shows files"),
            }
        }
        let shown = there.volumes.iter().filter(|volume| volume.files().is_ok());
        let shown: Vec<_> = shown
            .map(|volume| volume.description().name.as_str())
            .collect();
        assert_eq!(shown, names, "{case}");
        let wanted = Unneeded::ALL.into_iter().collect();
        let unneeded = worker.unneeded(&wanted).unwrap();
        assert_eq!(unneeded, GuestReader.unneeded(&disks, &wanted).unwrap());
        let free: u64 = unneeded.iter().flat_map(|disk| disk.by.values()).sum();
        assert!(free > 0 || lost.is_some(), "{case}");
        // Those on the disks have numbers of their own.
        let on_disks = worker.volumes().unwrap();
        assert_eq!(on_disks.len(), disks.len());
        let numbers = on_disks
            .iter()
            .map(|volume| volume.description().place.clone());
        assert!(numbers.eq((0..).map(VolumePlace::Disk).take(disks.len())));
    }
}

#[test]
fn disks_that_cannot_be_put_together_are_read_one_by_one() {
    let worker = faulty_with(Duration::from_secs(2), b"hang");
    let told = worker.assemble().unwrap_err().to_string();
    assert!(
        told.contains("putting arrays and logical volumes together took longer than 2s"),
        "{told}"
    );
    let tree = files(&worker, 0);
    assert_eq!(act(&*tree, "fine").unwrap(), "fine");
    let told = worker.assemble().unwrap_err().to_string();
    assert!(told.contains("not read any more"), "{told}");
    assert_eq!(act(&*tree, "disk").unwrap(), "disk");
}

#[test]
fn a_volume_that_is_put_together_outlives_the_process() {
    let worker = faulty_with(Duration::from_secs(30), b"fine");
    let found = worker.assemble().unwrap();
    let VolumePlace::Assembled(made) = &found.volumes[0].description().place else {
        panic!("{found:?}");
    };
    assert_eq!(
        (made.members.len(), made.members[16].as_str()),
        (17, "4 more")
    );
    let tree = found.volumes[0].files().unwrap();
    let told = act(&*tree, "panic").unwrap_err().to_string();
    assert!(told.contains("object 102 of md0 ended"), "{told}");
    assert_eq!(act(&*tree, "fine").unwrap(), "fine");
}

#[test]
fn what_is_not_needed_is_not_believed_beyond_the_disk() {
    let worker = faulty_with(Duration::from_secs(30), b"fine");
    let told = worker.unneeded(&[Unneeded::Free].into()).unwrap_err();
    let told = told.to_string();
    assert!(
        told.contains("finding what nobody needs back was answered with ranges that are not"),
        "{told}"
    );
    assert_eq!(act(&*files(&worker, 0), "fine").unwrap(), "fine");
}
