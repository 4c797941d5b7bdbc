//! The daemon's own folder: what it must remember and what clients on the same machine may find.
//!
//! | name | what |
//! |---|---|
//! | `certificate.der`, `key.der` | the self-made certificate and its key |
//! | `certificate.pem` | the certificate again, for NBD clients |
//! | `tokens.json`, `token` | hashes of all tokens; the first one in clear, for the command line |
//! | `repository` | the repository whose daemon this is the folder of |
//! | `lock` | held while a daemon runs |
//! | `lock-authority.json` | the secret of the one-time codes that lift locks, and which code was used last |
//! | `nfs.key` | key of the checksums in NFS file handles |
//! | `sessions/` | recovery sessions |
//! | `watched/` | how the repository's files were, to tell what changed while no daemon ran |
//! | `addresses.json` | where the running daemon listens |
//! | `control.sock`, `nbd.sock` | unix sockets |
//!
//! The folder has mode 0700 and files with secrets 0600.

mod addresses;
mod authority;
mod certificate;
mod tokens;

use std::fmt;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use repo::disk::{Disk as _, SystemDisk};
use uuid::Uuid;

pub use addresses::{Addresses, PORTMAPPER_PORT};
pub use authority::{AuthorityError, LockAuthority, NewAuthority};
pub use certificate::{Fingerprint, Identity};
pub(crate) use tokens::TOKEN_FILE;
pub use tokens::{NewToken, Role, TokenError, TokenRecord, Tokens, Verdict};

/// The folder.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    disk: SystemDisk,
    claim: Option<Claim>,
}

/// Held by the daemon that runs on a folder.
struct Claim {
    _lock: Box<dyn Send + Sync>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Claim")
    }
}

/// Something in the folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file could not be read or written.
    #[error("cannot {action} {}; check that the daemon's user owns the state folder and that it has space", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: std::io::Error,
    },
    /// A file was read but is not what it should be.
    #[error("{} is damaged: {detail}; {remedy}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another daemon runs on the folder.
    #[error("{} is the state folder of a daemon that runs; stop that one, or give --state another folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder was made for another repository.
    #[error("{} is the state folder of repository {found}, not of this one; give --state another folder", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: String,
    },
    /// A certificate could not be made, or does not fit its key.
    #[error("cannot use the certificate: {0}; check that certificate and key belong together")]
    Certificate(String),
    /// A file that the configuration names for TLS is not what it should be.
    #[error("cannot use {} for TLS: {detail}; {remedy}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
}

impl StateFolder {
    /// Opens the folder, and makes it if it is not there.
    ///
    /// # Errors
    /// If it cannot be made or its rights cannot be set.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        if !path.is_dir() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(failed("create", path))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(failed("set the rights of", path))?;
        let folder = Self {
            path: path.to_owned(),
            disk: SystemDisk::new(path),
            claim: None,
        };
        folder.create_directory(Path::new("sessions"))?;
        Ok(folder)
    }

    /// Takes the folder for the daemon of `repository`, for as long as the value lives. Sessions and handles in it mean
    /// something in that repository only.
    ///
    /// # Errors
    /// If a daemon runs on it, or it belongs to another repository.
    pub fn claim(&mut self, repository: Uuid) -> Result<(), StateError> {
        let lock = match self.disk.lock(Path::new("lock")) {
            Err(error) if error.source.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(StateError::InUse {
                    path: self.path.clone(),
                });
            }
            other => other.map_err(from_disk)?,
        };
        let name = Path::new("repository");
        let ours = repository.to_string();
        match self.read(name, 64)? {
            None => self.create_secret(name, ours.as_bytes())?,
            Some(found) if found == ours.as_bytes() => {}
            Some(found) => {
                return Err(StateError::Foreign {
                    path: self.path.clone(),
                    found: String::from_utf8_lossy(&found).into_owned(),
                });
            }
        }
        self.claim = Some(Claim { _lock: lock });
        Ok(())
    }

    /// Where the folder lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where `name` lies.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.file("control.sock")
    }

    /// The NBD socket.
    pub fn nbd_socket(&self) -> PathBuf {
        self.file("nbd.sock")
    }

    /// The socket for streams.
    pub fn ingest_socket(&self) -> PathBuf {
        self.file("ingest.sock")
    }

    /// Makes a folder inside, durably.
    ///
    /// # Errors
    /// If the storage refuses.
    pub fn create_directory(&self, name: &Path) -> Result<(), StateError> {
        self.disk.create_directory(name).map_err(from_disk)
    }

    /// Replaces a file in one durable step.
    ///
    /// # Errors
    /// If the storage refuses.
    pub fn replace(&self, name: &Path, content: &[u8]) -> Result<(), StateError> {
        self.disk.replace(name, content).map_err(from_disk)
    }

    /// Removes a file inside, durably.
    ///
    /// # Errors
    /// If the storage refuses.
    pub fn remove(&self, name: &Path) -> Result<(), StateError> {
        let removed = self
            .disk
            .remove(name)
            .and_then(|()| self.disk.sync_directory(Path::new("")));
        removed.map_err(from_disk)
    }

    /// Removes a folder inside with all in it; one that is not there is fine.
    ///
    /// # Errors
    /// If the storage refuses.
    pub fn remove_directory(&self, name: &Path) -> Result<(), StateError> {
        match self.disk.remove_directory(name) {
            Err(error) if !error.is_missing() => Err(from_disk(error)),
            _ => Ok(()),
        }
    }

    /// Reads a file of at most `limit_bytes`; `None` if there is none.
    ///
    /// # Errors
    /// If the storage refuses or the file is larger.
    pub fn read(&self, name: &Path, limit_bytes: u64) -> Result<Option<Vec<u8>>, StateError> {
        match self.disk.read(name, limit_bytes) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(from_disk(error)),
        }
    }

    /// The key for checksums in NFS handles, made at the first call ever.
    ///
    /// # Errors
    /// If it cannot be read or stored.
    pub fn nfs_key(&self) -> Result<[u8; 32], StateError> {
        let name = Path::new("nfs.key");
        if let Some(content) = self.read(name, 64)? {
            return content
                .as_slice()
                .try_into()
                .map_err(|_| StateError::Damaged {
                    path: self.file(name),
                    detail: format!("it has {} bytes instead of 32", content.len()),
                    remedy: "remove it and start again; NFS clients must then mount anew",
                });
        }
        let key = random::<32>();
        self.create_secret(name, &key)?;
        Ok(key)
    }

    /// Makes a file that only the owner can read, whole or not at all; refuses if it is there.
    fn create_secret(&self, name: &Path, content: &[u8]) -> Result<(), StateError> {
        self.disk.publish(name, content).map_err(from_disk)
    }
}

/// Bytes that nobody can guess.
///
/// # Panics
/// If the kernel has no random numbers, with which nothing here is safe.
pub fn random<const COUNT: usize>() -> [u8; COUNT] {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; COUNT];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel gives random numbers");
    bytes
}

/// Lower-case hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes any text");
            text
        })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File {
        action,
        path,
        source,
    }
}

fn from_disk(error: repo::disk::DiskError) -> StateError {
    StateError::File {
        action: error.action,
        path: error.path,
        source: error.source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_private_and_keeps_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon");
        let state = StateFolder::open(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let key = state.nfs_key().unwrap();
        assert_eq!(
            fs::metadata(path.join("nfs.key"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        assert_eq!(StateFolder::open(&path).unwrap().nfs_key().unwrap(), key);
        fs::write(path.join("nfs.key"), b"short").unwrap();
        assert!(
            state
                .nfs_key()
                .unwrap_err()
                .to_string()
                .contains("5 bytes instead of 32")
        );
    }

    #[test]
    fn a_folder_serves_one_daemon_of_one_repository() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon");
        let (ours, other) = (Uuid::new_v4(), Uuid::new_v4());
        let mut first = StateFolder::open(&path).unwrap();
        first.claim(ours).unwrap();
        let mut second = StateFolder::open(&path).unwrap();
        assert!(matches!(second.claim(ours), Err(StateError::InUse { .. })));
        drop(first);
        assert!(matches!(
            second.claim(other),
            Err(StateError::Foreign { .. })
        ));
        second.claim(ours).unwrap();
    }

    #[test]
    fn bytes_are_shown_as_hexadecimal() {
        assert_eq!(hexadecimal(&[0, 15, 255]), "000fff");
    }
}
