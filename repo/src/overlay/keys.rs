//! What the overlays of an encrypted repository are encrypted with (`docs/formats/overlay.md`).
//!
//! A payload is sealed under a key that is used once, block by block, so that a block can be read alone. Heads of
//! segments and records are in clear and carry a code that only the key can make.

use std::fmt;
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::format::BLOCK_BYTES;
use super::pages::PageStore;
use super::sealed_pages::SealedPages;
use crate::error::RepoError;
use crate::keys::{Cipher, KeyRing, Salt, TAG_BYTES, Tag, random};

/// The keys of all overlays of a repository, or none if that is not encrypted.
#[derive(Clone)]
pub struct OverlayKeys {
    pub(super) ring: Arc<KeyRing>,
    journal: Option<Arc<JournalKeys>>,
}

/// The keys of journals.
pub(crate) struct JournalKeys {
    payloads: Zeroizing<[u8; 32]>,
    heads: Zeroizing<[u8; 32]>,
}

/// Salt and tags of the blocks of one payload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seals {
    pub(crate) salt: Salt,
    pub(crate) tags: Vec<Tag>,
}

/// The first bytes of a keyed hash.
pub(crate) type HeadCode = [u8; HEAD_CODE_BYTES];

impl OverlayKeys {
    /// For a repository that is not encrypted.
    pub fn none() -> Self {
        Self::new(Arc::new(KeyRing::plain()))
    }

    pub(crate) fn new(ring: Arc<KeyRing>) -> Self {
        let journal = ring
            .subkey(PAYLOADS)
            .zip(ring.subkey(HEADS))
            .map(|(payloads, heads)| Arc::new(JournalKeys { payloads, heads }));
        Self { ring, journal }
    }

    /// Some keys, the same for the same byte. For tests.
    #[doc(hidden)]
    pub fn for_tests(master: u8) -> Self {
        let master = crate::keys::MasterKey::from_bytes([master; 32]);
        Self::new(Arc::new(KeyRing::new(master, Uuid::nil())))
    }

    pub(crate) fn journal(&self) -> Option<&Arc<JournalKeys>> {
        self.journal.as_ref()
    }

    /// The store of pages as overlays see it: it encrypts what it is given, if anything is encrypted.
    pub(crate) fn seal_pages(&self, store: Arc<dyn PageStore>) -> Arc<dyn PageStore> {
        match self.pages() {
            Some(cipher) => Arc::new(SealedPages::new(store, cipher)),
            None => store,
        }
    }

    pub(super) fn pages(&self) -> Option<Cipher> {
        self.ring.subkey(PAGES).map(Cipher::new)
    }
}

impl JournalKeys {
    /// Encrypts the payload of a record that begins at `offset` of the disk, in place.
    pub(crate) fn seal(
        &self,
        overlay: Uuid,
        offset: u64,
        payload: &mut [u8],
    ) -> Result<Seals, RepoError> {
        let salt = random()?;
        let key = self.payload_key(overlay, &salt);
        let mut tags = Vec::with_capacity(payload.len().div_ceil(BLOCK_BYTES));
        for (at, block) in (offset..)
            .step_by(BLOCK_BYTES)
            .zip(payload.chunks_mut(BLOCK_BYTES))
        {
            let tag = key
                .seal_in_place_separate_tag(nonce(at), Aad::empty(), block)
                .expect("a block is far shorter than the cipher's limit");
            let mut stored = [0; TAG_BYTES];
            stored.copy_from_slice(tag.as_ref());
            tags.push(stored);
        }
        Ok(Seals { salt, tags })
    }

    /// Decrypts blocks, the first of which lies at `offset` of the disk, in place. False says that something of it is
    /// not what was sealed for that place; nothing in `blocks` may be used then.
    #[must_use]
    pub(crate) fn open(
        &self,
        overlay: Uuid,
        offset: u64,
        blocks: &mut [u8],
        salt: &Salt,
        tags: &[Tag],
    ) -> bool {
        let key = self.payload_key(overlay, salt);
        let mut places = (offset..).step_by(BLOCK_BYTES).zip(tags);
        blocks.len().div_ceil(BLOCK_BYTES) == tags.len()
            && blocks.chunks_mut(BLOCK_BYTES).all(|block| {
                places.next().is_some_and(|(at, tag)| {
                    key.open_in_place_separate_tag(
                        nonce(at),
                        Aad::empty(),
                        (*tag).into(),
                        block,
                        0..,
                    )
                    .is_ok()
                })
            })
    }

    /// The code of a segment's header or a record's head: over all of `parts`, of which the first says what they are.
    pub(crate) fn head_code(&self, parts: &[&[u8]]) -> HeadCode {
        let mut hasher = blake3::Hasher::new_keyed(&self.heads);
        for part in parts {
            hasher.update(part);
        }
        let mut code = [0; HEAD_CODE_BYTES];
        code.copy_from_slice(
            hasher
                .finalize()
                .as_bytes()
                .get(..HEAD_CODE_BYTES)
                .unwrap_or_default(),
        );
        code
    }

    fn payload_key(&self, overlay: Uuid, salt: &Salt) -> LessSafeKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.payloads);
        hasher.update(salt);
        hasher.update(overlay.as_bytes());
        let key = Zeroizing::new(*hasher.finalize().as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("the key has 32 bytes");
        LessSafeKey::new(key)
    }
}

/// A key seals one payload, whose blocks lie at different offsets.
fn nonce(offset: u64) -> Nonce {
    let mut nonce = [0; 12];
    for (to, from) in nonce.iter_mut().zip(offset.to_le_bytes()) {
        *to = from;
    }
    Nonce::assume_unique_for_key(nonce)
}

impl fmt::Debug for OverlayKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OverlayKeys")
            .field("encrypted", &self.journal.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for JournalKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JournalKeys")
            .finish_non_exhaustive()
    }
}

pub(crate) const HEAD_CODE_BYTES: usize = 16;

const PAYLOADS: &str = "holdfast encrypted repository v1: payloads of journals";
const HEADS: &str = "holdfast encrypted repository v1: heads of journals";
const PAGES: &str = "holdfast encrypted repository v1: pages of overlay maps";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_open_alone_and_only_in_their_own_place() {
        let keys = OverlayKeys::for_tests(1);
        let keys = keys.journal().unwrap();
        let (overlay, offset) = (Uuid::from_u128(3), 65536 + 512);
        let clear: Vec<u8> = (0..10_000_u32).map(|at| (at % 251) as u8).collect();
        let clear = &clear[..9728];
        let mut sealed = clear.to_vec();
        let Seals { salt, tags } = keys.seal(overlay, offset, &mut sealed).unwrap();
        assert_eq!(tags.len(), 3);
        for block in 0..3 {
            let range = block * 4096..9728.min((block + 1) * 4096);
            let tags = &tags[block..=block];
            let at = offset + block as u64 * 4096;
            let open = |keys: &JournalKeys, overlay, at, salt: &Salt, tags: &[Tag]| {
                let mut bytes = sealed[range.clone()].to_vec();
                keys.open(overlay, at, &mut bytes, salt, tags)
                    .then_some(bytes)
            };
            assert_eq!(
                open(keys, overlay, at, &salt, tags).as_deref(),
                Some(&clear[range.clone()])
            );
            let other = OverlayKeys::for_tests(2);
            let other = other.journal().unwrap();
            assert_eq!(open(other, overlay, at, &salt, tags), None);
            assert_eq!(open(keys, Uuid::nil(), at, &salt, tags), None);
            assert_eq!(open(keys, overlay, at + 512, &salt, tags), None);
            assert_eq!(open(keys, overlay, at, &[0; 16], tags), None);
            assert_eq!(open(keys, overlay, at, &salt, &[[0; 16]]), None);
            assert_eq!(open(keys, overlay, at, &salt, &[]), None);
        }
    }
}
