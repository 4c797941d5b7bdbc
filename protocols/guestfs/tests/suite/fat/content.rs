//! Files and folders, as mtools puts them into filesystems of every kind.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use export::{FileExport, FileKind};
use tempfile::tempdir;

use super::damage::shorten;
use super::programs::{mkfs_fat, mtools};
use super::raw::{Raw, entries, short_entry};
use crate::ext::content::check_fifty_thousand;
use crate::image::{have, tree, volume};
use crate::manifest::{self, Manifest, compare, of_folder, of_tree, read_all};

/// Files at the sizes where something changes, folders longer than a cluster, and names of every kind.
pub(super) fn fill(folder: &Path) {
    let content = |length: usize, seed: usize| -> Vec<u8> {
        (0..length)
            .map(|at| u8::try_from((at * 7 + at / 251 + seed) % 255).unwrap())
            .collect()
    };
    for (seed, size) in [0, 1, 511, 512, 513, 2048, 4096, 4097, 70_000, 300_000]
        .into_iter()
        .enumerate()
    {
        fs::write(folder.join(format!("size-{size}")), content(size, seed)).unwrap();
    }
    for name in [
        "lower.txt",
        "UPPER.TXT",
        "ending.TXT",
        "UPPER2.txt",
        "Mixed.Txt",
        "no ending",
        ".hidden",
        "two.dots.txt",
        "exactly 13 ch",
        "twenty-six letters of them",
        "ünïcödé and more",
        "日本語の名前.txt",
        "ÄÖÜ.TXT",
    ] {
        fs::write(folder.join(name), name).unwrap();
    }
    fs::write(folder.join("n".repeat(251)), "long").unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    let mut deep = folder.to_owned();
    for level in 0..12 {
        deep.push(format!("Level {level}"));
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("file"), content(level * 100, level)).unwrap();
    }
    let many = folder.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..200 {
        fs::write(many.join(format!("a name and the number {number}")), "x").unwrap();
    }
    for (at, path) in of_folder(folder).keys().enumerate() {
        let path = folder.join(Path::new(std::str::from_utf8(&path[1..]).unwrap()));
        let time =
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_001 + at as u64);
        File::open(path).unwrap().set_modified(time).unwrap();
    }
}

/// What such a filesystem keeps of a folder.
pub(super) fn as_kept(mut manifest: Manifest) -> Manifest {
    for object in manifest.values_mut() {
        object.mode = 0o755;
        object.owner = (0, 0);
        object.links = 1;
        object.used_bytes = 0;
        object.modified = (object.modified.0 & !1, 0);
        object.other_times = [None; 3];
        if object.kind == FileKind::Directory {
            // mtools gives folders the time of the copy.
            object.modified = (0, 0);
        }
        object.attributes.clear();
    }
    manifest
}

#[test]
fn trees_of_every_width_are_read() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let expected = as_kept(of_folder(&source));
    let image = home.path().join("image");
    for (kib, options) in [
        (1440, "-F 12 -n FLOPPY"),
        (2048, "-F 12 -s 8 -f 1 -n FLOPPY"),
        (8192, "-F 16 -s 1 -r 1024 -n SIXTEEN"),
        (32768, "-F 16 -s 16 -S 512 -n SIXTEEN"),
        (65536, "-F 16 -S 4096 -s 1 -n SECTORS"),
        (70_000, "-F 32 -s 2 -n THIRTYTWO"),
        (300_000, "-F 32 -s 8 -f 1 -n THIRTYTWO"),
    ] {
        mkfs_fat(&image, kib, Some(&source), options);
        let found = of_tree(&*tree(&image));
        let owned = found.values().find(|object| object.used_bytes > 0).unwrap();
        assert!(owned.used_bytes % 512 == 0 && owned.attributes.len() <= 1);
        compare(&as_kept(found), &expected, options);
        let label = options.rsplit(' ').next().unwrap();
        assert_eq!(volume(&image).label.as_deref(), Some(label));
    }
    // FAT32 with fewer clusters than others would take for it.
    mkfs_fat(&image, 70_000, Some(&source), "-F 32 -s 2");
    let mut bytes = fs::read(&image).unwrap();
    shorten(&mut bytes, 8 << 20);
    fs::write(&image, bytes).unwrap();
    compare(&as_kept(of_tree(&*tree(&image))), &expected, "few clusters");
}

#[test]
fn names_are_found_in_any_case_and_by_their_short_ones() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let image = home.path().join("image");
    mkfs_fat(&image, 8192, Some(&source), "-F 16 -s 1");
    let tree = tree(&image);
    let find = |folder, name: &str| tree.lookup(folder, name.as_bytes());
    let root = tree.root();
    for (one, other) in [
        ("lower.txt", "LOWER.TXT"),
        ("ÜNÏCÖDÉ AND more", "ünïcödé and more"),
        ("日本語の名前.txt", "日本語の名前.TXT"),
        ("twenty-six letters of them", "TWENTY~1"),
    ] {
        // One that is written exactly so goes first.
        assert_eq!(
            find(root, one).unwrap(),
            find(root, other).unwrap(),
            "{one}"
        );
    }
    let many = find(root, "MANY").unwrap();
    let file = find(many, "A NAME AND THE NUMBER 117").unwrap();
    assert_eq!(find(many, "a name and the number 117").unwrap(), file);
    assert!(find(many, "a name and the number 200").is_err());
}

#[test]
fn what_holds_a_folder_is_found_again_after_opening() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let image = home.path().join("image");
    mkfs_fat(&image, 8192, Some(&source), "-F 16 -s 1");
    let first = tree(&image);
    let mut path = vec![first.root()];
    for level in 0..12 {
        let name = format!("Level {level}");
        path.push(
            first
                .lookup(*path.last().unwrap(), name.as_bytes())
                .unwrap(),
        );
    }
    let again = tree(&image);
    for pair in path.windows(2).rev() {
        assert_eq!(again.lookup(pair[1], b"..").unwrap(), pair[0]);
    }
    assert_eq!(again.lookup(again.root(), b"..").unwrap(), again.root());
}

#[test]
fn attributes_and_times_of_dos_are_shown() {
    if !have("mkfs.fat") || !have("mattrib") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file.txt"), "content").unwrap();
    let image = home.path().join("image");
    mkfs_fat(&image, 1440, Some(&source), "-F 12");
    let run = |program, options: &[&str]| {
        let output = mtools(program, &image, options).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    run("mattrib", &["+r", "+h", "+s", "-a", "::/file.txt"]);
    let mut raw = Raw::read(&image);
    let entry = raw.entry(b"FILE    TXT");
    // Made at 12:34:57.57 on 2024-02-29, read on 2024-03-01.
    raw.bytes[entry + 13] = 157;
    let made: [u16; 3] = [
        12 << 11 | 34 << 5 | 28,
        44 << 9 | 2 << 5 | 29,
        44 << 9 | 3 << 5 | 1,
    ];
    for (at, word) in made.iter().enumerate() {
        raw.bytes[entry + 14 + at * 2..entry + 16 + at * 2].copy_from_slice(&word.to_le_bytes());
    }
    fs::write(&image, &raw.bytes).unwrap();
    let tree = tree(&image);
    let file = tree.lookup(tree.root(), b"file.txt").unwrap();
    let attributes = tree.attributes(file).unwrap();
    assert_eq!(attributes.mode, 0o555);
    assert_eq!(attributes.accessed.seconds, 1_709_251_200);
    let created = tree.particulars(file).unwrap().created.unwrap();
    assert_eq!(
        (created.seconds, created.nanoseconds),
        (1_709_210_097, 570_000_000)
    );
    let carried = tree.extended_attributes(file).unwrap();
    assert_eq!(carried[0].name, b"user.DOSATTRIB");
    assert_eq!(carried[0].value, b"0x7");
}

/// An image with a folder `big` that holds these entries, and a file that they can lead to.
fn with_folder(home: &Path, options: &str, make: impl Fn(u16) -> Vec<u8>) -> Raw {
    let source = home.join("source");
    drop(fs::remove_dir_all(&source));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let image = home.join("image");
    mkfs_fat(&image, 32768, Some(&source), options);
    let file = Raw::read(&image).first_cluster(b"FILE       ");
    fs::write(source.join("big"), make(u16::try_from(file).unwrap())).unwrap();
    mkfs_fat(&image, 32768, None, options);
    for name in ["file", "big"] {
        let output = mtools("mcopy", &image, &[])
            .arg(source.join(name))
            .arg("::/")
            .output();
        assert!(output.unwrap().status.success());
    }
    let mut raw = Raw::read(&image);
    assert_eq!(raw.first_cluster(b"FILE       "), file);
    let entry = raw.entry(b"BIG        ");
    raw.bytes[entry + 11] = 0x10;
    fs::write(&image, &raw.bytes).unwrap();
    raw
}

#[test]
fn folders_of_fifty_thousand_are_listed_and_searched_at_once() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    with_folder(home.path(), "-F 16", |cluster| {
        let numbers = 0..50_000;
        let entry = |number| entries(&format!("entry number {number}"), number, cluster, 7);
        numbers.flat_map(entry).collect()
    });
    let tree = tree(&home.path().join("image"));
    let folder = tree.lookup(tree.root(), b"big").unwrap();
    let began = Instant::now();
    let all = tree.list(folder, 0, usize::MAX).unwrap();
    let listed = began.elapsed();
    check_fifty_thousand(&*tree, folder, &all);
    assert_eq!(read_all(&*tree, all[777].file), b"content");
    println!("50,000 entries: listed with attributes in {listed:?}");
    assert!(listed.as_secs() < 5, "{listed:?}");
}

/// Names as they are listed.
fn names(tree: &dyn FileExport, folder: &[u8]) -> Vec<String> {
    let folder = tree.lookup(tree.root(), folder).unwrap();
    let entries = tree.list(folder, 0, usize::MAX).unwrap();
    let names = entries
        .into_iter()
        .map(|entry| String::from_utf8(entry.name).unwrap());
    names.collect()
}

#[test]
fn odd_entries_hide_nothing() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    with_folder(home.path(), "-F 16", |cluster| {
        let long = |number| entries("a long name of two parts", number, cluster, 7);
        let mut all = Vec::new();
        // Bytes of any code page, a first byte that would mean a free entry, a slash.
        all.extend(short_entry(b"\x9AB\xE1NG   \x8ET ", 0x20, cluster, 7));
        all.extend(short_entry(b"\x05\xFF\x80     TXT", 0x20, cluster, 7));
        all.extend(short_entry(b"A/B     TXT", 0x20, cluster, 7));
        // A long name whose checksum is another's, one whose last part is missing, one that is interrupted.
        let mut wrong = long(1);
        wrong[13] ^= 1;
        all.extend(wrong);
        all.extend(&long(2)[32..]);
        let parts = long(3);
        all.extend(&parts[..32]);
        all.extend(short_entry(b"BETWEEN TXT", 0x20, cluster, 7));
        all.extend(&parts[32..]);
        // One that is whole, after a removed one and a label.
        let mut removed = long(4);
        for at in (0..removed.len()).step_by(32) {
            removed[at] = 0xE5;
        }
        all.extend(removed);
        all.extend(short_entry(b"LABEL      ", 0x08, 0, 0));
        all.extend(long(5));
        all.extend([0; 32]);
        all.extend(long(6));
        all
    });
    let tree = tree(&home.path().join("image"));
    let found = names(&*tree, b"big");
    let expected = [
        "ÜBßNG.ÄT",
        "σ\u{a0}Ç.TXT",
        "A_B.TXT",
        "0000001~.TXT",
        "0000002~.TXT",
        "BETWEEN.TXT",
        "0000003~.TXT",
        "a long name of two parts",
    ];
    assert_eq!(found, expected);
    let folder = tree.lookup(tree.root(), b"big").unwrap();
    for name in expected {
        let file = tree.lookup(folder, name.as_bytes()).unwrap();
        assert_eq!(read_all(&*tree, file), b"content", "{name}");
    }
}

#[test]
fn broken_chains_are_told_and_the_second_table_helps() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    let content: Vec<u8> = (0..20_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    fs::write(source.join("broken"), &content).unwrap();
    fs::write(source.join("sound"), &content).unwrap();
    let image = home.path().join("image");
    mkfs_fat(&image, 8192, Some(&source), "-F 16 -s 1");
    let raw = Raw::read(&image);
    let first = raw.first_cluster(b"BROKEN     ");
    let fifth = (0..5).fold(first, |cluster, _| raw.linked(cluster).into());
    let other = u16::try_from(raw.first_cluster(b"SOUND      ")).unwrap();
    let circle = u16::try_from(first + 1).unwrap();
    for (value, said) in [
        (0, "is free"),
        (1, "that there is not"),
        (0xFFF0, "that there is not"),
        (0xFFF7, "marked as bad"),
        (0xFFFF, "less room"),
        (circle, "in circles"),
    ] {
        let mut raw = Raw::read(&image);
        let damaged = home.path().join("damaged");
        raw.link(0, fifth, value);
        fs::write(&damaged, &raw.bytes).unwrap();
        if value != 0xFFFF {
            // A chain that merely ends is believed.
            let tree = tree(&damaged);
            let file = tree.lookup(tree.root(), b"broken").unwrap();
            assert!(read_all(&*tree, file) == content, "{said}");
        }
        raw.link(1, fifth, value);
        fs::write(&damaged, &raw.bytes).unwrap();
        let tree = tree(&damaged);
        let file = tree.lookup(tree.root(), b"broken").unwrap();
        let error = tree.read(file, 0, 20_000).unwrap_err().to_string();
        assert!(error.contains(said), "{value:x}: {error}");
        if said != "in circles" {
            // What is before the fault is there.
            let read = tree.read(file, 0, 2000).unwrap();
            assert!(read.data.to_vec() == content[..2000], "{said}");
        }
        let sound = tree.lookup(tree.root(), b"sound").unwrap();
        assert!(read_all(&*tree, sound) == content);
        assert!(manifest::hash(&content) != 0 && other > 0);
    }
}

#[test]
fn the_copy_of_a_boot_sector_is_taken() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let image = home.path().join("image");
    mkfs_fat(&image, 70_000, Some(&source), "-F 32 -s 2");
    let expected = of_tree(&*tree(&image));
    let mut raw = Raw::read(&image);
    // A table that is longer than the volume.
    raw.bytes[36..40].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&image, &raw.bytes).unwrap();
    compare(&of_tree(&*tree(&image)), &expected, "by the copy");
}
