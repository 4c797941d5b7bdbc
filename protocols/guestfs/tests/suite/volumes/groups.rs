//! Volume groups that are made here: what is refused, what is missing, what contradicts itself.

use std::sync::Arc;

use guestfs::{DiskSet, Source, open_sources};

use super::fixtures::{Buffer, Case, content_of, error_of, find};

/// The checksum of LVM2, bit by bit.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xF597_A6CF, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), |state, _| {
            state >> 1 ^ if state & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}

/// The checksum of thin pools, bit by bit, before it is salted.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), |state, _| {
            state >> 1 ^ if state & 1 == 1 { 0x82F6_3B78 } else { 0 }
        })
    })
}

const AREA_AT: usize = 4096;
const AREA_BYTES: usize = 60 << 10;
const START: usize = 64 << 10;
const EXTENT: usize = 64 << 10;
const EXTENTS: usize = 8;

/// The name for itself of the physical volume with a number.
fn id(number: usize) -> String {
    format!("{number:032}")
}

/// A physical volume whose extents are filled with its number and theirs, and with `text` at byte `at` of its area.
fn physical(number: usize, text: Option<(&str, usize)>) -> Vec<u8> {
    let mut disk = vec![0; START + EXTENTS * EXTENT];
    for extent in 0..EXTENTS {
        let mark = u8::try_from(number * 16 + extent).unwrap();
        disk[START + extent * EXTENT..][..EXTENT].fill(mark);
    }
    let mut label = vec![0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8] = 1;
    label[20] = 32;
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(id(number).as_bytes());
    label[72..80].copy_from_slice(&(START as u64).to_le_bytes());
    if text.is_some() {
        label[104..112].copy_from_slice(&(AREA_AT as u64).to_le_bytes());
        label[112..120].copy_from_slice(&(AREA_BYTES as u64).to_le_bytes());
    }
    let sum = checksum(&label[20..]);
    label[16..20].copy_from_slice(&sum.to_le_bytes());
    disk[512..1024].copy_from_slice(&label);
    if let Some((text, at)) = text {
        put_text(&mut disk, text.as_bytes(), at);
    }
    disk
}

/// Writes a text to the area, around its end if it does not fit.
fn put_text(disk: &mut [u8], text: &[u8], at: usize) {
    let mut head = vec![0; 512];
    head[4..20].copy_from_slice(b"\x20LVM2\x20x[5A%r0N*>");
    head[20] = 1;
    head[24..32].copy_from_slice(&(AREA_AT as u64).to_le_bytes());
    head[32..40].copy_from_slice(&(AREA_BYTES as u64).to_le_bytes());
    head[40..48].copy_from_slice(&(at as u64).to_le_bytes());
    head[48..56].copy_from_slice(&(text.len() as u64).to_le_bytes());
    head[56..60].copy_from_slice(&checksum(text).to_le_bytes());
    let sum = checksum(&head[4..]);
    head[..4].copy_from_slice(&sum.to_le_bytes());
    disk[AREA_AT..AREA_AT + 512].copy_from_slice(&head);
    for (number, byte) in text.iter().enumerate() {
        let mut place = at + number;
        if place >= AREA_BYTES {
            place = place - AREA_BYTES + 512;
        }
        disk[AREA_AT + place] = *byte;
    }
}

/// The text of a group of so many physical volumes, with `volumes` in it.
fn text(sequence: u64, count: usize, flags: &str, volumes: &str) -> String {
    let physical: String = (0..count)
        .map(|number| {
            format!(
                "pv{number} {{\nid = \"{}\"\nstatus = [\"ALLOCATABLE\"]\nflags = [{}]\npe_start = {}\npe_count = {EXTENTS}\n}}\n",
                id(number),
                if number == 1 { flags } else { "" },
                START / 512,
            )
        })
        .collect();
    format!(
        "g {{\nid = \"group-1\"\nseqno = {sequence}\nextent_size = {}\nphysical_volumes {{\n{physical}}}\nlogical_volumes {{\n{volumes}}}\n}}\n# end\n\0",
        EXTENT / 512
    )
}

/// A volume of one segment.
fn volume(name: &str, extents: usize, rest: &str) -> String {
    format!(
        "{name} {{\nid = \"x\"\nstatus = [\"READ\", \"VISIBLE\"]\nsegment_count = 1\nsegment1 {{\nstart_extent = 0\nextent_count = {extents}\n{rest}\n}}\n}}\n"
    )
}

fn linear(name: &str, extents: usize, on: &str, from: usize) -> String {
    let rest = format!("type = \"striped\"\nstripe_count = 1\nstripes = [\n\"{on}\", {from}\n]");
    volume(name, extents, &rest)
}

fn open(disks: Vec<Vec<u8>>) -> DiskSet {
    let sources: Vec<Arc<dyn Source>> = disks.into_iter().map(Buffer::of).collect();
    open_sources(&sources)
}

/// The marks of the extents of a volume.
fn marks(set: &DiskSet, name: &str) -> Vec<u8> {
    let volume = find(set, name).volume.as_ref().unwrap();
    let content = content_of(&*volume.source());
    content.chunks(EXTENT).map(|extent| extent[0]).collect()
}

#[test]
fn the_newest_text_counts_wherever_it_lies_in_the_ring() {
    let old = text(3, 2, "", &linear("lv", 2, "pv0", 0));
    let new = text(4, 2, "", &linear("lv", 2, "pv1", 2));
    for at in [
        512,
        2000,
        AREA_BYTES - 1,
        AREA_BYTES - new.len() / 2,
        AREA_BYTES - new.len(),
    ] {
        let set = open(vec![
            physical(0, Some((&old, 512))),
            physical(1, Some((&new, at))),
        ]);
        assert_eq!(marks(&set, "g-lv"), [18, 19], "text at {at}");
    }
    // One bit of it wrong, and the older one counts.
    let mut hurt = physical(1, Some((&new, 512)));
    hurt[AREA_AT + 600] ^= 1;
    let set = open(vec![physical(0, Some((&old, 512))), hurt]);
    assert_eq!(marks(&set, "g-lv"), [0, 1]);
    // A volume without any text is known to the others.
    let set = open(vec![physical(0, Some((&new, 512))), physical(1, None)]);
    assert_eq!(marks(&set, "g-lv"), [18, 19]);
}

#[test]
fn what_is_missing_is_named_and_hides_nothing_else() {
    let volumes = [
        linear("here", 2, "pv0", 0),
        linear("there", 2, "pv1", 0),
        volume(
            "both",
            4,
            "type = \"striped\"\nstripe_count = 2\nstripe_size = 8\nstripes = [\"pv0\", 4, \"pv1\", 4]",
        ),
    ]
    .concat();
    let text = text(1, 2, "", &volumes);
    let set = open(vec![physical(0, Some((&text, 512)))]);
    assert_eq!(marks(&set, "g-here"), [0, 1]);
    for name in ["g-there", "g-both"] {
        let error = error_of(&set, name);
        assert!(
            error.contains("pv1") && error.contains(&id(1)) && error.contains("missing"),
            "{error}"
        );
    }
    let set = open(vec![physical(0, Some((&text, 512))), physical(1, None)]);
    assert_eq!(marks(&set, "g-there"), [16, 17]);
    let both = find(&set, "g-both");
    assert_eq!(both.members, ["disk-0", "disk-1"]);
    let content = content_of(&*both.volume.as_ref().unwrap().source());
    assert_eq!((content[4095], content[4096], content[8192]), (4, 20, 4));
}

#[test]
fn a_volume_that_the_group_has_gone_on_without_is_not_read() {
    let text = text(1, 2, "\"MISSING\"", &linear("lv", 1, "pv1", 0));
    let set = open(vec![physical(0, Some((&text, 512))), physical(1, None)]);
    let error = error_of(&set, "g-lv");
    assert!(error.contains("gone on without"), "{error}");
}

#[test]
fn two_that_say_that_they_are_the_same_are_not_read() {
    let text = text(
        1,
        2,
        "",
        &[linear("a", 1, "pv0", 0), linear("b", 1, "pv1", 0)].concat(),
    );
    let set = open(vec![
        physical(0, Some((&text, 512))),
        physical(1, None),
        physical(1, None),
    ]);
    assert_eq!(marks(&set, "g-a"), [0]);
    assert!(error_of(&set, "g-b").contains("pv1"));
}

#[test]
fn what_is_refused_is_refused_for_itself() {
    let refused = ["cache", "writecache", "vdo", "integrity", "anything"];
    let mut volumes = linear("good", 1, "pv0", 3);
    for kind in refused {
        volumes += &volume(kind, 1, &format!("type = \"{kind}\"\norigin = \"good\""));
    }
    volumes += &volume(
        "flagged",
        1,
        "type = \"striped+FLAG\"\nstripe_count = 1\nstripes = [\"pv0\", 5]",
    );
    volumes += &volume("given-up", 1, "type = \"error\"");
    volumes += &volume("zero", 2, "type = \"zero\"");
    let text = text(1, 1, "", &volumes);
    let set = open(vec![physical(0, Some((&text, 512)))]);
    assert_eq!(marks(&set, "g-good"), [3]);
    assert_eq!(marks(&set, "g-flagged"), [5]);
    assert_eq!(marks(&set, "g-zero"), [0, 0]);
    for kind in refused {
        let error = error_of(&set, &format!("g-{kind}"));
        assert!(
            error.contains("not supported") && error.contains(kind),
            "{error}"
        );
    }
    assert!(error_of(&set, "g-given-up").contains("given up"));
}

#[test]
fn what_contradicts_itself_is_an_error_of_its_own() {
    let volumes = [
        linear("good", 1, "pv0", 3),
        linear("circle-a", 1, "circle-b", 0),
        linear("circle-b", 1, "circle-a", 0),
        linear("self", 1, "self", 0),
        linear("beyond", 2, "pv0", 7),
        linear("far", 1, "pv0", usize::MAX / 4),
        linear("nobody", 1, "pv7", 0),
        linear("long", usize::MAX / 2, "pv0", 0),
        linear("within", 2, "good", 0),
        linear("none", 0, "pv0", 0),
        volume("uneven", 3, "type = \"striped\"\nstripe_count = 2\nstripe_size = 8\nstripes = [\"pv0\", 0, \"pv0\", 2]"),
        volume("thin", 1, "type = \"thin\"\nthin_pool = \"good\"\ndevice_id = 1"),
        volume("tiny", 2, "type = \"striped\"\nstripe_count = 2\nstripe_size = 1\nstripes = [\"pv0\", 0, \"pv0\", 1]"),
    ]
    .concat();
    let text = text(1, 1, "", &volumes);
    let set = open(vec![physical(0, Some((&text, 512)))]);
    assert_eq!(marks(&set, "g-good"), [3]);
    assert_eq!(set.assembled.len(), 13);
    for found in &set.assembled {
        assert_eq!(found.volume.is_ok(), found.name == "g-good", "{found:?}");
    }
}

#[test]
fn a_chain_of_volumes_multiplies_no_reads() {
    // Each is a mirror of many of the one below; a read that had to ask all would never end.
    let mut volumes = linear("v0", 1, "pv0", 0);
    for level in 1..6 {
        let legs = (0..60).map(|_| format!("\"v{0}\", \"v{0}\"", level - 1));
        let legs: Vec<_> = legs.collect();
        volumes += &volume(
            &format!("v{level}"),
            1,
            &format!(
                "type = \"raid1\"\ndevice_count = 60\nraids = [{}]",
                legs.join(", ")
            ),
        );
    }
    let text = text(1, 1, "", &volumes);
    let set = open(vec![physical(0, Some((&text, 512)))]);
    assert!(error_of(&set, "g-v3").contains("exceeds the limit"));
}

#[test]
fn names_are_safe() {
    let text = text(1, 1, "", &linear("lv", 1, "pv0", 0)).replace("g {", "../evil {");
    let set = open(vec![physical(0, Some((&text, 512)))]);
    assert_eq!(set.assembled.len(), 1);
    assert_eq!(marks(&set, "_.._evil-lv"), [0]);
    // Other characters are none of a name to the parser.
    let text = text.replace("evil", "e\u{301}vil");
    let set = open(vec![physical(0, Some((&text, 512)))]);
    assert!(set.assembled.is_empty());
}

#[test]
fn volumes_of_raid_do_without_a_disk() {
    let case = Case::read("lvm-raid");
    let whole = case.open();
    for absent in 0..case.disks.len() {
        let set = case.open_without(&[absent]);
        let mut without = case.clone();
        without
            .volumes
            .retain(|expected| find(&set, &expected.name).volume.is_ok());
        without.check(&set);
        let lost = case.volumes.len() - without.volumes.len();
        println!(
            "without disk {absent}: {lost} of {} are lost",
            case.volumes.len()
        );
        for found in set.assembled.iter().filter(|found| found.volume.is_err()) {
            let was = find(&whole, &found.name);
            let has_spare = !["r0", "r0m", "mirror"]
                .iter()
                .any(|name| found.name.ends_with(name));
            assert!(!has_spare, "{found:?} of {was:?}");
        }
    }
    for absent in [[0, 1], [1, 3], [2, 4]] {
        let set = case.open_without(&absent);
        let mut six = case.clone();
        six.volumes
            .retain(|expected| expected.name.starts_with("vg-r6"));
        assert_eq!(six.volumes.len(), 8);
        six.check(&set);
        let lost: Vec<_> = ["vg-r5ls", "vg-r5n"]
            .into_iter()
            .filter(|name| find(&set, name).volume.is_err())
            .collect();
        for name in lost {
            assert!(error_of(&set, name).contains("missing"));
        }
    }
}

#[test]
fn what_a_snapshot_cannot_say_is_told() {
    let case = Case::read("lvm-snapshot");
    let set = case.open();
    let error = error_of(&set, "vg-full");
    assert!(error.contains("store was full"), "{error}");
    assert_eq!(find(&set, "vg-snap").description, "snapshot");
    let text = |name: &str| {
        let volume = find(&set, name).volume.as_ref().unwrap();
        let tree = volume.files().unwrap();
        let file = tree.lookup(tree.root(), b"text").unwrap();
        tree.read(file, 0, 100).unwrap().data.to_vec()
    };
    assert_eq!(text("vg-origin"), b"second\n");
    assert_eq!(text("vg-snap"), b"first\n");
}
