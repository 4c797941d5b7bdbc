//! What makes a folder a repository (`docs/formats/catalog.md`).

use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::catalog::{open_head, seal_head};
use crate::chunk::CHUNK_BYTES;
use crate::clock::UnixNanoseconds;
use crate::disk::Disk;
use crate::error::RepoError;
use crate::keys::MasterKey;

/// The constant facts of a repository.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub(crate) repository: Uuid,
    pub(crate) created: UnixNanoseconds,
    /// What the master key is known by, if the repository is encrypted.
    key_check: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSuperblock {
    repository: Uuid,
    created_unix_nanoseconds: u64,
    chunk_bytes: usize,
    chunk_hash: String,
    /// The master key, if the repository is encrypted.
    keys: Vec<StoredKey>,
}

/// Says how the repository is encrypted, and proves a master key and the superblock to each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    cipher: String,
    check: String,
}

impl Superblock {
    /// The facts of a new repository, encrypted if it has a master key.
    pub(crate) fn new(
        repository: Uuid,
        created: UnixNanoseconds,
        master: Option<&MasterKey>,
    ) -> Self {
        let mut superblock = Self {
            repository,
            created,
            key_check: None,
        };
        superblock.key_check = master.map(|master| superblock.check_of(master));
        superblock
    }

    /// Writes the superblock, the last step of making a repository.
    pub(crate) fn create(&self, disk: &dyn Disk) -> Result<(), RepoError> {
        let (version, hash) = match self.is_encrypted() {
            false => (PLAIN_VERSION, PLAIN_HASH),
            true => (VERSION, KEYED_HASH),
        };
        let keys = self.key_check.iter().map(|check| StoredKey {
            cipher: CIPHER.to_owned(),
            check: check.clone(),
        });
        let stored = StoredSuperblock {
            repository: self.repository,
            created_unix_nanoseconds: self.created.0,
            chunk_bytes: CHUNK_BYTES,
            chunk_hash: hash.to_owned(),
            keys: keys.collect(),
        };
        let body = serde_json::to_string_pretty(&stored).expect("a superblock has only text keys");
        let text = seal_head(KIND, version, body.as_bytes());
        Ok(disk.publish(Path::new(Self::PATH), &text)?)
    }

    /// Reads the superblock of the repository at `root`.
    pub(crate) fn open(disk: &dyn Disk, root: &Path) -> Result<Self, RepoError> {
        let text = match disk.read(Path::new(Self::PATH), SUPERBLOCK_BYTES_MAX) {
            Err(error) if error.is_missing() => {
                return Err(RepoError::NotARepository {
                    path: root.to_owned(),
                });
            }
            other => other?,
        };
        let corrupt = |detail: String| RepoError::Corrupt {
            what: format!("file {}", Self::PATH),
            detail,
        };
        let (version, body) = open_head(&format!("file {}", Self::PATH), KIND, VERSION, &text)?;
        let stored: StoredSuperblock =
            serde_json::from_slice(body).map_err(|error| corrupt(error.to_string()))?;
        let hash = match version {
            PLAIN_VERSION => PLAIN_HASH,
            _ => KEYED_HASH,
        };
        if stored.chunk_bytes != CHUNK_BYTES || stored.chunk_hash != hash {
            return Err(corrupt(format!(
                "chunks of {} bytes by {}",
                stored.chunk_bytes, stored.chunk_hash
            )));
        }
        let key_check = match (version, stored.keys.as_slice()) {
            (PLAIN_VERSION, []) => None,
            (VERSION, [key]) if key.cipher == CIPHER => Some(key.check.clone()),
            _ => return Err(corrupt("its keys are not what its version has".to_owned())),
        };
        Ok(Self {
            repository: stored.repository,
            created: UnixNanoseconds(stored.created_unix_nanoseconds),
            key_check,
        })
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.key_check.is_some()
    }

    /// Whether this is the superblock that was written with `master`, unchanged.
    pub(crate) fn belongs_to(&self, master: &MasterKey) -> bool {
        self.key_check.as_ref() == Some(&self.check_of(master))
    }

    /// Nobody without the key can make it, and it says nothing of the key.
    fn check_of(&self, master: &MasterKey) -> String {
        let key = master.subkey(self.repository, CHECK);
        let facts = format!(
            "{}\n{}\n{CHUNK_BYTES}\n{KEYED_HASH}\n{CIPHER}\n",
            self.repository, self.created.0
        );
        blake3::keyed_hash(&key, facts.as_bytes())
            .to_hex()
            .to_string()
    }

    pub(crate) const PATH: &str = "superblock";
}

const KIND: &str = "superblock";

/// Of repositories that are not encrypted; version 1 had no others.
const PLAIN_VERSION: u32 = 1;
const VERSION: u32 = 2;
const PLAIN_HASH: &str = "blake3";
const KEYED_HASH: &str = "blake3-keyed";
const CIPHER: &str = "aes-256-gcm";
const CHECK: &str = "holdfast encrypted repository v1: superblock";
const SUPERBLOCK_BYTES_MAX: u64 = 1 << 20;
