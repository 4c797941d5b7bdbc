//! Everything that ntfs-3g writes is read as ntfs-3g reads it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::tempdir;

use super::programs::{Ntfs3g, mkntfs, set};
use crate::image::{have, tree, volume};
use crate::manifest::{compare, of_tree, read_all};

/// Bytes that compress well, somewhat, and not at all, in turns.
pub(crate) fn mixed(length: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_9ABC_DEF1_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match bytes.len() >> 15 & 3 {
            0 => bytes.extend_from_slice(b"the same words again and again, "),
            1 => bytes.extend_from_slice(&state.to_le_bytes()),
            2 => bytes.extend_from_slice(format!("number {} ", state & 0xFFFF).as_bytes()),
            _ => bytes.extend_from_slice(&[0; 64]),
        }
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn fill(root: &Path) {
    for size in [
        0, 1, 100, 511, 600, 700, 900, 4095, 4096, 4097, 70_000, 1_000_000,
    ] {
        fs::write(root.join(format!("size-{size}")), mixed(size)).unwrap();
    }
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..400 {
        let name = format!("an entry with a long name, of number {number}");
        fs::write(many.join(name), format!("{number}").repeat(number % 90)).unwrap();
    }
    for number in (0..400).step_by(3) {
        let name = format!("an entry with a long name, of number {number}");
        fs::remove_file(many.join(name)).unwrap();
    }
    for name in [
        "ünïcödé",
        "Ελληνικά",
        "日本語",
        "😀 emoji",
        "UPPER",
        "upper",
        "a:colon",
        "dot. ",
    ] {
        fs::write(root.join(name), name).unwrap();
    }
    let mut deep = root.to_owned();
    for level in 0..12 {
        deep.push(format!("level {level}"));
        fs::create_dir(&deep).unwrap();
    }
    fs::write(deep.join("bottom"), "deep").unwrap();
    fs::hard_link(root.join("size-4097"), deep.join("second name")).unwrap();
    fs::hard_link(root.join("size-100"), root.join("third")).unwrap();
    symlink("size-100", root.join("short link")).unwrap();
    symlink(
        format!("{}end", "some/where/".repeat(60)),
        root.join("long link"),
    )
    .unwrap();
    for (name, kind, device) in [
        ("pipe", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        (
            "characters",
            FileType::CharacterDevice,
            rustix::fs::makedev(5, 300),
        ),
        (
            "blocks",
            FileType::BlockDevice,
            rustix::fs::makedev(259, 70_000),
        ),
    ] {
        mknodat(CWD, root.join(name), kind, Mode::from(0o600), device).unwrap();
    }
    let sparse = File::create(root.join("sparse")).unwrap();
    for step in 0..20 {
        sparse.write_all_at(b"island", step * 300_000).unwrap();
    }
    sparse.set_len(7_000_000).unwrap();
    File::create(root.join("hole"))
        .unwrap()
        .set_len(3_000_000)
        .unwrap();
    decorate(root);
    compress(root);
}

fn decorate(root: &Path) {
    set(
        &root.join("size-600"),
        "user.Zone.Identifier",
        b"[ZoneTransfer]\nZoneId=3\n",
    );
    set(&root.join("size-600"), "user.empty", b"");
    set(&root.join("size-1"), "user.großer Strom", &mixed(50_000));
    set(&root.join("many"), "user.of a folder", b"folder");
    set(
        &root.join("size-700"),
        "system.ntfs_attrib",
        &0x23_u32.to_le_bytes(),
    );
    let times: Vec<u8> = [
        1_u64,
        100_000_000_000_000_001,
        130_000_000_000_000_000,
        140_000_000_000_000_007,
    ]
    .iter()
    .flat_map(|time| time.to_le_bytes())
    .collect();
    set(&root.join("size-900"), "system.ntfs_times", &times);
    // An owner, a group, and a list with one entry for everybody.
    let descriptor = b"\x01\x00\x04\x80\x14\0\0\0\x24\0\0\0\0\0\0\0\x34\0\0\0\
        \x01\x02\0\0\0\0\0\x05\x20\0\0\0\x20\x02\0\0\
        \x01\x02\0\0\0\0\0\x05\x20\0\0\0\x21\x02\0\0\
        \x02\0\x1c\0\x01\0\0\0\0\0\x14\0\xff\x01\x1f\0\x01\x01\0\0\0\0\0\x01\0\0\0\0";
    set(&root.join("size-511"), "system.ntfs_acl", descriptor);
}

fn compress(root: &Path) {
    let folder = root.join("compressed");
    fs::create_dir(&folder).unwrap();
    set(&folder, "system.ntfs_attrib_be", &0x810_u32.to_be_bytes());
    for size in [10, 5000, 65_535, 65_536, 65_537, 200_000, 1_000_003] {
        fs::write(folder.join(format!("mixed-{size}")), mixed(size)).unwrap();
        fs::write(folder.join(format!("text-{size}")), "abc ".repeat(size / 4)).unwrap();
    }
    // Units that are holes, and bytes in their midst.
    let holes = File::create(folder.join("holes")).unwrap();
    for (at, size) in [(0, 100), (200_000, 70_000), (500_001, 3), (900_000, 66_000)] {
        holes.write_all_at(&mixed(size), at).unwrap();
    }
    holes.set_len(1_500_000).unwrap();
    let again = File::options()
        .write(true)
        .open(folder.join("mixed-1000003"))
        .unwrap();
    again.write_all_at(&mixed(3000), 300_000).unwrap();
    again.set_len(900_001).unwrap();
}

/// Writes two files in turns, so that both have very many runs.
fn weave(root: &Path, steps: u8) {
    let open = |name: &str| File::create(root.join(name)).unwrap();
    let files = [open("woven-1"), open("woven-2")];
    for step in 0..=steps {
        for mut file in &files {
            file.write_all(&vec![step; 4096]).unwrap();
            file.sync_all().unwrap();
        }
    }
}

#[test]
fn what_ntfs_3g_writes_is_read() {
    if !have("mkntfs") {
        return;
    }
    for (kind, options) in [
        ("clusters of 4096", &["-c", "4096", "-L", "Ein Name"][..]),
        ("clusters of 512", &["-c", "512"]),
        ("clusters of 65536", &["-c", "65536"]),
        ("sectors of 4096", &["-s", "4096", "-c", "4096"]),
    ] {
        let home = tempdir().unwrap();
        let image = home.path().join("image");
        mkntfs(&image, 48, options);
        let Some(mount) = Ntfs3g::new(&image, "noatime") else {
            return;
        };
        fill(mount.path());
        weave(mount.path(), 50);
        drop(mount);
        let mount = Ntfs3g::new(&image, "ro").unwrap();
        let expected = mount.manifest();
        drop(mount);
        compare(&of_tree(&*tree(&image)), &expected, kind);
        super::allocation::check_used_copy(&image, &expected, kind);
        if kind == "clusters of 4096" {
            assert_eq!(volume(&image).label.as_deref(), Some("Ein Name"));
        }
    }
}

/// `GUESTFS_ENTRIES` says how many names the folder has, 5000 without it: ntfs-3g takes long to make them.
#[test]
fn files_of_very_many_runs_and_large_folders_are_read() {
    if !have("mkntfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mkntfs(&image, 160, &["-c", "512"]);
    let Some(mount) = Ntfs3g::new(&image, "noatime,big_writes") else {
        return;
    };
    // Runs of one cluster each, of which only some hundred fit in one record.
    let woven = File::create(mount.path().join("woven")).unwrap();
    for step in 0..2000_u64 {
        woven.write_all_at(&[7; 512], step * 1024 * 16).unwrap();
    }
    drop(woven);
    let folder = mount.path().join("big");
    fs::create_dir(&folder).unwrap();
    let count: usize =
        std::env::var("GUESTFS_ENTRIES").map_or(5000, |count| count.parse().unwrap());
    for number in 0..count {
        File::create(folder.join(format!("entry number {number}"))).unwrap();
    }
    drop(mount);
    let tree = tree(&image);
    let find = |name: &[u8]| tree.lookup(tree.root(), name).unwrap();
    let woven = read_all(&*tree, find(b"woven"));
    assert_eq!(woven.len(), 1999 * 16384 + 512);
    assert!(woven.chunks(16384).all(|step| step[..512] == [7; 512]));
    assert!(
        woven
            .chunks(16384)
            .all(|step| step[512..].iter().all(|byte| *byte == 0))
    );
    let big = find(b"big");
    let began = Instant::now();
    let all = tree.list(big, 0, usize::MAX).unwrap();
    println!(
        "{count} entries: listed with attributes in {:?}",
        began.elapsed()
    );
    assert_eq!(all.len(), count);
    let began = Instant::now();
    for number in (0..count).step_by(7) {
        let name = format!("ENTRY number {number}");
        let found = tree.lookup(big, name.as_bytes()).unwrap();
        assert_eq!(tree.attributes(found).unwrap().size_bytes, 0);
    }
    println!("a seventh of them looked up in {:?}", began.elapsed());
    let mut cookie = 0;
    let mut steps = Vec::new();
    loop {
        let some = tree.list(big, cookie, 999).unwrap();
        let Some(last) = some.last() else { break };
        assert!(last.cookie > cookie);
        cookie = last.cookie;
        steps.extend(some);
    }
    assert!(steps == all, "in steps as at once");
}
