//! What makes a folder a repository (`docs/formats/catalog.md`).

use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::catalog::{open_text, seal_text};
use crate::chunk::CHUNK_BYTES;
use crate::clock::UnixNanoseconds;
use crate::disk::Disk;
use crate::error::RepoError;

/// The constant facts of a repository.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub(crate) repository: Uuid,
    pub(crate) created: UnixNanoseconds,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSuperblock {
    repository: Uuid,
    created_unix_nanoseconds: u64,
    chunk_bytes: usize,
    chunk_hash: String,
    /// Empty until repositories are encrypted; what needs a key this version does not have is refused.
    keys: Vec<serde_json::Value>,
}

impl Superblock {
    /// Writes the superblock, the last step of making a repository.
    pub(crate) fn create(&self, disk: &dyn Disk) -> Result<(), RepoError> {
        let stored = StoredSuperblock {
            repository: self.repository,
            created_unix_nanoseconds: self.created.0,
            chunk_bytes: CHUNK_BYTES,
            chunk_hash: HASH.to_owned(),
            keys: Vec::new(),
        };
        let body = serde_json::to_string_pretty(&stored).expect("a superblock has only text keys");
        Ok(disk.publish(
            Path::new(Self::PATH),
            seal_text(KIND, VERSION, &body).as_bytes(),
        )?)
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
        let (_, body) = open_text(&format!("file {}", Self::PATH), KIND, VERSION, &text)?;
        let stored: StoredSuperblock =
            serde_json::from_str(body).map_err(|error| corrupt(error.to_string()))?;
        if stored.chunk_bytes != CHUNK_BYTES || stored.chunk_hash != HASH {
            return Err(corrupt(format!(
                "chunks of {} bytes by {}",
                stored.chunk_bytes, stored.chunk_hash
            )));
        }
        if !stored.keys.is_empty() {
            return Err(RepoError::Refused(
                "this repository is encrypted, which this version does not read",
            ));
        }
        Ok(Self {
            repository: stored.repository,
            created: UnixNanoseconds(stored.created_unix_nanoseconds),
        })
    }

    pub(crate) const PATH: &str = "superblock";
}

const KIND: &str = "superblock";
const VERSION: u32 = 1;
const HASH: &str = "blake3";
const SUPERBLOCK_BYTES_MAX: u64 = 1 << 20;
