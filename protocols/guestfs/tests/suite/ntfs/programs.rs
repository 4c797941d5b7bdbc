//! The programs of ntfs-3g.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use crate::image::run;
use crate::manifest::{Manifest, Object, of_folder};

/// Makes a filesystem of `size_mib`.
pub(crate) fn mkntfs(image: &Path, size_mib: u64, options: &[&str]) {
    File::create(image)
        .unwrap()
        .set_len(size_mib << 20)
        .unwrap();
    run(Command::new("mkntfs")
        .args(["-F", "-Q"])
        .args(options)
        .arg(image));
}

/// An image mounted by ntfs-3g, until it is dropped.
pub(crate) struct Ntfs3g {
    point: PathBuf,
}

impl Ntfs3g {
    /// `None`, with the reason printed, where mounting is not allowed.
    pub(crate) fn new(image: &Path, options: &str) -> Option<Self> {
        let point = image.with_extension("mount");
        fs::create_dir_all(&point).unwrap();
        let all = format!("compression,streams_interface=xattr,{options}");
        let output = Command::new("ntfs-3g")
            .args(["-o", &all])
            .arg(image)
            .arg(&point)
            .output();
        let fault = match output {
            Ok(output) if output.status.success() => return Some(Self { point }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        println!("left out: ntfs-3g cannot mount here: {fault}");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        &self.point
    }

    /// The tree, with modes and owners as this project shows them, and with what ntfs-3g gives only to those who ask.
    pub(crate) fn manifest(&self) -> Manifest {
        let mut manifest = of_folder(&self.point);
        for (path, object) in &mut manifest {
            let name = std::str::from_utf8(path).map(|path| self.point.join(&path[1..]));
            adapt(object, &name.unwrap());
        }
        manifest
    }
}

fn adapt(object: &mut Object, path: &Path) {
    object.mode = match object.kind {
        export::FileKind::Directory => 0o555,
        export::FileKind::Symlink => 0o777,
        export::FileKind::File => 0o444,
    };
    object.owner = (0, 0);
    if object.special.is_some() {
        object.size_bytes = 0;
    }
    // FUSE does not tell it by statx.
    let created = ask(path, "system.ntfs_times").map(|times| {
        let ticks = u64::from_le_bytes(times[..8].try_into().unwrap());
        let since = ticks.saturating_sub(116_444_736_000_000_000);
        (
            since / 10_000_000,
            u32::try_from(since % 10_000_000 * 100).unwrap(),
        )
    });
    object.other_times[2] = created;
    if object.kind == export::FileKind::Directory {
        object.used_bytes = 0;
    }
    for name in [
        "system.ntfs_attrib",
        "system.ntfs_acl",
        "system.ntfs_reparse_data",
        "system.ntfs_ea",
    ] {
        if let Some(value) = ask(path, name) {
            object.attributes.insert(name.as_bytes().to_vec(), value);
        }
    }
}

pub(crate) fn ask(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 65536];
    let length = lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

pub(crate) fn set(path: &Path, name: &str, value: &[u8]) {
    try_set(path, name, value).unwrap();
}

pub(crate) fn try_set(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    lsetxattr(path, name, value, XattrFlags::empty())
}

impl Drop for Ntfs3g {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.point).status();
        if !std::thread::panicking() {
            assert!(done.unwrap().success());
        }
    }
}
