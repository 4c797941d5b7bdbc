//! What can go wrong with a mount, and what the kernel is told when a request fails.

use std::io;
use std::path::PathBuf;

use export::ExportError;
use fuser::Errno;

/// A tree cannot be mounted, or a mount cannot be ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FuseError {
    /// There is no folder to mount on.
    #[error("the mount point {} is not there; make it with `mkdir -p {}`", .0.display(), .0.display())]
    Missing(PathBuf),
    /// The mount point is something else.
    #[error("the mount point {} is not a folder; name an empty folder", .0.display())]
    NotDirectory(PathBuf),
    /// What the folder holds would be hidden.
    #[error("the mount point {} is not empty; name an empty folder", .0.display())]
    NotEmpty(PathBuf),
    /// Something is mounted there.
    #[error(
        "{} is mounted on {} already; unmount that with `umount {}`, or name another folder",
        name,
        path.display(),
        path.display()
    )]
    Mounted {
        /// The mount point.
        path: PathBuf,
        /// What is mounted.
        name: String,
    },
    /// The process behind an earlier mount is gone and the mount is left.
    #[error(
        "an earlier mount on {} was left by a process that is gone; remove it with `fusermount3 -u {}`, or `umount -l {}` as root",
        .0.display(),
        .0.display(),
        .0.display()
    )]
    Left(PathBuf),
    /// The kernel's device is not there.
    #[error(
        "/dev/fuse is not there; load the module with `modprobe fuse` (in a container, pass the device in)"
    )]
    NoDevice,
    /// The kernel's device belongs to others.
    #[error(
        "/dev/fuse may not be opened by this user; mount as root, or let the user open the device"
    )]
    DeviceNotPermitted,
    /// Only root may mount, and the program that does it for others is not installed.
    #[error(
        "only root may mount without the program fusermount3; install the package fuse3, or mount as root"
    )]
    NoHelper,
    /// The machine does not let users show a mount to others.
    #[error("a mount for other users needs root, or the line `user_allow_other` in /etc/fuse.conf")]
    OthersNotAllowed,
    /// A name for the mount that the kernel cannot be told.
    #[error("`{0}` is no name for a mount: letters, digits and `-_.:/@` only")]
    BadName(String),
    /// The mount point could not be looked at.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot mount on {}", path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// Somebody still uses the mount.
    #[error(
        "{} is in use; close what is open there and leave the folder (`fuser -vm {}` shows who), then unmount again",
        .0.display(),
        .0.display()
    )]
    Busy(PathBuf),
    /// Unmounting failed.
    #[error("cannot unmount {}", path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread for the mount")]
    Thread(#[source] io::Error),
    /// The connection to the kernel broke.
    #[error("the kernel's connection for {} failed: {reason}", path.display())]
    Connection {
        /// The mount point.
        path: PathBuf,
        /// How it failed.
        reason: String,
    },
}

/// What the kernel is told.
pub(crate) fn status(error: &ExportError) -> Errno {
    match error {
        ExportError::OutOfRange { .. } | ExportError::BadName | ExportError::Invalid => {
            Errno::EINVAL
        }
        ExportError::ReadOnly => Errno::EROFS,
        ExportError::NotFound => Errno::ENOENT,
        ExportError::Stale => Errno::ESTALE,
        ExportError::Exists => Errno::EEXIST,
        ExportError::NotDirectory => Errno::ENOTDIR,
        ExportError::IsDirectory => Errno::EISDIR,
        ExportError::NotEmpty => Errno::ENOTEMPTY,
        ExportError::NameTooLong => Errno::ENAMETOOLONG,
        ExportError::NotPermitted => Errno::EPERM,
        ExportError::NotSupported => Errno::EOPNOTSUPP,
        ExportError::TooLarge => Errno::EFBIG,
        ExportError::NoSpace { .. } => Errno::ENOSPC,
        ExportError::Encrypted => io::Error::from(rustix::io::Errno::NOKEY).into(),
        ExportError::ShuttingDown => Errno::ESHUTDOWN,
        _ => Errno::EIO,
    }
}

/// Whether an operator must hear of it, because the kernel's word does not say what is wrong.
pub(crate) fn is_fault(error: &ExportError) -> bool {
    matches!(
        error,
        ExportError::Corrupt { .. } | ExportError::Storage { .. } | ExportError::NoSpace { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_number() {
        let detail: std::sync::Arc<str> = "here".into();
        let range = ExportError::OutOfRange {
            offset: 1,
            length: 1,
        };
        // The numbers of errno(3) on Linux.
        let table = [
            (range, 22),
            (ExportError::ReadOnly, 30),
            (ExportError::NotFound, 2),
            (ExportError::Stale, 116),
            (ExportError::Exists, 17),
            (ExportError::NotDirectory, 20),
            (ExportError::IsDirectory, 21),
            (ExportError::NotEmpty, 39),
            (ExportError::BadName, 22),
            (ExportError::NameTooLong, 36),
            (ExportError::NotPermitted, 1),
            (ExportError::Invalid, 22),
            (ExportError::NotSupported, 95),
            (ExportError::TooLarge, 27),
            (ExportError::Encrypted, 126),
            (ExportError::ShuttingDown, 108),
        ];
        for (error, number) in table {
            assert_eq!(status(&error).code(), number, "{error}");
            assert!(!is_fault(&error), "{error}");
        }
        let faults = [
            (
                ExportError::NoSpace {
                    detail: detail.clone(),
                },
                28,
            ),
            (
                ExportError::Corrupt {
                    detail: detail.clone(),
                },
                5,
            ),
            (ExportError::Storage { detail }, 5),
        ];
        for (error, number) in faults {
            assert_eq!(status(&error).code(), number, "{error}");
            assert!(is_fault(&error), "{error}");
        }
    }
}
