//! Files on what is put together: filesystems over several devices, and what is said of members and of what is missing.

use export::FileExport;
use guestfs::DiskSet;

use super::fixtures::{Case, error_of, find};
use super::used::{compare_sets, only_used, used_bytes};

/// What the guest has written as `etc/numbers`.
fn numbers() -> Vec<u8> {
    let lines = (1..=60_000).map(|number| format!("{number}\n"));
    lines.collect::<String>().into_bytes()
}

fn read(tree: &dyn FileExport, path: &str) -> Vec<u8> {
    let mut file = tree.root();
    for name in path.split('/') {
        file = tree.lookup(file, name.as_bytes()).unwrap();
    }
    tree.read(file, 0, 1 << 20).unwrap().data.to_vec()
}

fn check_files(set: &DiskSet, name: &str) {
    let volume = find(set, name).volume.as_ref().unwrap();
    let tree = volume.files().unwrap();
    assert_eq!(read(&*tree, "etc/hostname"), b"guest\n");
    assert!(read(&*tree, "etc/numbers") == numbers());
    assert_eq!(read(&*tree, "etc/deep/budget.txt"), b"here it is\n");
}

fn roles(set: &DiskSet) -> Vec<(&str, &str)> {
    let memberships = set.memberships.iter();
    memberships
        .map(|membership| (membership.member.as_str(), membership.role.as_str()))
        .collect()
}

#[test]
fn a_filesystem_over_two_devices_is_one_volume() {
    for (name, is_doubled) in [("files-btrfs-raid0", false), ("files-btrfs-raid1", true)] {
        let case = Case::read(name);
        let set = case.open();
        let found = find(&set, "btrfs-pair");
        assert_eq!(found.description, "btrfs on 2 devices");
        assert_eq!(found.members, ["disk-0", "disk-1"]);
        assert!(found.missing.is_empty());
        check_files(&set, "btrfs-pair");
        assert_eq!(
            roles(&set),
            [
                ("disk-0", "a device of the filesystem btrfs-pair"),
                ("disk-1", "a device of the filesystem btrfs-pair")
            ]
        );

        let half = case.open_without(&[0]);
        let found = find(&half, "btrfs-pair");
        assert_eq!(found.description, "btrfs, 1 of 2 devices missing");
        assert_eq!(found.missing, ["1 of 2 devices"]);
        assert_eq!(found.members, ["disk-0"]);
        match is_doubled {
            true => check_files(&half, "btrfs-pair"),
            false => {
                let error = found.volume.as_ref().unwrap().files().err().unwrap();
                let text = error.to_string();
                assert!(
                    text.contains("device 1 of the filesystem is missing"),
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn what_a_filesystem_over_two_devices_does_not_use_is_left_out() {
    // What is spread in turns is in use as a whole, chunk by chunk.
    for (name, most) in [("files-btrfs-raid0", 200), ("files-btrfs-raid1", 64)] {
        let case = Case::read(name);
        let set = case.open();
        let used = set.used();
        assert!(used.iter().all(|used| used.whole.is_empty()), "{used:?}");
        let kept = used_bytes(&used);
        println!("{name}: {kept} bytes in use");
        assert!(kept < most << 20, "{kept}");
        let mut copy = case.clone();
        copy.disks = only_used(&case.disks, &used);
        compare_sets(&copy.open(), &set, name);
        check_files(&copy.open(), "btrfs-pair");
    }
}

#[test]
fn a_device_that_is_there_twice_is_named() {
    let mut case = Case::read("files-btrfs-raid1");
    case.disks.push(case.disks[1].clone());
    let set = case.open();
    let error = error_of(&set, "btrfs-pair");
    assert!(
        error.contains("device 2 is there twice, as disk-1 and as disk-2"),
        "{error}"
    );
    assert_eq!(set.memberships.len(), 3);
}

#[test]
fn files_on_a_degraded_array_are_read_and_it_says_so() {
    let case = Case::read("raid5-files");
    check_files(&case.open(), "md0");
    for lost in 0..3 {
        let set = case.open_without(&[lost]);
        check_files(&set, "md0");
        let found = find(&set, "md0");
        assert_eq!(found.description, "RAID 5 array, 1 of 3 members missing");
        assert_eq!(found.missing, [format!("member {lost}")]);
    }
    assert_eq!(
        roles(&case.open_without(&[1])),
        [
            ("disk-0", "a member of the array md0"),
            ("disk-1", "a member of the array md0")
        ]
    );
}

#[test]
fn what_lacks_a_physical_volume_names_it() {
    let case = Case::read("files-lvm");
    let set = case.open();
    for name in ["vg-both", "vg-first", "vg-second"] {
        check_files(&set, name);
    }
    let set = case.open_without(&[1]);
    check_files(&set, "vg-first");
    for name in ["vg-both", "vg-second"] {
        let error = error_of(&set, name);
        assert!(
            error.contains("physical volume pv1 (")
                && error.contains("which was /dev/loop1 in the guest"),
            "{error}"
        );
        assert_eq!(find(&set, name).missing.len(), 1);
    }
    assert_eq!(
        roles(&set),
        [("disk-0", "a physical volume of the LVM2 volume group vg")]
    );
}

#[test]
fn what_lies_on_what_is_put_together_has_roles_too() {
    let set = Case::read("stacked").open();
    let roles = roles(&set);
    for expected in [
        ("disk-0", "a member of the array md0"),
        ("md0", "a physical volume of the LVM2 volume group top"),
        ("top-leg0", "a member of the array md-inner"),
        (
            "md-inner",
            "a physical volume of the LVM2 volume group deep",
        ),
    ] {
        assert!(roles.contains(&expected), "{roles:?}");
    }
}
