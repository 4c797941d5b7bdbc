//! Files and folders, as xorriso and genisoimage put them on discs.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use export::{DirectoryEntry, ExportError, FileExport, FileKind};
use tempfile::tempdir;

use super::raw::{both, entry, image, record};
use crate::ext::content::{check_fifty_thousand, fill};
use crate::image::{have, run, tree, volume};
use crate::manifest::{Manifest, compare, of_folder, of_tree, read_all};

/// Makes a disc of a folder by a program.
pub(super) fn make(program: &str, image: &Path, folder: &Path, options: &str) {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    if program == "xorriso" {
        command.args(["-as", "mkisofs"]);
    }
    command.args(options.split_whitespace());
    run(command
        .args(["-quiet", "-V", "LABEL", "-o"])
        .arg(image)
        .arg(folder));
}

/// A tree without what discs do not keep and this test does not want: the largest files and the most sparse ones.
fn fill_for_disc(folder: &Path) {
    fill(folder);
    for name in ["sparse", "hole", "islands", "link-900"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    for (at, path) in of_folder(folder).iter().enumerate() {
        if path.1.kind == FileKind::File && path.1.special.is_none() {
            let path = folder.join(std::str::from_utf8(&path.0[1..]).unwrap());
            let time =
                std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_001 + at as u64);
            File::open(path).unwrap().set_modified(time).unwrap();
        }
    }
}

/// Without what a disc has no room for.
fn as_kept(mut manifest: Manifest) -> Manifest {
    for object in manifest.values_mut() {
        object.used_bytes = 0;
        object.modified.1 = 0;
        object.other_times = [None; 3];
        if object.kind == FileKind::Directory {
            object.links = 1;
        }
    }
    manifest
}

#[test]
fn rock_ridge_keeps_everything() {
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fill_for_disc(&source);
    let expected = as_kept(of_folder(&source));
    let image = home.path().join("image");
    for (program, options) in [
        ("xorriso", "-R -J -joliet-long"),
        ("xorriso", "-R -iso-level 1 -no-pad"),
        ("genisoimage", "-R -D -J -joliet-long -l"),
        ("genisoimage", "-R -D -U"),
    ] {
        if !have(program) {
            continue;
        }
        make(program, &image, &source, options);
        let mut found = as_kept(of_tree(&*tree(&image)));
        if program == "genisoimage" {
            // It knows no hard links, and does not count them.
            for name in ["/size-61", "/second name"] {
                found.get_mut(name.as_bytes()).unwrap().links = 2;
            }
        }
        compare(&found, &expected, options);
        let volume = volume(&image);
        assert_eq!(volume.label.as_deref(), Some("LABEL"));
        let mut all = volume.allocated().unwrap().map(Result::unwrap);
        assert_eq!(all.next(), Some(0..volume.length_bytes));
        assert!(all.next().is_none());
    }
}

#[test]
fn folders_that_were_put_elsewhere_are_where_they_belong() {
    if !have("genisoimage") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fill_for_disc(&source);
    let expected = as_kept(of_folder(&source));
    let image = home.path().join("image");
    make("genisoimage", &image, &source, "-R -l");
    let mut found = as_kept(of_tree(&*tree(&image)));
    for name in ["/size-61", "/second name"] {
        found.get_mut(name.as_bytes()).unwrap().links = 2;
    }
    // Where they were put is a folder that shows nothing.
    let place = found.remove(&b"/rr_moved"[..]).unwrap();
    assert_eq!(place.kind, FileKind::Directory);
    compare(&found, &expected, "relocated");
}

#[test]
fn joliet_and_plain_names_are_shown() {
    if !have("genisoimage") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir_all(source.join("A Folder")).unwrap();
    let names = [
        "short.txt",
        "A Folder/Ünïcödé and some more.text",
        "noending",
    ];
    for name in names {
        fs::write(source.join(name), name).unwrap();
    }
    let image = home.path().join("image");
    let paths = |options| {
        make("genisoimage", &image, &source, options);
        let tree = tree(&image);
        let found = of_tree(&*tree);
        let object = found.values().next().unwrap();
        assert_eq!((object.mode, object.owner), (0o555, (0, 0)));
        let paths = found
            .into_keys()
            .map(|path| String::from_utf8(path).unwrap());
        paths.collect::<Vec<_>>()
    };
    let joliet = paths("-J -input-charset utf-8");
    let expected = [
        "/A Folder",
        "/A Folder/Ünïcödé and some more.text",
        "/noending",
        "/short.txt",
    ];
    assert_eq!(joliet, expected);
    let plain = paths("-input-charset utf-8");
    assert_eq!(plain.len(), 4);
    assert!(plain.contains(&"/a_folder".to_owned()), "{plain:?}");
    assert!(plain.contains(&"/noending".to_owned()), "{plain:?}");
}

#[test]
fn long_links_and_names_go_on_elsewhere() {
    if !have("xorriso") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    for (at, target) in [
        "/".to_owned(),
        "/absolute/path".to_owned(),
        ".././../x".to_owned(),
        "y".repeat(250),
        "long/".repeat(150) + "end",
        format!("{}/{}", "z".repeat(250), "a".repeat(255)),
    ]
    .into_iter()
    .enumerate()
    {
        symlink(target, source.join(format!("link {at}"))).unwrap();
        symlink(
            "t".repeat(at + 1),
            source.join(format!("{at}{}", "n".repeat(250))),
        )
        .unwrap();
    }
    let image = home.path().join("image");
    make("xorriso", &image, &source, "-R");
    let found = as_kept(of_tree(&*tree(&image)));
    compare(&found, &as_kept(of_folder(&source)), "links");
}

#[test]
fn folders_of_fifty_thousand_are_listed_and_searched_at_once() {
    let records = (0..50_000).map(|number| {
        let name = format!("entry number {number}");
        let name = entry(b"NM", &[&[0], name.as_bytes()].concat());
        record(format!("{number:08};1").as_bytes(), 30, 7, 0, &name)
    });
    let mut folder = record(b"\0", 40, 0, 2, &[]);
    folder.extend(record(b"\x01", 20, 2048, 2, &[]));
    for record in records {
        if folder.len() % 2048 + record.len() > 2048 {
            folder.resize(folder.len().next_multiple_of(2048), 0);
        }
        folder.extend(record);
    }
    folder.resize(folder.len().next_multiple_of(2048), 0);
    let length = u32::try_from(folder.len()).unwrap();
    folder[10..14].copy_from_slice(&length.to_le_bytes());
    let own = [entry(b"SP", &[0xBE, 0xEF, 0]), entry(b"RR", &[0x89])].concat();
    let mut bytes = image(&[
        record(b"\0", 20, 2048, 2, &own),
        record(b"\x01", 20, 2048, 2, &[]),
        record(b"BIG", 40, length, 2, &[]),
    ]);
    bytes.extend(folder);
    let home = tempdir().unwrap();
    let path = home.path().join("image");
    fs::write(&path, bytes).unwrap();
    let tree = tree(&path);
    let folder = tree.lookup(tree.root(), b"big").unwrap();
    let began = Instant::now();
    let all = tree.list(folder, 0, usize::MAX).unwrap();
    let listed = began.elapsed();
    check_fifty_thousand(&*tree, folder, &all);
    assert_eq!(read_all(&*tree, all[777].file), [30; 7]);
    println!("50,000 entries: listed with attributes in {listed:?}");
    assert!(listed.as_secs() < 5, "{listed:?}");
}

fn tree_of(records: &[Vec<u8>]) -> (tempfile::TempDir, std::sync::Arc<dyn FileExport>) {
    let home = tempdir().unwrap();
    let path = home.path().join("image");
    fs::write(&path, image(records)).unwrap();
    let tree = tree(&path);
    (home, tree)
}

/// Each is the same by itself, and found.
fn check_entries(tree: &dyn FileExport, listed: &[DirectoryEntry]) {
    for entry in listed {
        assert_eq!(tree.attributes(entry.file).unwrap(), entry.attributes);
        assert_eq!(tree.lookup(tree.root(), &entry.name).unwrap(), entry.file);
    }
}

#[test]
fn files_of_many_parts_are_one_and_what_is_not_known_is_told() {
    let sp = entry(b"SP", &[0xBE, 0xEF, 0]);
    let px = |mode: u32| {
        let words = [mode, 1, 7, 8].map(both).concat();
        entry(b"PX", &words)
    };
    let own = [sp, px(0o40755)].concat();
    let mut interleaved = record(b"WOVEN.;1", 30, 4096, 0, &px(0o100_644));
    interleaved[26] = 1;
    let sparse = [
        px(0o100_644),
        entry(b"SF", &[both(0), both(9), vec![1]].concat()),
    ]
    .concat();
    let zipped = [
        px(0o100_644),
        entry(b"ZF", &[b"pz\x04\x0F", &both(9)[..]].concat()),
    ]
    .concat();
    let named = [
        px(0o100_600),
        entry(b"NM", b"\x01in two "),
        entry(b"NM", b"\0parts/"),
    ]
    .concat();
    let (_home, tree) = tree_of(&[
        record(b"\0", 20, 2048, 2, &own),
        record(b"\x01", 20, 2048, 2, &px(0o40755)),
        record(b"PARTS.;1", 30, 4096, 0x80, &px(0o100_644)),
        record(b"PARTS.;1", 35, 2048, 0x80, &px(0o100_644)),
        record(b"PARTS.;1", 33, 100, 0, &px(0o100_644)),
        interleaved,
        record(b"FORK.;1", 30, 10, 4, &px(0o100_644)),
        record(b"SPARSE.;1", 30, 10, 0, &sparse),
        record(b"ZIPPED.;1", 30, 10, 0, &zipped),
        record(b"NAMED.;1", 30, 10, 0, &named),
        record(b"ENDLESS.;1", 30, 10, 0x80, &px(0o100_644)),
    ]);
    let listed = tree.list(tree.root(), 0, usize::MAX).unwrap();
    let names: Vec<&[u8]> = listed.iter().map(|entry| entry.name.as_slice()).collect();
    let expected: [&[u8]; 6] = [
        b"parts",
        b"woven",
        b"sparse",
        b"zipped",
        b"in two parts_",
        b"endless",
    ];
    assert_eq!(names, expected);
    check_entries(&*tree, &listed);
    let content = read_all(&*tree, listed[0].file);
    let expected = [
        vec![30; 2048],
        vec![31; 2048],
        vec![35; 2048],
        vec![33; 100],
    ]
    .concat();
    assert!(content == expected);
    let attributes = listed[0].attributes;
    assert_eq!((attributes.uid, attributes.mode), (7, 0o644));
    assert_eq!(attributes.modified.seconds, 1_709_210_096);
    let read = |at: usize| tree.read(listed[at].file, 0, 10);
    for at in 1..4 {
        assert!(matches!(read(at), Err(ExportError::NotSupported)), "{at}");
    }
    assert_eq!(read(4).unwrap().data.to_vec(), [30; 10]);
    let error = read(5).unwrap_err().to_string();
    assert!(error.contains("does not go on"), "{error}");
}
