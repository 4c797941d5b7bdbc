//! What the kernel has read of its arrays and volumes is what is read here.

use super::fixtures::{Case, error_of, find};

#[test]
fn all_volumes_are_as_the_kernel_reads_them() {
    let cases = Case::all();
    let volumes: usize = cases.iter().map(|case| case.volumes.len()).sum();
    println!("{} machines, {volumes} volumes", cases.len());
    assert!(volumes > 60);
    for case in cases {
        case.check(&case.open());
    }
}

/// How many members the array of a case can do without, each of any.
fn spare_members(name: &str) -> usize {
    match name.split('-').next().unwrap() {
        "raid1" | "raid4" | "raid5" => 1,
        "raid6" => 2,
        "raid10" if name.contains('3') && !name.ends_with("-3") => 2,
        "raid10" => 1,
        _ => 0,
    }
}

#[test]
fn any_members_that_an_array_can_do_without_may_be_missing() {
    let mut opened = 0;
    for case in Case::all() {
        let spare = spare_members(&case.name);
        let is_whole = !["stale", "recovering", "reshaping", "bad-blocks", "running"]
            .iter()
            .any(|state| case.name.contains(state));
        if spare == 0 || !is_whole {
            continue;
        }
        let count = case.disks.len();
        for one in 0..count {
            case.check(&case.open_without(&[one]));
            opened += 1;
            for other in one + 1..count {
                if spare == 2 {
                    case.check(&case.open_without(&[one, other]));
                    opened += 1;
                }
            }
        }
        let set = case.open_without(&(0..=spare).collect::<Vec<_>>());
        if !case.name.starts_with("raid10") && case.name != "raid1-partitions" && count > spare + 1
        {
            let error = error_of(&set, "md0");
            assert!(error.contains("missing"), "{}: {error}", case.name);
        }
    }
    println!("{opened} times");
    assert!(opened > 200);
}

#[test]
fn stale_members_are_not_read() {
    for (name, stale) in [("raid5-stale", 1), ("raid1-stale", 0)] {
        let case = Case::read(name);
        let set = case.open();
        case.check(&set);
        let found = find(&set, "md0");
        assert!(
            !found.members.contains(&format!("disk-{stale}")),
            "{found:?}"
        );
        assert!(found.description.contains("1 of"), "{found:?}");
        case.check(&case.open_without(&[stale]));
    }
    // Without the others, the stale one is all that there is of a mirror.
    let case = Case::read("raid1-stale");
    let set = case.open_without(&[1]);
    assert!(find(&set, "md0").volume.is_ok());
}
