//! Whether a folder can be mounted on, and if not, what to do.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::FuseError;
use crate::mount_table;

/// The mount point without links in its path, if it is an empty folder with nothing mounted on it.
pub(crate) fn check(path: &Path) -> Result<PathBuf, FuseError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if is_left(&error) => return Err(FuseError::Left(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(FuseError::Missing(path.to_owned()));
        }
        Err(error) => return Err(cannot("look at", path, error)),
    };
    if !metadata.is_dir() {
        return Err(FuseError::NotDirectory(path.to_owned()));
    }
    let path = fs::canonicalize(path).map_err(|error| cannot("follow", path, error))?;
    let table = Path::new("/proc/self/mountinfo");
    let mounted = mount_table::read().map_err(|error| cannot("read", table, error))?;
    if let Some(entry) = mount_table::find(&mounted, &path) {
        return Err(FuseError::Mounted {
            path,
            name: entry.name,
        });
    }
    let mut entries = fs::read_dir(&path).map_err(|error| cannot("list", &path, error))?;
    if entries.next().is_some() {
        return Err(FuseError::NotEmpty(path));
    }
    Ok(path)
}

/// Whether the kernel's device can be opened.
pub(crate) fn check_device() -> Result<(), FuseError> {
    let device = Path::new("/dev/fuse");
    match fs::File::options().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(FuseError::DeviceNotPermitted)
        }
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => Err(FuseError::NoDevice),
            _ => Err(cannot("open", device, error)),
        },
    }
}

/// What the kernel says of a mount whose process is gone.
fn is_left(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOTCONN | Errno::CONNABORTED)
    )
}

fn cannot(what: &'static str, path: &Path, source: io::Error) -> FuseError {
    FuseError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        assert!(matches!(check(&inside), Err(FuseError::Missing(_))));
        fs::create_dir(&inside).unwrap();
        assert_eq!(check(&inside).unwrap(), inside.canonicalize().unwrap());
        assert!(matches!(check(folder.path()), Err(FuseError::NotEmpty(_))));
        let file = inside.join("file");
        fs::write(&file, b"x").unwrap();
        assert!(matches!(check(&file), Err(FuseError::NotDirectory(_))));
        let Err(error) = check(Path::new("/proc")) else {
            panic!("/proc is mounted");
        };
        assert!(error.to_string().contains("umount /proc"), "{error}");
    }

    #[test]
    fn a_mount_without_its_process_is_told_from_others() {
        assert!(is_left(&Errno::NOTCONN.into()));
        assert!(!is_left(&Errno::ACCESS.into()));
    }
}
