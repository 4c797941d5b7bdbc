//! Files, folders and subvolumes, compared with what the kernel shows.

use std::fs::{self, File};
use std::time::Instant;

use export::FileKind;
use guestfs::Content;
use tempfile::tempdir;

use super::allocation::check_used_copy;
use super::programs::{btrfs, fill_all, forget_since, mkfs, now, sync};
use crate::image::{Mount, have, tree, volume};
use crate::manifest::{compare, of_folder, of_tree};

#[test]
fn every_kind_of_filesystem_is_read_as_the_kernel_reads_it() {
    if !have("mkfs.btrfs") {
        return;
    }
    let all = ["none", "zstd", "lzo", "zlib"];
    for (kind, compressions) in [
        ("-L label", &all[..]),
        ("-L label --csum xxhash -n 4096 -m single", &all[1..2]),
        (
            "-L label --csum sha256 -n 65536 -O ^no-holes -R ^free-space-tree",
            &all[2..3],
        ),
        ("-L label --csum blake2 -M -O ^skinny-metadata,^extref", &[]),
    ] {
        let home = tempdir().unwrap();
        let image = home.path().join("image");
        mkfs(&image, 512 << 20, kind);
        let Some(mount) = Mount::new(&image, "btrfs", "noatime") else {
            return;
        };
        if compressions.is_empty() {
            fs::write(mount.path().join("a file"), "of few").unwrap();
            fs::create_dir(mount.path().join("a folder")).unwrap();
            fs::write(mount.path().join("another file"), "of few").unwrap();
            fs::write(mount.path().join("large"), vec![3; 1 << 20]).unwrap();
        } else {
            fill_all(mount.path(), compressions);
        }
        // Whoever copied the mounts of this machine meanwhile keeps the filesystem in use.
        sync(mount.path());
        drop(mount);
        let moment = now(home.path());
        let volume = volume(&image);
        assert_eq!(volume.content, Content::Btrfs, "{kind}");
        assert_eq!(volume.label.as_deref(), Some("label"), "{kind}");
        let tree = volume.files().unwrap();
        let found = of_tree(&*tree);
        let mount = Mount::new(&image, "btrfs", "noatime").unwrap();
        let mut expected = of_folder(mount.path());
        drop(mount);
        forget_since(&mut expected, &found, moment);
        compare(&found, &expected, kind);
        let statistics = tree.statistics().unwrap();
        assert!(statistics.free_bytes < statistics.total_bytes && statistics.free_bytes > 0);
        if compressions.len() != 1 {
            check_used_copy(&image, &expected, kind);
        }
    }
}

#[test]
fn subvolumes_keep_their_names_and_lead_back() {
    if !have("mkfs.btrfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mkfs(&image, 256 << 20, "");
    let Some(mount) = Mount::new(&image, "btrfs", "noatime") else {
        return;
    };
    let root = mount.path();
    btrfs("subvolume create", &[&root.join("outer")]);
    btrfs("subvolume create", &[&root.join("outer/inner")]);
    btrfs("subvolume create", &[&root.join("outer/second")]);
    fs::write(root.join("outer/inner/file"), "content").unwrap();
    btrfs(
        "subvolume snapshot",
        &[&root.join("outer"), &root.join("copy")],
    );
    // What is shown is the uppermost one, whatever is mounted by default.
    btrfs("subvolume set-default", &[&root.join("outer")]);
    drop(mount);
    let tree = tree(&image);
    let find = |path: &[&[u8]]| {
        path.iter().fold(tree.root(), |folder, name| {
            tree.lookup(folder, name).unwrap()
        })
    };
    let inner = find(&[b"outer", b"inner"]);
    let file = find(&[b"outer", b"inner", b"file"]);
    assert!(file.0 >> 48 == 0 && file.0 != 0);
    assert_eq!(tree.read(file, 0, 100).unwrap().data.to_vec(), b"content");
    assert_eq!(
        find(&[b"outer", b"inner", b"..", b"..", b"outer"]),
        find(&[b"outer"])
    );
    assert_eq!(find(&[b"..", b"."]), tree.root());
    // A snapshot has nothing of what was inside its source, but the folders, each a thing of its own.
    let empty = find(&[b"copy", b"inner"]);
    assert_ne!(empty, inner);
    assert_ne!(empty, find(&[b"copy", b"second"]));
    assert_eq!(tree.attributes(empty).unwrap().kind, FileKind::Directory);
    assert_eq!(tree.list(empty, 0, 10).unwrap(), []);
    assert_eq!(find(&[b"copy", b"inner", b".."]), find(&[b"copy"]));
    // The names are good for whoever opens the image the next time, and asks for nothing else before.
    let again = crate::image::tree(&image);
    assert_eq!(again.lookup(empty, b"..").unwrap(), find(&[b"copy"]));
    assert_eq!(
        again.attributes(file).unwrap(),
        tree.attributes(file).unwrap()
    );
    for wrong in [0, 1, 255, 1 << 47, (1 << 48) - 1, u64::MAX] {
        assert!(tree.attributes(export::FileId(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn a_folder_of_fifty_thousand_is_read() {
    if !have("mkfs.btrfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mkfs(&image, 512 << 20, "");
    let Some(mount) = Mount::new(&image, "btrfs", "noatime") else {
        return;
    };
    let folder = mount.path().join("big");
    fs::create_dir(&folder).unwrap();
    for number in 0..50_000 {
        File::create(folder.join(format!("entry number {number}"))).unwrap();
    }
    sync(mount.path());
    drop(mount);
    let tree = tree(&image);
    let folder = tree.lookup(tree.root(), b"big").unwrap();
    let began = Instant::now();
    let all = tree.list(folder, 0, usize::MAX).unwrap();
    println!(
        "50,000 entries: listed with attributes in {:?}",
        began.elapsed()
    );
    crate::ext::content::check_fifty_thousand(&*tree, folder, &all);
}
