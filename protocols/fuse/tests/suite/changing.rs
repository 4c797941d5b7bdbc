//! Trees that are written to through the kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use export::MemoryTree;
use rustix::fs::{FallocateFlags, FileType, Mode, RenameFlags, Timespec, Timestamps};

use crate::support::{Mounted, can_mount, errno, names, rename, writable, writable_tree};

#[test]
fn files_are_made_written_renamed_and_removed() {
    if !can_mount() {
        return;
    }
    let mounted = writable_tree();
    fs::create_dir(mounted.at("folder")).unwrap();
    let path = mounted.at("folder/file");
    fs::write(&path, b"hello world").unwrap();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.seek(SeekFrom::Start(6)).unwrap();
    file.write_all(b"there").unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello there");
    file.set_len(5).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    drop(file);

    fs::write(&path, b"short").unwrap();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"er").unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"shorter");

    fs::write(mounted.at("other"), b"gone").unwrap();
    rename(&path, &mounted.at("other")).unwrap();
    assert_eq!(fs::read(mounted.at("other")).unwrap(), b"shorter");
    assert_eq!(names(&mounted.at("folder")), [""; 0]);
    fs::hard_link(mounted.at("other"), mounted.at("second")).unwrap();
    assert_eq!(fs::metadata(mounted.at("second")).unwrap().nlink(), 2);
    symlink("second", mounted.at("link")).unwrap();
    assert_eq!(
        fs::read_link(mounted.at("link")).unwrap().to_str(),
        Some("second")
    );
    assert_eq!(fs::read(mounted.at("link")).unwrap(), b"shorter");
    fs::remove_file(mounted.at("other")).unwrap();
    fs::remove_dir(mounted.at("folder")).unwrap();
    assert_eq!(names(mounted.path()), ["link", "second"]);
}

#[test]
fn modes_owners_and_times_are_kept() {
    if !can_mount() {
        return;
    }
    let mounted = writable_tree();
    let path = mounted.at("file");
    let file = File::create(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
    let then = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    file.set_times(fs::FileTimes::new().set_modified(then))
        .unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
    assert_eq!(metadata.modified().unwrap(), then);
}

#[test]
fn refusals_have_their_numbers() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::start(Arc::new(MemoryTree::with_capacity(1 << 20)), &writable());
    let (file, folder) = (mounted.at("file"), mounted.at("folder"));
    fs::write(&file, b"x").unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("inside"), b"y").unwrap();
    assert_eq!(errno(fs::create_dir(&file)), 17, "the name is taken");
    assert_eq!(errno(File::create_new(&file)), 17);
    assert_eq!(errno(fs::remove_dir(&folder)), 39, "not empty");
    assert_eq!(errno(fs::remove_file(&folder)), 21, "is a folder");
    assert_eq!(errno(fs::remove_dir(&file)), 20, "not a folder");
    assert_eq!(errno(rename(&folder, &folder.join("below"))), 22);
    assert_eq!(errno(fs::write(mounted.at(&"n".repeat(256)), b"")), 36);
    assert_eq!(errno(fs::write(&file, vec![1; 4 << 20])), 28, "no space");
    let directory = File::open(mounted.path()).unwrap();
    let fifo = rustix::fs::mknodat(&directory, "fifo", FileType::Fifo, Mode::RWXU, 0);
    assert_eq!(fifo, Err(rustix::io::Errno::OPNOTSUPP));
    rustix::fs::mknodat(&directory, "plain", FileType::RegularFile, Mode::RWXU, 0).unwrap();
    assert_eq!(fs::read(mounted.at("plain")).unwrap(), b"");
    let kept = RenameFlags::NOREPLACE;
    let renamed = rustix::fs::renameat_with(&directory, "plain", &directory, "new", kept);
    assert_eq!(renamed, Err(rustix::io::Errno::INVAL));
    let open = OpenOptions::new().write(true).open(&file).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = rustix::fs::fallocate(&open, hole, 0, 1);
    assert_eq!(punched, Err(rustix::io::Errno::OPNOTSUPP));
    let set = rustix::fs::setxattr(&file, "user.a", b"", rustix::fs::XattrFlags::empty());
    assert_eq!(set, Err(rustix::io::Errno::OPNOTSUPP));
}

#[test]
fn times_before_the_first_harm_nobody() {
    if !can_mount() {
        return;
    }
    let mounted = writable_tree();
    let file = File::create(mounted.at("file")).unwrap();
    for seconds in [-1, -1_000_000_000, i64::MIN, i64::MIN + 1, i64::MAX] {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: 5,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(&file, &times).unwrap();
    }
    let time = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_OMIT,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(&file, &times).unwrap();
    assert_eq!(names(mounted.path()), ["file"]);
}
