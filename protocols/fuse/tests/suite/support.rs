//! A tree mounted on a temporary folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use export::{Caller, CreateMode, Durability, FileExport, FileId, MemoryTree, SetAttributes};
use fuse::{Caching, Mount, MountOptions};

/// A mount with its folder, which goes away after it.
pub(crate) struct Mounted {
    pub(crate) mount: Mount,
    pub(crate) folder: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn start(tree: Arc<dyn FileExport>, options: &MountOptions) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-fuse-")
            .tempdir()
            .unwrap();
        let mount = Mount::start(tree, folder.path(), options).unwrap();
        Self { mount, folder }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Whether this machine can mount. Where it cannot, tests are left out, but not where all must run.
#[expect(
    clippy::print_stderr,
    reason = "whoever runs the tests must see what was left out"
)]
pub(crate) fn can_mount() -> bool {
    let reason = if !Path::new("/dev/fuse").exists() {
        "/dev/fuse is not there"
    } else if !rustix::process::geteuid().is_root() {
        "only root mounts in these tests"
    } else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none(), "{reason}");
    eprintln!("left out: {reason}");
    false
}

pub(crate) fn writable() -> MountOptions {
    MountOptions {
        read_only: false,
        caching: Caching::Shared,
        ..MountOptions::default()
    }
}

pub(crate) fn nobody() -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        gids: Vec::new(),
    }
}

pub(crate) fn add_file(
    tree: &dyn FileExport,
    directory: FileId,
    name: &str,
    content: &[u8],
) -> FileId {
    let attributes = SetAttributes::default();
    let name = name.as_bytes();
    let created = tree
        .create(&nobody(), directory, name, CreateMode::Guarded, &attributes)
        .unwrap();
    let content = bytes::Bytes::copy_from_slice(content);
    tree.write(created.file, 0, &[content], Durability::Unstable)
        .unwrap();
    created.file
}

pub(crate) fn add_folder(tree: &dyn FileExport, directory: FileId, name: &str) -> FileId {
    let attributes = SetAttributes::default();
    tree.create_directory(&nobody(), directory, name.as_bytes(), &attributes)
        .unwrap()
        .file
}

/// An empty tree that can be written to, mounted.
pub(crate) fn writable_tree() -> Mounted {
    Mounted::start(Arc::new(MemoryTree::new()), &writable())
}

/// The error number of a call that must fail.
pub(crate) fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("the call must fail"),
        Err(error) => error.raw_os_error().unwrap(),
    }
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Renames as the mounted tree does it; what a crash leaves is not the question here.
pub(crate) fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::rename(from, to)?)
}
