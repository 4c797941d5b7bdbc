//! Files and folders, as `mke2fs -d` puts them into filesystems of every kind.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use export::{
    Caller, DirectoryEntry, Durability, ExportError, FileExport, FileId, FileKind, SetAttributes,
};
use guestfs::Content;
use tempfile::tempdir;

use super::programs::{debugfs, mke2fs};
use crate::image::{have, run, tree, volume};
use crate::manifest::{self, compare, of_folder, of_tree};

/// Every kind of object, at the sizes where something changes.
pub(crate) fn fill(folder: &Path) {
    let content = |length: usize, seed: usize| -> Vec<u8> {
        (0..length)
            .map(|at| u8::try_from((at * 7 + at / 251 + seed) % 255).unwrap() + 1)
            .collect()
    };
    let sizes = [
        0,
        1,
        59,
        60,
        61,
        100,
        159,
        160,
        200,
        1023,
        1024,
        1025,
        4096,
        12 << 10,
    ];
    for (seed, size) in sizes
        .into_iter()
        .chain([270 << 10, 1 << 20, 5 << 20])
        .enumerate()
    {
        fs::write(folder.join(format!("size-{size}")), content(size, seed)).unwrap();
    }
    let sparse = File::create(folder.join("sparse")).unwrap();
    for place in [0_u64, 3 << 20, (7 << 20) + 5000, (90 << 20) - 3] {
        sparse.write_all_at(&content(9000, 3), place).unwrap();
    }
    sparse.set_len(100 << 20).unwrap();
    File::create(folder.join("hole"))
        .unwrap()
        .set_len(3 << 20)
        .unwrap();
    // More islands than extents fit into an inode and a block of 4 KiB.
    let islands = File::create(folder.join("islands")).unwrap();
    for number in 0..1500_u64 {
        islands
            .write_all_at(&number.to_le_bytes(), number * 8192)
            .unwrap();
    }
    for length in [1, 58, 59, 60, 61, 200, 900] {
        symlink("t".repeat(length), folder.join(format!("link-{length}"))).unwrap();
    }
    let mut deep = folder.to_owned();
    for level in 0..20 {
        deep.push(format!("level {level}"));
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("file"), content(level * 100, level)).unwrap();
    }
    let many = folder.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..700 {
        fs::write(
            many.join(format!("a file with a long name and the number {number}")),
            "x",
        )
        .unwrap();
    }
    fill_with_odd_ones(folder);
}

/// Names, links, rights and types that are rare.
fn fill_with_odd_ones(folder: &Path) {
    fs::create_dir(folder.join("empty")).unwrap();
    fs::write(folder.join("ünï 🗎 \u{7f}"), "name").unwrap();
    fs::write(folder.join("n".repeat(255)), "long").unwrap();
    fs::hard_link(folder.join("size-61"), folder.join("second name")).unwrap();
    fs::write(folder.join("setuid"), "s").unwrap();
    fs::set_permissions(folder.join("setuid"), Permissions::from_mode(0o6751)).unwrap();
    run(Command::new("mkfifo").arg(folder.join("fifo")));
    // Not everyone may make devices or give files away.
    let may = Command::new("mknod")
        .arg(folder.join("device"))
        .args(["c", "10", "70000"])
        .output();
    if may.is_ok_and(|output| output.status.success()) {
        run(Command::new("mknod")
            .arg(folder.join("disk"))
            .args(["b", "8", "17"]));
        run(Command::new("chown")
            .arg("70000:80000")
            .arg(folder.join("size-100")));
    }
}

/// What mke2fs gives to what it copies: times of whole seconds, and space as its filesystem needs it.
fn without_fractions(mut found: manifest::Manifest) -> manifest::Manifest {
    for object in found.values_mut() {
        object.modified.1 = 0;
        object.other_times = [None; 3];
        object.used_bytes = 0;
        object.attributes.clear();
    }
    found
}

#[test]
fn every_kind_of_filesystem_gives_back_what_was_put_in() {
    if !have("mke2fs") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let expected = without_fractions(of_folder(&source));
    let image = home.path().join("image");
    for (kind, content) in KINDS {
        let options: Vec<&str> = kind.split_whitespace().collect();
        mke2fs(&image, "160M", Some(&source), &options);
        let volume = volume(&image);
        assert_eq!(volume.content, *content, "{kind}");
        assert_eq!(volume.label.as_deref(), Some("label"), "{kind}");
        let tree = volume.files().unwrap();
        let (mut found, mut expected) = (without_fractions(of_tree(&*tree)), expected.clone());
        if kind.contains("inline_data") {
            // mke2fs 1.47.0 loses the hole at the end of a file if the filesystem has this feature.
            for manifest in [&mut found, &mut expected] {
                manifest.remove(b"/sparse".as_slice()).unwrap();
            }
        }
        compare(&found, &expected, kind);
        let statistics = tree.statistics().unwrap();
        assert!(statistics.free_bytes < statistics.total_bytes && statistics.free_bytes > 0);
        fs::remove_file(&image).unwrap();
    }
}

const KINDS: &[(&str, Content)] = &[
    ("-t ext2 -b 1024 -L label", Content::Ext2),
    ("-t ext2 -b 4096 -L label -r 0", Content::Ext2),
    ("-t ext2 -b 65536 -L label -N 2000", Content::Ext2),
    ("-t ext3 -b 2048 -L label", Content::Ext3),
    ("-t ext3 -b 1024 -L label -O ^dir_index", Content::Ext3),
    ("-t ext4 -b 4096 -L label", Content::Ext4),
    (
        "-t ext4 -b 1024 -L label -O ^metadata_csum,^64bit",
        Content::Ext4,
    ),
    (
        "-t ext4 -b 1024 -L label -O metadata_csum,64bit",
        Content::Ext4,
    ),
    (
        "-t ext4 -b 2048 -L label -O ^metadata_csum,uninit_bg",
        Content::Ext4,
    ),
    (
        "-t ext4 -b 4096 -L label -I 256 -O inline_data",
        Content::Ext4,
    ),
    (
        "-t ext4 -b 1024 -L label -I 1024 -O inline_data,metadata_csum",
        Content::Ext4,
    ),
    (
        "-t ext4 -b 1024 -L label -O meta_bg,^resize_inode",
        Content::Ext4,
    ),
    ("-t ext4 -b 4096 -L label -O bigalloc", Content::Ext4),
    (
        "-t ext4 -b 1024 -L label -O bigalloc -C 8192",
        Content::Ext4,
    ),
    (
        "-t ext4 -b 1024 -L label -O sparse_super2,^resize_inode",
        Content::Ext4,
    ),
    (
        "-t ext4 -b 4096 -L label -O large_dir,ea_inode,mmp,casefold,encrypt",
        Content::Ext4,
    ),
    (
        "-t ext4 -b 4096 -L label -O metadata_csum_seed,^extents,^64bit -U random",
        Content::Ext4,
    ),
];

/// A folder of so many names in blocks of 4 KiB, all of the one file `inode`. To fill one by mke2fs takes minutes.
fn folder_bytes(count: usize, inode: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut last = 0;
    let names = [".", ".."].map(str::to_owned).into_iter();
    for name in names.chain((0..count).map(|number| format!("entry number {number}"))) {
        let length = (8 + name.len()).next_multiple_of(4);
        if bytes.len() % 4096 + length > 4096 {
            let end = bytes.len().next_multiple_of(4096);
            let stretched = u16::try_from(end - last).unwrap();
            bytes[last + 4..last + 6].copy_from_slice(&stretched.to_le_bytes());
            bytes.resize(end, 0);
        }
        last = bytes.len();
        bytes.extend(if name.starts_with('.') { 2 } else { inode }.to_le_bytes());
        bytes.extend(u16::try_from(length).unwrap().to_le_bytes());
        bytes.extend([u8::try_from(name.len()).unwrap(), 1]);
        bytes.extend(name.as_bytes());
        bytes.resize(last + length, 0);
    }
    let end = bytes.len().next_multiple_of(4096);
    let stretched = u16::try_from(end - last).unwrap();
    bytes[last + 4..last + 6].copy_from_slice(&stretched.to_le_bytes());
    bytes.resize(end, 0);
    bytes
}

#[test]
fn folders_of_fifty_thousand_are_listed_and_searched_at_once() {
    if !have("debugfs") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    let image = home.path().join("image");
    let options = ["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"];
    mke2fs(&image, "16M", Some(&source), &options);
    let before = tree(&image);
    let file = before.lookup(before.root(), b"file").unwrap();
    fs::write(
        source.join("big"),
        folder_bytes(50_000, u32::try_from(file.0).unwrap()),
    )
    .unwrap();
    mke2fs(&image, "16M", Some(&source), &options);
    debugfs(&image, &["set_inode_field /big mode 040755"]);
    let tree = tree(&image);
    let folder = tree.lookup(tree.root(), b"big").unwrap();
    let began = Instant::now();
    let all = tree.list(folder, 0, usize::MAX).unwrap();
    let listed = began.elapsed();
    check_fifty_thousand(&*tree, folder, &all);
    println!("50,000 entries: listed with attributes in {listed:?}");
    assert!(listed.as_secs() < 5, "{listed:?}");
}

/// What holds for a folder with files `entry number 0` to 49999.
pub(crate) fn check_fifty_thousand(tree: &dyn FileExport, folder: FileId, all: &[DirectoryEntry]) {
    assert_eq!(all.len(), 50_000);
    let mut names: Vec<&[u8]> = all.iter().map(|entry| entry.name.as_slice()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 50_000);
    let began = Instant::now();
    for entry in all {
        assert_eq!(tree.lookup(folder, &entry.name).unwrap(), entry.file);
    }
    let searched = began.elapsed();
    println!("50,000 entries: each looked up in {searched:?}");
    assert!(searched.as_secs() < 20, "{searched:?}");
    let missing = tree.lookup(folder, b"entry number 50000");
    assert!(matches!(missing, Err(ExportError::NotFound)));
    // Any cookie leads on from where it was given.
    for at in [0, 1, 777, 49_998, 49_999] {
        let rest = tree.list(folder, all[at].cookie, 3).unwrap();
        assert_eq!(rest, all[at + 1..(at + 4).min(all.len())], "after {at}");
    }
}

#[test]
fn ranges_are_read_by_many_at_once_and_nothing_is_written() {
    if !have("mke2fs") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    let far = File::create(source.join("far")).unwrap();
    let place = (5_u64 << 30) + 12_345;
    far.write_all_at(&[7; 9000], place).unwrap();
    far.set_len(place + 100_000).unwrap();
    let image = home.path().join("image");
    mke2fs(&image, "16M", Some(&source), &["-t", "ext4"]);
    let tree = tree(&image);
    let file = tree.lookup(tree.root(), b"far").unwrap();
    assert_eq!(tree.attributes(file).unwrap().size_bytes, place + 100_000);
    let check = |tree: &dyn FileExport, before: u64, length: u32| {
        let read = tree.read(file, place - before, length).unwrap();
        let found = read.data.to_vec();
        let wanted = u64::from(length).min(before + 100_000);
        assert_eq!(found.len() as u64, wanted);
        assert_eq!(read.end, u64::from(length) >= before + 100_000);
        for (at, byte) in (0_u64..).zip(&found) {
            let inside = (before..before + 9000).contains(&at);
            assert_eq!(*byte, if inside { 7 } else { 0 }, "{before} {length} {at}");
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let tree = &tree;
            scope.spawn(move || {
                for step in 0..20 {
                    check(
                        &**tree,
                        thread * 1000 + step,
                        1 + 9001 * u32::try_from(step).unwrap(),
                    );
                }
            });
        }
    });
    check_refusals(&*tree, file);
}

/// What a tree that cannot be changed, and a file of it, refuse.
fn check_refusals(tree: &dyn FileExport, file: FileId) {
    assert!(tree.read(file, u64::MAX, 10).unwrap().data.is_empty());
    let caller = Caller {
        uid: 0,
        gid: 0,
        gids: Vec::new(),
    };
    let none = SetAttributes::default();
    let refused: [ExportError; 4] = [
        tree.write(file, 0, &[], Durability::Stable).unwrap_err(),
        tree.set_attributes(&caller, file, &none).unwrap_err(),
        tree.remove(&caller, tree.root(), b"far").unwrap_err(),
        tree.create_directory(&caller, tree.root(), b"new", &none)
            .unwrap_err(),
    ];
    assert!(
        refused
            .iter()
            .all(|error| matches!(error, ExportError::ReadOnly))
    );
    assert!(matches!(
        tree.read(tree.root(), 0, 1),
        Err(ExportError::IsDirectory)
    ));
    assert!(matches!(
        tree.list(file, 0, 1),
        Err(ExportError::NotDirectory)
    ));
    assert!(
        matches!(tree.attributes(FileId(8)), Err(ExportError::NotFound)),
        "the journal"
    );
    assert!(matches!(
        tree.attributes(FileId(1 << 40)),
        Err(ExportError::NotFound)
    ));
}

#[test]
fn what_debugfs_sets_is_read() {
    if !have("debugfs") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let image = home.path().join("image");
    mke2fs(&image, "8M", Some(&source), &["-t", "ext4", "-I", "256"]);
    debugfs(
        &image,
        &[
            "set_inode_field /file mtime 0x80000000",
            "set_inode_field /file mtime_extra 0x1",
            "set_inode_field /file atime 0x5",
            "set_inode_field /file atime_extra 0x7",
            "set_inode_field /file crtime 0x10",
            "set_inode_field /file crtime_extra 0x10",
            "set_inode_field /file uid 4000000000",
            "set_inode_field /file gid 65537",
            "ea_set /file user.small value",
            "ea_set /file security.selinux label",
            "ea_set /file trusted.three 3",
        ],
    );
    let tree = tree(&image);
    let file = tree.lookup(tree.root(), b"file").unwrap();
    let attributes = tree.attributes(file).unwrap();
    // The sign of the seconds and the two bits of the epoch: 2^32 - 2^31 in the first case.
    assert_eq!(attributes.modified.seconds, 1 << 31);
    assert_eq!(
        (attributes.accessed.seconds, attributes.accessed.nanoseconds),
        (5 + (3 << 32), 1)
    );
    let created = tree.particulars(file).unwrap().created.unwrap();
    assert_eq!((created.seconds, created.nanoseconds), (16, 4));
    assert_eq!((attributes.uid, attributes.gid), (4_000_000_000, 65537));
    let carried = tree.extended_attributes(file).unwrap();
    let mut carried: Vec<_> = carried
        .into_iter()
        .map(|one| (String::from_utf8(one.name).unwrap(), one.value))
        .collect();
    carried.sort();
    let expected = [
        ("security.selinux", "label"),
        ("trusted.three", "3"),
        ("user.small", "value"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    assert_eq!(carried, expected);
}

#[test]
fn encrypted_files_and_refused_features_are_named() {
    if !have("debugfs") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir_all(source.join("folder")).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    fs::write(source.join("plain"), "content").unwrap();
    let image = home.path().join("image");
    let options = ["-t", "ext4", "-O", "^metadata_csum,encrypt"];
    mke2fs(&image, "8M", Some(&source), &options);
    debugfs(
        &image,
        &[
            "set_inode_field /file flags 0x80800",
            "set_inode_field /folder flags 0x80800",
        ],
    );
    let shown = tree(&image);
    let root = shown.root();
    let find = |name: &[u8]| shown.lookup(root, name).unwrap();
    assert!(matches!(
        shown.read(find(b"file"), 0, 10),
        Err(ExportError::Encrypted)
    ));
    assert!(matches!(
        shown.list(find(b"folder"), 0, 10),
        Err(ExportError::Encrypted)
    ));
    assert_eq!(
        shown.attributes(find(b"folder")).unwrap().kind,
        FileKind::Directory
    );
    assert_eq!(
        shown.read(find(b"plain"), 0, 10).unwrap().data.to_vec(),
        b"content"
    );

    let bytes = fs::read(&image).unwrap();
    for (feature, name) in [(0x1_u32, "compression"), (0x4000_0000, "0x40000000")] {
        let mut changed = bytes.clone();
        changed[1024 + 0x60..1024 + 0x64].copy_from_slice(&feature.to_le_bytes());
        fs::write(&image, changed).unwrap();
        let error = volume(&image).files().err().unwrap().to_string();
        assert!(error.contains(name), "{error}");
    }
}
