//! Where folders that are shown as shares are mounted: a small file system in memory, whose mounts `smbd` sees too.
//!
//! `smbd` has a mount namespace of its own. The file system is shared with it, so that what is mounted on a folder here
//! comes up there, and goes with it. Taking it off takes everything off that is mounted in it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};

use crate::SmbError;
use crate::error::file;

/// The file system with the mount points. Dropping it takes it off.
#[derive(Debug)]
pub struct MountPoints {
    path: PathBuf,
}

impl MountPoints {
    /// Mounts it at `path`, in place of what a process that was killed has left there.
    ///
    /// # Errors
    /// If the folder cannot be made, or the kernel refuses.
    pub fn prepare(path: &Path) -> Result<Self, SmbError> {
        if !rustix::process::geteuid().is_root() {
            return Err(SmbError::NotRoot);
        }
        take_off(path)?;
        fs::create_dir_all(path).map_err(file("create", path))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(
            "holdfast-smb",
            path,
            "tmpfs",
            flags,
            Some(c"mode=0700,size=1m,nr_inodes=64k"),
        )
        .map_err(failed("mount on", path))?;
        mount_change(path, MountPropagationFlags::SHARED).map_err(failed("share", path))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// An empty folder named `name` to mount on.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(&self, name: &str) -> Result<PathBuf, SmbError> {
        let path = self.path.join(name);
        take_off(&path)?;
        match fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(file("create", &path)(error))
            }
            _ => Ok(path),
        }
    }

    /// Removes a folder on which nothing is mounted any more.
    pub fn remove(&self, name: &str) {
        let path = self.path.join(name);
        if let Err(error) = fs::remove_dir(&path) {
            tracing::debug!(path = %path.display(), %error, "a mount point is left");
        }
    }
}

impl Drop for MountPoints {
    fn drop(&mut self) {
        if let Err(error) = take_off(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "mount points were left");
        }
    }
}

/// Takes off whatever is mounted at `path`, however often.
fn take_off(path: &Path) -> Result<(), SmbError> {
    for _ in 0..MOUNTS_MAX {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(source) => return Err(failed("unmount", path)(source)),
        }
    }
    Ok(())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> SmbError {
    let path = path.to_owned();
    move |source| SmbError::Mount { what, path, source }
}

const MOUNTS_MAX: usize = 1000;
