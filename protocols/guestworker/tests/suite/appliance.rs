//! Filesystems for which there is no reader, read by the kernel of a small machine.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use export::{BlockExport, FileExport, FileKind};
use guestworker::{Appliance, ApplianceOptions, Found, GuestVolume, Worker, WorkerOptions};

use crate::support::{ImageDisk, options};

fn have(program: &str) -> bool {
    let found = Command::new(program).arg("-V").output().is_ok();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "CI has {program}: deploy/packages"
    );
    if !found {
        println!("left out: there is no {program}");
    }
    found
}

fn have_parts() -> bool {
    let found = Found::look();
    if let Err(missing) = &found {
        assert!(
            std::env::var_os("CI").is_none(),
            "{missing}: deploy/packages"
        );
        println!("left out: {missing}");
    }
    found.is_ok()
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let done = Command::new(program).args(arguments).arg(path).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{program}: {done:?}");
}

fn blank(path: &Path, mebibytes: u64) {
    File::create(path)
        .unwrap()
        .set_len(mebibytes << 20)
        .unwrap();
}

/// A tree in which everything is that the tools can put into a fresh filesystem.
fn plant(tree: &Path) {
    fs::create_dir_all(tree.join("a/b")).unwrap();
    let big: Vec<u8> = (0..1_300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(tree.join("a/big"), big).unwrap();
    std::os::unix::fs::symlink("../big", tree.join("a/b/link")).unwrap();
    fs::create_dir(tree.join("many")).unwrap();
    for number in 0..1500 {
        fs::write(tree.join(format!("many/{number}")), number.to_string()).unwrap();
    }
    fs::write(tree.join("größe ☃"), "names").unwrap();
    fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o750)).unwrap();
}

/// Compares the whole tree with what was planted, and looks into it by every call.
fn compare(files: &dyn FileExport, planted: &Path) {
    let root = files.root();
    let a = files.lookup(root, b"a").unwrap();
    let big = files.lookup(a, b"big").unwrap();
    let expected = fs::read(planted.join("a/big")).unwrap();
    let read = files.read(big, 0, 10_000_000).unwrap();
    assert!(read.end && read.data.to_vec() == expected);
    let part = files.read(big, 1_234_567, 4321).unwrap();
    assert!(!part.end && part.data.to_vec() == expected[1_234_567..][..4321]);
    let b = files.lookup(a, b"b").unwrap();
    let attributes = files.attributes(b).unwrap();
    assert_eq!(
        (attributes.kind, attributes.mode),
        (FileKind::Directory, 0o750)
    );
    assert_eq!(files.lookup(b, b"..").unwrap(), a);
    assert_eq!(files.lookup(root, b"..").unwrap(), root);
    let link = files.lookup(b, b"link").unwrap();
    assert_eq!(files.read_symlink(link).unwrap(), b"../big");
    let many = files.lookup(root, b"many").unwrap();
    let entries = files.list(many, 0, usize::MAX).unwrap();
    assert_eq!(entries.len(), 1500);
    for entry in entries.iter().step_by(100) {
        let read = files.read(entry.file, 0, 100).unwrap();
        assert_eq!(read.data.to_vec(), entry.name);
    }
    let name = "größe ☃";
    let unicode = files.lookup(root, name.as_bytes()).unwrap();
    assert_eq!(files.read(unicode, 0, 100).unwrap().data.to_vec(), b"names");
    assert!(files.lookup(root, b"nothing").is_err());
    assert!(files.extended_attributes(big).is_ok());
    assert_eq!(files.particulars(big).unwrap().special, None);
    assert!(files.statistics().unwrap().total_bytes > 1 << 20);
}

fn appliance(idle: Duration) -> Appliance {
    Appliance::new(ApplianceOptions {
        program: options("").program,
        start_arguments: vec!["machine".into()],
        agent_arguments: vec!["agent".to_owned()],
        idle,
        ..ApplianceOptions::default()
    })
}

fn worker(disks: Vec<Arc<dyn BlockExport>>, appliance: Option<Appliance>) -> Worker {
    let options = WorkerOptions {
        appliance,
        ..options("plain")
    };
    Worker::start(disks, options).unwrap()
}

/// A disk whose second partition is an F2FS with the tree, behind something else.
fn partitioned(tree: &Path, folder: &Path) -> PathBuf {
    let (alone, disk) = (folder.join("f2fs"), folder.join("disk"));
    blank(&alone, 128);
    run("mkfs.f2fs", &["-q", "-f"], &alone);
    run("sload.f2fs", &["-f", tree.to_str().unwrap()], &alone);
    blank(&disk, 144);
    let file = File::options().write(true).open(&disk).unwrap();
    // An MBR with two entries: 4 MiB at 1 MiB, 128 MiB at 8 MiB.
    let entry = |start: u32, sectors: u32| {
        let mut entry = [0; 16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
        entry
    };
    file.write_all_at(&entry(2048, 8192), 446).unwrap();
    file.write_all_at(&entry(16384, 262_144), 462).unwrap();
    file.write_all_at(&[0x55, 0xAA], 510).unwrap();
    file.write_all_at(&fs::read(&alone).unwrap(), 8 << 20)
        .unwrap();
    disk
}

/// Disks that are one filesystem each, by the programs that make them with the tree in it, or with nothing.
fn disks_with(tree: &Path, folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let path = |name: &str| folder.join(name);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let tree = text(tree);
    run(
        "mksquashfs",
        &[&tree, &text(&path("squashfs")), "-noappend", "-quiet"],
        Path::new("-no-progress"),
    );
    run(
        "makefs",
        &["-t", "ffs", "-o", "version=1", &text(&path("ufs"))],
        Path::new(&tree),
    );
    run(
        "mkfs.erofs",
        &["-zlz4", &text(&path("erofs"))],
        Path::new(&tree),
    );
    for (name, mebibytes) in [("jfs", 32), ("nilfs2", 136), ("udf", 32)] {
        blank(&path(name), mebibytes);
    }
    run("mkfs.jfs", &["-q", "-L", "empty"], &path("jfs"));
    run("mkfs.nilfs2", &["-q"], &path("nilfs2"));
    run(
        "mkfs.udf",
        &["--media-type=hd", "--blocksize=512"],
        &path("udf"),
    );
    [
        ("squashfs", "squashfs"),
        ("UFS", "ufs"),
        ("EROFS", "erofs"),
        ("JFS", "jfs"),
        ("NILFS2", "nilfs2"),
        ("UDF", "udf"),
    ]
    .map(|(content, name)| (content, path(name)))
    .to_vec()
}

/// An ext4 as a crash leaves it whose newest file is in its journal alone, in a form that the reader refuses. `None`, with
/// the reason printed, where mounting is not allowed.
fn crashed(tree: &Path, folder: &Path) -> Option<PathBuf> {
    let (image, point) = (folder.join("ext4"), folder.join("mount"));
    blank(&image, 64);
    let planted = tree.to_str().unwrap();
    let features = ["-q", "-t", "ext4", "-O", "fast_commit", "-d", planted];
    run("mke2fs", &features, &image);
    fs::create_dir(&point).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "ext4", "-o", "loop,noatime"])
        .args([&image, &point])
        .output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        println!("left out: cannot mount by a loop device here");
        return None;
    }
    File::create(point.join("early"))
        .unwrap()
        .sync_all()
        .unwrap();
    rustix::fs::syncfs(File::open(&point).unwrap()).unwrap();
    let mut newest = File::create(point.join(NEWEST)).unwrap();
    newest.write_all(b"synced a moment ago").unwrap();
    newest.sync_all().unwrap();
    drop(newest);
    let copy = folder.join("crashed");
    fs::copy(&image, &copy).unwrap();
    run("umount", &[], &point);
    Some(copy)
}

const NEWEST: &str = "newest";

#[test]
fn what_has_no_reader_is_read_by_a_machine() {
    let programs = [
        "mkfs.f2fs",
        "sload.f2fs",
        "mkfs.jfs",
        "mksquashfs",
        "makefs",
        "mkfs.erofs",
        "mkfs.nilfs2",
        "mkfs.udf",
    ];
    if !have_parts() || !programs.into_iter().all(have) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    plant(&tree);
    let mut made = vec![("F2FS", partitioned(&tree, folder.path()))];
    made.extend(disks_with(&tree, folder.path()));
    made.extend(crashed(&tree, folder.path()).map(|disk| ("ext4", disk)));
    let read_all = || {
        made.iter()
            .map(|(_, disk)| fs::read(disk).unwrap())
            .collect::<Vec<_>>()
    };
    let before = read_all();
    let disks = || made.iter().map(|(_, disk)| ImageDisk::open(disk)).collect();

    let off = worker(disks(), None).volumes().unwrap();
    let refusal = off[1].files().err().unwrap().to_string();
    assert!(
        refusal.contains("F2FS") && refusal.contains("switched off"),
        "{refusal}"
    );
    if made.len() == 8 {
        // A kernel may choose a full commit, which the reader replays.
        let refusal = off[8].files().err();
        println!("the crashed ext4 without a machine: {refusal:?}");
    }

    let idle = Duration::from_secs(2);
    let worker = worker(disks(), Some(appliance(idle)));
    let volumes = worker.volumes().unwrap();
    look_from_outside(&volumes, &made);
    let began = Instant::now();
    let files = volumes[1].files().unwrap();
    println!("the first files were there after {:?}", began.elapsed());
    compare(&*files, &tree);
    measure(&*files);
    volumes[2..]
        .iter()
        .for_each(|volume| look_into(&**volume, &tree));

    // Nobody asks for a while, and somebody asks again.
    let root = files.root();
    std::thread::sleep(idle * 2);
    let began = Instant::now();
    assert_eq!(files.list(root, 0, 10).unwrap().len(), 3);
    println!("after an end for want of work: {:?}", began.elapsed());
    compare(&*files, &tree);
    drop((files, volumes, worker));
    assert!(read_all() == before, "nothing is written");
}

/// What the disks hold is known, and for what nobody knows no machine is started.
fn look_from_outside(volumes: &[Box<dyn GuestVolume>], made: &[(&str, PathBuf)]) {
    let contents = volumes
        .iter()
        .map(|volume| volume.description().content.as_str());
    let expected = ["unknown content"]
        .into_iter()
        .chain(made.iter().map(|(content, _)| *content));
    assert!(
        contents.eq(expected),
        "{:?}",
        volumes
            .iter()
            .map(|volume| volume.description())
            .collect::<Vec<_>>()
    );
    let unknown = volumes[0].files().err().unwrap().to_string();
    assert!(
        !unknown.contains("machine"),
        "none is started for what nobody knows: {unknown}"
    );
}

/// Looks into a volume that holds the tree, or nothing where the program that makes it puts nothing in.
fn look_into(volume: &dyn GuestVolume, tree: &Path) {
    let content = &volume.description().content;
    println!("{content}");
    let files = volume.files().unwrap();
    if content == "ext4" {
        let newest = files.lookup(files.root(), NEWEST.as_bytes()).unwrap();
        let read = files.read(newest, 0, 100).unwrap().data.to_vec();
        assert_eq!(read, b"synced a moment ago", "the journal is replayed");
    }
    if !["JFS", "NILFS2", "UDF"].contains(&content.as_str()) {
        return compare(&*files, tree);
    }
    let names = files.list(files.root(), 0, 10).unwrap();
    let own: [&[u8]; 2] = [b"lost+found", b".nilfs"];
    let strange = names.iter().find(|entry| !own.contains(&&*entry.name));
    assert!(strange.is_none(), "{strange:?}");
}

fn measure(files: &dyn FileExport) {
    let root = files.root();
    let big = files
        .lookup(files.lookup(root, b"a").unwrap(), b"big")
        .unwrap();
    let began = Instant::now();
    for _ in 0..8 {
        files.read(big, 0, 5 << 20).unwrap();
    }
    println!("40 MiB were read in {:?}", began.elapsed());
    let began = Instant::now();
    let many = files.lookup(root, b"many").unwrap();
    assert_eq!(files.list(many, 0, usize::MAX).unwrap().len(), 1500);
    println!("1500 names were listed in {:?}", began.elapsed());
}
