//! How the index speaks of restore points (`docs/formats/index.md`): in an encrypted repository it names none in clear.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::error::RepoError;
use crate::keys::{Cipher, KeyRing, SALT_BYTES, Salt, TAG_BYTES, Tag, random};

/// Hides names where the repository is encrypted, and leaves them as they are in another.
pub(super) struct IndexNames {
    hiding: Option<Hiding>,
}

struct Hiding {
    hash: Zeroizing<[u8; 32]>,
    cipher: Cipher,
}

impl IndexNames {
    pub(super) fn new(keys: &KeyRing) -> Arc<Self> {
        let hiding = keys.subkey(HASHES).zip(keys.subkey(VALUES));
        let hiding = hiding.map(|(hash, cipher)| Hiding {
            hash,
            cipher: Cipher::new(cipher),
        });
        Arc::new(Self { hiding })
    }

    /// That of a repository which is not encrypted.
    #[cfg(test)]
    pub(super) fn plain() -> Arc<Self> {
        Self::new(&KeyRing::plain())
    }

    pub(super) fn are_hidden(&self) -> bool {
        self.hiding.is_some()
    }

    /// What stands for `name` in a key.
    pub(super) fn in_key(&self, name: &str) -> Vec<u8> {
        match &self.hiding {
            None => name.as_bytes().to_vec(),
            Some(hiding) => blake3::keyed_hash(&hiding.hash, name.as_bytes())
                .as_bytes()
                .to_vec(),
        }
    }

    /// A value as it is to be stored under `key`.
    pub(super) fn seal(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, RepoError> {
        let Some(hiding) = &self.hiding else {
            return Ok(value.to_vec());
        };
        let salt: Salt = random()?;
        let mut stored = [&salt, value].concat();
        let (_, sealed) = stored.split_at_mut(SALT_BYTES);
        let tag = hiding.cipher.seal(&salt, key, sealed);
        stored.extend_from_slice(&tag);
        Ok(stored)
    }

    /// The value that [`seal`](Self::seal) stored under `key`; `None` if it is another.
    pub(super) fn open(&self, key: &[u8], stored: &[u8]) -> Option<Vec<u8>> {
        let Some(hiding) = &self.hiding else {
            return Some(stored.to_vec());
        };
        let (salt, rest) = stored.split_first_chunk::<SALT_BYTES>()?;
        let (sealed, tag): (_, &Tag) = rest.split_last_chunk::<TAG_BYTES>()?;
        let mut value = sealed.to_vec();
        hiding
            .cipher
            .open(salt, key, &mut value, tag)
            .then_some(value)
    }
}

impl std::fmt::Debug for IndexNames {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("IndexNames")
            .field("are_hidden", &self.are_hidden())
            .finish_non_exhaustive()
    }
}

const HASHES: &str = "holdfast encrypted repository v1: names in the index";
const VALUES: &str = "holdfast encrypted repository v1: values in the index";
