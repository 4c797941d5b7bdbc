//! One mount, from its start to its end.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use export::FileExport;
use fuser::{Config, MountOption, Session, SessionACL};
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::filesystem::Filesystem;
use crate::kernel::Kernel;
use crate::workers::Workers;
use crate::{FuseError, MountOptions, mount_point, mount_table};

/// A tree of files under a mount point.
///
/// It ends when it is dropped, by [`unmount`](Mount::unmount), or when somebody unmounts it from outside. Whoever has a
/// file open when it is dropped keeps that file; nobody else finds the tree any more.
pub struct Mount {
    path: PathBuf,
    /// What the kernel calls it, so that nothing else is unmounted in its place.
    device: Option<String>,
    end: Arc<End>,
}

/// Told when the kernel has let go of the mount.
#[derive(Default)]
struct End {
    outcome: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Refused while somebody uses the mount.
    Whole,
    /// Out of sight at once, gone with its last user.
    Detached,
}

impl Mount {
    /// Mounts `tree` on the empty folder `mount_point`.
    ///
    /// # Errors
    /// If the folder cannot be mounted on, the kernel cannot be reached, or it refuses. Each says what to do.
    pub fn start(
        tree: Arc<dyn FileExport>,
        mount_point: &Path,
        options: &MountOptions,
    ) -> Result<Self, FuseError> {
        check_name(&options.name)?;
        let path = mount_point::check(mount_point)?;
        mount_point::check_device()?;
        let workers = Workers::start(options.threads).map_err(FuseError::Thread)?;
        let filesystem = Arc::new(Filesystem::new(tree, options));
        let kernel = Kernel::new(filesystem, workers, options.read_ahead_bytes);
        let session = Session::new(kernel, &path, &config(options))
            .map_err(|source| refused(&path, source))?;
        let device = mount_table::read()
            .ok()
            .and_then(|table| mount_table::find(&table, &path))
            .map(|entry| entry.device);
        if let Some(device) = &device {
            read_ahead(device, options.read_ahead_bytes);
        }
        let end = Arc::new(End::default());
        let told = Arc::clone(&end);
        thread::Builder::new()
            .name("mount".to_owned())
            .spawn(move || {
                let outcome = session.run();
                told.tell(outcome.map_err(|error| error.to_string()));
            })
            .map_err(FuseError::Thread)?;
        tracing::info!(path = %path.display(), "mounted");
        Ok(Self { path, device, end })
    }

    /// Where it is mounted, without links in the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was unmounted, by whomever.
    pub fn is_over(&self) -> bool {
        self.end.outcome.lock().is_some()
    }

    /// Returns when the mount has ended, by whomever.
    ///
    /// # Errors
    /// If it ended because the kernel's connection failed.
    pub fn wait(&self) -> Result<(), FuseError> {
        let mut outcome = self.end.outcome.lock();
        loop {
            match &*outcome {
                Some(Ok(())) => return Ok(()),
                Some(Err(reason)) => {
                    return Err(FuseError::Connection {
                        path: self.path.clone(),
                        reason: reason.clone(),
                    });
                }
                None => self.end.changed.wait(&mut outcome),
            }
        }
    }

    /// Unmounts, unless somebody uses the mount.
    ///
    /// # Errors
    /// If a file of it is open or somebody is in one of its folders, or the kernel refuses.
    pub fn unmount(&self) -> Result<(), FuseError> {
        self.take_off(Manner::Whole)?;
        self.end.wait_for(END_TIMEOUT);
        Ok(())
    }

    /// Takes the mount out of sight. Who has a file of it open keeps that; it ends with the last of them.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn detach(&self) -> Result<(), FuseError> {
        self.take_off(Manner::Detached)
    }

    fn take_off(&self, manner: Manner) -> Result<(), FuseError> {
        if self.is_over() || !self.is_on_top() {
            return Ok(());
        }
        let flags = match manner {
            Manner::Whole => UnmountFlags::NOFOLLOW,
            Manner::Detached => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
        };
        match rustix::mount::unmount(&self.path, flags) {
            Ok(()) => Ok(()),
            Err(Errno::BUSY) => Err(FuseError::Busy(self.path.clone())),
            Err(Errno::PERM) => self.take_off_with_help(manner),
            Err(error) => Err(self.not_unmounted(error.into())),
        }
    }

    /// Through the program that may do it for users who are not root.
    fn take_off_with_help(&self, manner: Manner) -> Result<(), FuseError> {
        let mut command = Command::new(HELPER);
        command.arg("-u").env("LC_ALL", "C");
        if manner == Manner::Detached {
            command.arg("-z");
        }
        let output = match command.arg("--").arg(&self.path).output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FuseError::NoHelper);
            }
            other => other.map_err(|error| self.not_unmounted(error))?,
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if said.contains("busy") {
            return Err(FuseError::Busy(self.path.clone()));
        }
        Err(self.not_unmounted(io::Error::other(said)))
    }

    fn not_unmounted(&self, source: io::Error) -> FuseError {
        FuseError::Unmount {
            path: self.path.clone(),
            source,
        }
    }

    /// Whether what is seen at the path is this mount.
    fn is_on_top(&self) -> bool {
        let Ok(table) = mount_table::read() else {
            return true;
        };
        let seen = mount_table::find(&table, &self.path).map(|entry| entry.device);
        seen.is_some() && (self.device.is_none() || seen == self.device)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let taken_off = match self.take_off(Manner::Whole) {
            Ok(()) => {
                self.end.wait_for(END_TIMEOUT);
                Ok(())
            }
            Err(FuseError::Busy(_)) => self.take_off(Manner::Detached),
            Err(error) => Err(error),
        };
        if let Err(error) = taken_off {
            tracing::warn!(path = %self.path.display(), %error, "a mount was left");
        }
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mount")
            .field("path", &self.path)
            .field("device", &self.device)
            .field("is_over", &self.is_over())
            .finish()
    }
}

impl End {
    fn tell(&self, outcome: Result<(), String>) {
        *self.outcome.lock() = Some(outcome);
        self.changed.notify_all();
    }

    fn wait_for(&self, timeout: Duration) {
        let mut outcome = self.outcome.lock();
        if outcome.is_none() {
            self.changed.wait_for(&mut outcome, timeout);
        }
    }
}

fn config(options: &MountOptions) -> Config {
    let mut mount_options = vec![
        MountOption::FSName(options.name.clone()),
        MountOption::NoSuid,
        MountOption::NoDev,
        if options.read_only {
            MountOption::RO
        } else {
            MountOption::RW
        },
    ];
    if options.default_permissions {
        mount_options.push(MountOption::DefaultPermissions);
    }
    let mut config = Config::default();
    config.mount_options = mount_options;
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(READING_THREADS);
    config.clone_fd = true;
    config
}

/// The name goes into a list with commas, for the kernel and for the helper.
fn check_name(name: &str) -> Result<(), FuseError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed) {
        Ok(())
    } else {
        Err(FuseError::BadName(name.to_owned()))
    }
}

/// What to do about a mount that was refused, where that is known.
fn refused(path: &Path, source: io::Error) -> FuseError {
    // The mount point and the device were there a moment ago, so what is missing is the helper.
    if source.kind() == io::ErrorKind::NotFound {
        return FuseError::NoHelper;
    }
    if source.to_string().contains("user_allow_other") {
        return FuseError::OthersNotAllowed;
    }
    FuseError::Mount {
        path: path.to_owned(),
        source,
    }
}

/// The kernel takes more than its default from root alone, in the folder where it lists the mount's device.
fn read_ahead(device: &str, bytes: u32) {
    let setting = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, format!("{}", bytes / 1024)) {
        tracing::debug!(setting, %error, "the kernel reads ahead by its default");
    }
}

const HELPER: &str = "fusermount3";

/// Threads that take requests from the kernel and answer those that need no worker. More than there is work for, as a
/// name or attribute may have to be fetched from a disk after all.
const READING_THREADS: usize = 4;

/// For how long an unmounted tree may take to be let go; after that it goes by itself.
const END_TIMEOUT: Duration = Duration::from_secs(5);

const NAME_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_bring_options_along() {
        check_name("holdfast").unwrap();
        check_name("web01@3:/disk-0").unwrap();
        for bad in ["", "a,suid", "a b", "a\\", "a\n", &"x".repeat(201)] {
            assert!(
                matches!(check_name(bad), Err(FuseError::BadName(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_refused_mount_says_what_to_do() {
        let path = Path::new("/point");
        let missing = refused(path, io::ErrorKind::NotFound.into());
        assert!(missing.to_string().contains("install the package fuse3"));
        let others = "fusermount3: option allow_other only allowed if 'user_allow_other' is set";
        let others = refused(path, io::Error::other(others));
        assert!(others.to_string().contains("/etc/fuse.conf"));
        let other = refused(path, io::Error::other("no"));
        assert_eq!(other.to_string(), "cannot mount on /point");
    }
}
