//! Filesystems of version 4, made by mkfs alone, as not every kernel mounts them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use export::FileKind;
use tempfile::tempdir;

use super::programs::mkfs;
use crate::image::{have, run, tree, volume};
use crate::manifest::{Manifest, compare, of_folder, of_tree};

/// A folder and what mkfs is to be told to make the same.
fn source(folder: &Path, names: usize) -> String {
    fs::create_dir_all(folder.join("inner/deep")).unwrap();
    let mut text = "/\n0 0\nd--755 0 0\n".to_owned();
    let mut add = |name: &str, length: usize| {
        let path = folder.join(name);
        let bytes: Vec<u8> = (0..length)
            .map(|at| u8::try_from((at * 7 + at / 251) % 255).unwrap() + 1)
            .collect();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        text.push_str(&format!("{name} ---640 0 0 {}\n", path.display()));
    };
    for length in [0, 1, 511, 512, 513, 100_000, 3 << 20] {
        add(&format!("size-{length}"), length);
    }
    for number in 0..names {
        add(
            &format!("a-file-with-a-long-name-and-the-number-{number}"),
            number % 3,
        );
    }
    symlink("short", folder.join("fast")).unwrap();
    symlink("t".repeat(500), folder.join("slow")).unwrap();
    run(Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(folder.join("fifo")));
    text.push_str(&format!(
        "fast l--777 0 0 short\nslow l--777 0 0 {}\n",
        "t".repeat(500)
    ));
    text.push_str("fifo p--600 0 0\n");
    text.push_str("inner d--755 0 0\ndeep d--755 0 0\n");
    fs::write(folder.join("inner/deep/file"), "deep").unwrap();
    let deep = folder.join("inner/deep/file");
    text.push_str(&format!("file ---644 0 0 {}\n$\n$\n$\n", deep.display()));
    text
}

/// Makes a filesystem of version 4 at `image`; what is in it is returned.
pub(crate) fn make(image: &Path, names: usize, options: &str) -> Manifest {
    let home = tempdir().unwrap();
    let text = source(&home.path().join("source"), names);
    let plan = home.path().join("plan");
    fs::write(&plan, text).unwrap();
    let options = format!(
        "-m crc=0,finobt=0,reflink=0,rmapbt=0 {options} -p {}",
        plan.display()
    );
    mkfs(image, 40, &options);
    of_folder(&home.path().join("source"))
}

/// What mkfs does not copy: times, and space as it needs it.
fn plain(mut manifest: Manifest) -> Manifest {
    for object in manifest.values_mut() {
        object.modified = (0, 0);
        object.other_times = [None; 3];
        object.used_bytes = 0;
        object.attributes.clear();
    }
    manifest
}

#[test]
fn version_4_gives_back_what_was_put_in() {
    if !have("mkfs.xfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    for options in [
        "",
        "-b size=512 -i size=256 -n size=4096",
        "-b size=8192 -n ftype=0,size=65536 -i size=512,attr=1 -l version=1",
        "-n version=ci -i projid32bit=0",
    ] {
        let expected = make(&image, 900, options);
        let tree = tree(&image);
        compare(&plain(of_tree(&*tree)), &plain(expected), options);
        let ranges = volume(&image).allocated().unwrap();
        let used: u64 = ranges
            .map(Result::unwrap)
            .map(|range| range.end - range.start)
            .sum();
        assert!((4 << 20..40 << 20).contains(&used), "{options}: {used}");
        let found = tree.lookup(tree.root(), b"SIZE-513");
        assert_eq!(found.is_ok(), options.contains("ci"), "{options}");
        let inner = tree.lookup(tree.root(), b"inner").unwrap();
        assert_eq!(tree.attributes(inner).unwrap().kind, FileKind::Directory);
    }
}
