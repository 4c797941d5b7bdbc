//! The server's folder.
//!
//! | name | what |
//! |---|---|
//! | `smb.conf` | the configuration, written anew at every change |
//! | `passwd`, `group`, `nsswitch.conf` | the users that `smbd` sees in place of the machine's |
//! | `private/` | users with hashes of their passwords, kept |
//! | `state/` | what else Samba remembers |
//! | `lock/`, `cache/`, `pid/`, `rpc/` | of the running server, emptied before each start |
//! | `log/` | its log |
//! | `mounts/` | a file system in memory with the mount points of shares |

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::SmbError;
use crate::error::file;

/// Where things lie.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Makes what is missing, and takes it from everybody else.
    pub(crate) fn prepare(&self) -> Result<(), SmbError> {
        if self.0.as_os_str().len() > PATH_BYTES_MAX {
            return Err(SmbError::LongPath {
                path: self.0.clone(),
                limit: PATH_BYTES_MAX,
            });
        }
        let kept = [self.0.clone(), self.private(), self.state(), self.log()];
        let own = kept.into_iter().chain(self.passing());
        for folder in own {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(file("create", &folder))?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
                .map_err(file("set the rights of", &folder))?;
        }
        Ok(())
    }

    /// Empties what belongs to a server that is no more.
    pub(crate) fn clear(&self) -> Result<(), SmbError> {
        for folder in self.passing() {
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(file("empty", &folder))?;
            }
        }
        self.prepare()
    }

    /// Replaces a file in one step, so that nobody reads half of it. What is written here is made again at each start, so
    /// a loss of power may take it.
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing here need survive a crash"
    )]
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<(), SmbError> {
        let path = self.0.join(name);
        let new = self.0.join(format!("{name}.new"));
        let written = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut opened| opened.write_all(content.as_bytes()));
        written.map_err(file("write", &new))?;
        fs::rename(&new, &path).map_err(file("replace", &path))
    }

    fn passing(&self) -> [PathBuf; 4] {
        [self.lock(), self.cache(), self.pid(), self.rpc()]
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.0.join(CONFIGURATION)
    }

    pub(crate) fn users(&self) -> PathBuf {
        self.0.join(USERS)
    }

    pub(crate) fn groups(&self) -> PathBuf {
        self.0.join(GROUPS)
    }

    pub(crate) fn name_services(&self) -> PathBuf {
        self.0.join(NAME_SERVICES)
    }

    pub(crate) fn private(&self) -> PathBuf {
        self.0.join("private")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    pub(crate) fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }

    pub(crate) fn rpc(&self) -> PathBuf {
        self.0.join("rpc")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.log().join("log.smbd")
    }
}

pub(crate) const CONFIGURATION: &str = "smb.conf";
pub(crate) const USERS: &str = "passwd";
pub(crate) const GROUPS: &str = "group";
pub(crate) const NAME_SERVICES: &str = "nsswitch.conf";

/// Samba makes sockets such as `private/msg.sock/4194304` and `rpc/np/svcctl`, whose paths have 107 bytes at most.
const PATH_BYTES_MAX: usize = 75;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_private_and_cleared_of_what_passes() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::at(&parent.path().join("smb"));
        folder.prepare().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.0), 0o700);
        assert_eq!(mode(&folder.private()), 0o700);
        fs::write(folder.private().join("passdb.tdb"), b"x").unwrap();
        fs::write(folder.lock().join("locking.tdb"), b"x").unwrap();
        folder.write("smb.conf", "[global]\n").unwrap();
        folder.clear().unwrap();
        assert!(folder.private().join("passdb.tdb").exists());
        assert!(!folder.lock().join("locking.tdb").exists());
        assert_eq!(mode(&folder.configuration()), 0o600);
    }

    #[test]
    fn a_path_that_is_too_long_for_sockets_is_refused() {
        let folder = Folder::at(Path::new(&format!("/tmp/{}", "x".repeat(75))));
        assert!(matches!(folder.prepare(), Err(SmbError::LongPath { .. })));
    }
}
