//! How mounts begin and end.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use export::MemoryTree;
use fuse::{FuseError, Mount, MountOptions};

use crate::support::{Mounted, can_mount, writable, writable_tree};

fn is_listed(path: &std::path::Path) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let path = path.to_str().unwrap();
    table
        .lines()
        .any(|line| line.starts_with("holdfast ") && line.contains(&format!(" {path} ")))
}

#[test]
fn unmounting_from_outside_ends_the_wait() {
    if !can_mount() {
        return;
    }
    let mounted = writable_tree();
    assert!(is_listed(mounted.path()));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| mounted.mount.wait());
        let status = Command::new("umount").arg(mounted.path()).status().unwrap();
        assert!(status.success());
        waiting.join().unwrap().unwrap();
    });
    assert!(mounted.mount.is_over());
    mounted.mount.unmount().unwrap();
    assert!(!is_listed(mounted.path()));
}

#[test]
fn a_dropped_mount_is_gone_and_so_is_the_tree() {
    if !can_mount() {
        return;
    }
    let tree = Arc::new(MemoryTree::new());
    let Mounted { mount, folder } = Mounted::start(tree.clone(), &writable());
    fs::write(folder.path().join("file"), b"x").unwrap();
    drop(mount);
    assert!(!is_listed(folder.path()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_mount_in_use_is_not_unmounted_but_can_be_dropped() {
    if !can_mount() {
        return;
    }
    let Mounted { mount, folder } = writable_tree();
    let path = folder.path().join("file");
    fs::write(&path, b"content").unwrap();
    let file = fs::File::open(&path).unwrap();
    let Err(FuseError::Busy(_)) = mount.unmount() else {
        panic!("a file is open");
    };
    assert!(is_listed(folder.path()));
    drop(mount);
    assert!(!is_listed(folder.path()));
    assert_eq!(std::io::read_to_string(file).unwrap(), "content");
}

#[test]
fn a_second_mount_on_the_same_folder_is_refused() {
    if !can_mount() {
        return;
    }
    let mounted = writable_tree();
    let second = Mount::start(Arc::new(MemoryTree::new()), mounted.path(), &writable());
    let error = second.unwrap_err().to_string();
    assert!(error.starts_with("holdfast is mounted on"), "{error}");
}

/// The other side of the next test: a process that mounts and is killed.
#[test]
fn mounts_where_it_is_told_to() {
    let Some(path) = std::env::var_os(MOUNT_HERE) else {
        return;
    };
    let options = MountOptions::default();
    let mount = Mount::start(Arc::new(MemoryTree::new()), path.as_ref(), &options).unwrap();
    drop(mount.wait());
}

#[test]
fn what_a_killed_process_left_is_recognised() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::Builder::new()
        .prefix("holdfast-fuse-")
        .tempdir()
        .unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lifecycle::mounts_where_it_is_told_to"])
        .env(MOUNT_HERE, folder.path())
        .spawn()
        .unwrap();
    while !is_listed(folder.path()) {
        assert!(
            other.try_wait().unwrap().is_none(),
            "the other process ended"
        );
        std::thread::yield_now();
    }
    other.kill().unwrap();
    other.wait().unwrap();
    let left = Mount::start(Arc::new(MemoryTree::new()), folder.path(), &writable());
    let error = left.unwrap_err();
    assert!(matches!(error, FuseError::Left(_)), "{error}");
    assert!(error.to_string().contains("fusermount3 -u"));
    let status = Command::new("umount").arg("-l").arg(folder.path()).status();
    assert!(status.unwrap().success());
    drop(Mount::start(Arc::new(MemoryTree::new()), folder.path(), &writable()).unwrap());
}

const MOUNT_HERE: &str = "HOLDFAST_TEST_MOUNT_HERE";
