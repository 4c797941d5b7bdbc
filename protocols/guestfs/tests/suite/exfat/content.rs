//! Files and folders, as exfat-fuse writes and shows them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use export::{FileExport, FileId};
use tempfile::tempdir;

use super::raw::{Raw, entries, mkfs_exfat};
use crate::ext::content::check_fifty_thousand;
use crate::image::{Mount, tree, volume};
use crate::manifest::{Manifest, compare, of_folder, of_tree, read_all};

/// Files at the sizes where something changes, woven ones, folders longer than a cluster, and names of every kind.
pub(super) fn fill(folder: &Path) {
    let content = |length: usize, seed: usize| -> Vec<u8> {
        (0..length)
            .map(|at| u8::try_from((at * 7 + at / 251 + seed) % 255).unwrap())
            .collect()
    };
    for (seed, size) in [0, 1, 511, 512, 4095, 4096, 4097, 70_000, 900_000]
        .into_iter()
        .enumerate()
    {
        fs::write(folder.join(format!("size-{size}")), content(size, seed)).unwrap();
    }
    let long = "日".repeat(80);
    for name in [
        "lower",
        "UPPER",
        "Mixed",
        "ünïcödé",
        "日本語.txt",
        "pair 🗎",
        &long,
        &"n".repeat(255),
    ] {
        fs::write(folder.join(name), name).unwrap();
    }
    for step in 0..12_u8 {
        for name in ["woven-1", "woven-2"] {
            let mut options = File::options();
            let file = options.create(true).append(true).open(folder.join(name));
            file.unwrap().write_all(&vec![step + 1; 5000]).unwrap();
        }
    }
    fs::create_dir(folder.join("empty")).unwrap();
    let mut deep = folder.to_owned();
    for level in 0..12 {
        deep.push(format!("Level {level}"));
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("file"), content(level * 100, level)).unwrap();
    }
    let many = folder.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..300 {
        fs::write(many.join(format!("a name and the number {number}")), "x").unwrap();
    }
    for (at, path) in of_folder(folder).keys().enumerate() {
        let path = folder.join(Path::new(std::str::from_utf8(&path[1..]).unwrap()));
        let time =
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_001 + at as u64);
        File::open(path).unwrap().set_modified(time).unwrap();
    }
}

/// What exfat-fuse has no way to show.
fn as_shown(mut manifest: Manifest) -> Manifest {
    for object in manifest.values_mut() {
        object.attributes.clear();
        object.other_times[2] = None;
    }
    manifest
}

fn by_fuse(image: &Path) -> Option<Manifest> {
    let mount = Mount::new(image, "exfat-fuse", "ro,umask=022,uid=0,gid=0")?;
    Some(as_shown(of_folder(mount.path())))
}

#[test]
fn trees_are_those_of_exfat_fuse() {
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    for (mib, options) in [
        (64, "-L Läbel -c 512"),
        (64, "-L Läbel"),
        (300, "-L Läbel -c 131072"),
    ] {
        if mkfs_exfat(&image, mib, options, fill).is_none() {
            return;
        }
        let expected = by_fuse(&image).unwrap();
        assert!(expected.len() > 300);
        let found = of_tree(&*tree(&image));
        compare(&as_shown(found), &expected, options);
        assert_eq!(volume(&image).label.as_deref(), Some("Läbel"));
    }
}

#[test]
fn names_are_found_in_any_case_and_what_holds_them_after_opening() {
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    if mkfs_exfat(&image, 64, "-c 512", fill).is_none() {
        return;
    }
    let first = tree(&image);
    let find = |folder, name: &str| first.lookup(folder, name.as_bytes());
    for (one, other) in [("lower", "LOWER"), ("ÜNÏCÖDÉ", "ünïcödé"), ("MANY", "many")] {
        let root = first.root();
        assert_eq!(
            find(root, one).unwrap(),
            find(root, other).unwrap(),
            "{one}"
        );
    }
    let many = find(first.root(), "many").unwrap();
    let file = find(many, "A NAME AND the number 117").unwrap();
    assert_eq!(find(many, "a name and the number 117").unwrap(), file);
    assert!(find(many, "a name and the number 300").is_err());
    let mut path = vec![first.root()];
    for level in 0..12 {
        path.push(find(*path.last().unwrap(), &format!("level {level}")).unwrap());
    }
    let again = tree(&image);
    for pair in path.windows(2).rev() {
        assert_eq!(again.lookup(pair[1], b"..").unwrap(), pair[0]);
    }
}

fn root_file(tree: &dyn FileExport, name: &str) -> FileId {
    tree.lookup(tree.root(), name.as_bytes()).unwrap()
}

#[test]
fn what_was_not_written_is_zero_and_zones_count() {
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    if mkfs_exfat(&image, 64, "-c 4096", fill).is_none() {
        return;
    }
    let mut raw = Raw::read(&image);
    let set = raw.set("size-70000");
    raw.bytes[set + 40..set + 48].copy_from_slice(&50_001_u64.to_le_bytes());
    // Made at 12:34:57.57 on 2024-02-29, an hour before UTC; changed then where it was two hours after UTC.
    let date: u32 = (44 << 9 | 2 << 5 | 29) << 16 | 12 << 11 | 34 << 5 | 28;
    for (at, hundredths, zone) in [(8, 20, 22), (12, 21, 23)] {
        raw.bytes[set + at..set + at + 4].copy_from_slice(&date.to_le_bytes());
        raw.bytes[set + hundredths] = 157;
        raw.bytes[set + zone] = if at == 8 { 0x84 } else { 0x80 | (128 - 8) };
    }
    raw.bytes[set + 4] = 0x03;
    raw.prove(set);
    fs::write(&image, &raw.bytes).unwrap();
    let tree = tree(&image);
    let file = root_file(&*tree, "size-70000");
    let content = read_all(&*tree, file);
    assert_eq!(content.len(), 70_000);
    assert!(content[50_001..].iter().all(|byte| *byte == 0));
    assert!(content[49_000..50_001].iter().any(|byte| *byte != 0));
    let attributes = tree.attributes(file).unwrap();
    let created = tree.particulars(file).unwrap().created.unwrap();
    let moment = |hours: u64| (1_709_210_097 + hours * 3600, 570_000_000);
    assert_eq!((created.seconds + 3600, created.nanoseconds), moment(0));
    let modified = attributes.modified;
    assert_eq!((modified.seconds, modified.nanoseconds), moment(2));
    assert_eq!(attributes.mode, 0o555);
    assert_eq!(tree.extended_attributes(file).unwrap()[0].value, b"0x3");
}

#[test]
fn damage_is_told_where_it_is() {
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    if mkfs_exfat(&image, 64, "-c 4096", fill).is_none() {
        return;
    }
    let mut raw = Raw::read(&image);
    let expected = of_tree(&*tree(&image));
    // A file whose entries were changed, one that lost its name, a chain that goes in circles, one that ends too soon.
    let changed = raw.set("size-511");
    raw.bytes[changed + 5] ^= 0x40;
    let nameless = raw.set("size-512");
    raw.bytes[nameless + 64] = 0x41;
    let set = raw.set("woven-1");
    assert_eq!(raw.bytes[set + 33] & 2, 0, "it has a chain");
    let first = raw.u32(set + 52);
    let link = raw.link_at(first);
    let second = raw.u32(link);
    let last = raw.link_at(second);
    let first_word = u32::try_from(first).unwrap().to_le_bytes();
    raw.bytes[last..last + 4].copy_from_slice(&first_word);
    let set = raw.set("woven-2");
    let at = raw.link_at(raw.u32(set + 52));
    raw.bytes[at..at + 4].fill(0xFF);
    fs::write(&image, &raw.bytes).unwrap();
    let tree = tree(&image);
    let listed = tree.list(tree.root(), 0, usize::MAX).unwrap();
    let entry = listed
        .iter()
        .find(|entry| entry.name == b"size-511")
        .unwrap();
    assert_eq!((entry.attributes.mode, entry.attributes.size_bytes), (0, 0));
    let error = tree.attributes(entry.file).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
    assert!(
        listed
            .iter()
            .any(|entry| entry.name.starts_with(b"damaged entry "))
    );
    let top = expected.keys().filter(|path| !path[1..].contains(&b'/'));
    assert_eq!(listed.len(), top.count());
    for (name, said) in [("woven-1", "in circles"), ("woven-2", "ends before")] {
        let file = root_file(&*tree, name);
        let error = tree.read(file, 0, 100).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn the_copies_of_boot_region_and_tables_are_taken() {
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    if mkfs_exfat(&image, 64, "-c 4096", fill).is_none() {
        return;
    }
    let expected = of_tree(&*tree(&image));
    let mut raw = Raw::read(&image);
    raw.bytes[92] ^= 1;
    fs::write(&image, &raw.bytes).unwrap();
    compare(&of_tree(&*tree(&image)), &expected, "by the copy");
    // The copy as well.
    raw.bytes[12 * 512 + 92] ^= 1;
    fs::write(&image, &raw.bytes).unwrap();
    let error = volume(&image).files().err().unwrap().to_string();
    assert!(error.contains("checksum"), "{error}");
    // A second table and a second bitmap, which are in use.
    raw.bytes[92] ^= 1;
    raw.bytes[12 * 512 + 92] ^= 1;
    let (from, length) = (raw.u32(80) * 512, raw.u32(84) * 512);
    let to = from + length;
    assert!(
        to + length <= raw.u32(88) * 512,
        "there is room for a second table"
    );
    raw.bytes.copy_within(from..to, to);
    raw.bytes[from..to].fill(0);
    for region in [0, 12 * 512] {
        raw.bytes[region + 110] = 2;
        raw.bytes[region + 106] |= 1;
    }
    raw.prove_boot();
    fs::write(&image, &raw.bytes).unwrap();
    compare(&of_tree(&*tree(&image)), &expected, "by the second table");
}

#[test]
fn folders_of_fifty_thousand_are_listed_and_searched_at_once() {
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    let file_cluster = |image: &Path| {
        let raw = Raw::read(image);
        let set = raw.set("file");
        u32::try_from(raw.u32(set + 52)).unwrap()
    };
    let first = |root: &Path| fs::write(root.join("file"), "content").unwrap();
    // Clusters in which sets of entries do not fit evenly.
    if mkfs_exfat(&image, 64, "-c 512", first).is_none() {
        return;
    }
    let cluster = file_cluster(&image);
    let made = mkfs_exfat(&image, 64, "-c 512", |root| {
        first(root);
        let entry = |number| entries(&format!("entry number {number}"), cluster, 7);
        let all: Vec<u8> = (0..50_000).flat_map(entry).collect();
        fs::write(root.join("big"), all.repeat(1)).unwrap();
        let mut woven = File::create(root.join("woven")).unwrap();
        let mut other = File::create(root.join("other")).unwrap();
        for part in all[..96 * 600].chunks(512) {
            woven.write_all(part).unwrap();
            woven.sync_all().unwrap();
            other.write_all(&[1; 512]).unwrap();
            other.sync_all().unwrap();
        }
    });
    made.unwrap();
    assert_eq!(file_cluster(&image), cluster);
    let mut raw = Raw::read(&image);
    for name in ["big", "woven"] {
        let set = raw.set(name);
        raw.bytes[set + 4] = 0x10;
        raw.prove(set);
    }
    fs::write(&image, &raw.bytes).unwrap();
    let tree = tree(&image);
    let folder = root_file(&*tree, "big");
    let began = Instant::now();
    let all = tree.list(folder, 0, usize::MAX).unwrap();
    let listed = began.elapsed();
    check_fifty_thousand(&*tree, folder, &all);
    assert_eq!(read_all(&*tree, all[777].file), b"content");
    println!("50,000 entries: listed with attributes in {listed:?}");
    assert!(listed.as_secs() < 5, "{listed:?}");
    // Each is the same by itself, wherever its set goes on.
    let woven = tree
        .list(root_file(&*tree, "woven"), 0, usize::MAX)
        .unwrap();
    assert_eq!(woven.len(), 475);
    for entry in woven.iter().chain(&all[..2000]) {
        assert_eq!(tree.attributes(entry.file).unwrap(), entry.attributes);
    }
}
