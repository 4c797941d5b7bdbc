//! Pages of maps, encrypted on their way to the index.

use std::sync::Arc;

use uuid::Uuid;

use super::pages::{PageKey, PageStore};
use crate::error::RepoError;
use crate::keys::{Cipher, SALT_BYTES, TAG_BYTES, Tag, random};

/// Seals pages and checkpoints before another store keeps them. One that does not open is as good as damaged.
pub(crate) struct SealedPages {
    store: Arc<dyn PageStore>,
    cipher: Cipher,
}

impl SealedPages {
    pub(crate) fn new(store: Arc<dyn PageStore>, cipher: Cipher) -> Self {
        Self { store, cipher }
    }

    fn seal(&self, overlay: Uuid, key: u64, content: &[u8]) -> Result<Vec<u8>, RepoError> {
        let salt = random()?;
        let mut sealed = Vec::with_capacity(SALT_BYTES + content.len() + TAG_BYTES);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(content);
        let (_, bytes) = sealed.split_at_mut(SALT_BYTES);
        let tag = self.cipher.seal(&salt, &about(overlay, key), bytes);
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// What was sealed; nothing, which no page is, if it cannot be opened.
    fn open(&self, overlay: Uuid, key: u64, sealed: &[u8]) -> Vec<u8> {
        let opened = || {
            let (salt, rest) = sealed.split_first_chunk::<SALT_BYTES>()?;
            let (bytes, tag): (&[u8], &Tag) = rest.split_last_chunk::<TAG_BYTES>()?;
            let mut content = bytes.to_vec();
            self.cipher
                .open(salt, &about(overlay, key), &mut content, tag)
                .then_some(content)
        };
        opened().unwrap_or_default()
    }
}

impl PageStore for SealedPages {
    fn get(&self, overlay: Uuid, key: PageKey) -> Result<Option<Vec<u8>>, RepoError> {
        let sealed = self.store.get(overlay, key)?;
        Ok(sealed.map(|sealed| self.open(overlay, key.0, &sealed)))
    }

    fn put(
        &self,
        overlay: Uuid,
        pages: &[(PageKey, &[u8])],
        checkpoint: &[u8],
    ) -> Result<(), RepoError> {
        let sealed: Vec<(PageKey, Vec<u8>)> = pages
            .iter()
            .map(|(key, content)| Ok((*key, self.seal(overlay, key.0, content)?)))
            .collect::<Result<_, RepoError>>()?;
        let pages: Vec<(PageKey, &[u8])> = sealed
            .iter()
            .map(|(key, sealed)| (*key, sealed.as_slice()))
            .collect();
        let checkpoint = self.seal(overlay, CHECKPOINT, checkpoint)?;
        self.store.put(overlay, &pages, &checkpoint)
    }

    fn checkpoint(&self, overlay: Uuid) -> Result<Option<Vec<u8>>, RepoError> {
        let sealed = self.store.checkpoint(overlay)?;
        Ok(sealed.map(|sealed| self.open(overlay, CHECKPOINT, &sealed)))
    }

    fn flush(&self) -> Result<(), RepoError> {
        self.store.flush()
    }

    fn forget(&self, overlay: Uuid) -> Result<(), RepoError> {
        self.store.forget(overlay)
    }
}

impl std::fmt::Debug for SealedPages {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SealedPages")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// What a page is: of which overlay, and which.
fn about(overlay: Uuid, key: u64) -> [u8; 24] {
    let mut about = [0; 24];
    let (first, second) = about.split_at_mut(16);
    first.copy_from_slice(overlay.as_bytes());
    second.copy_from_slice(&key.to_be_bytes());
    about
}

/// The key of a checkpoint, which no page has.
const CHECKPOINT: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::keys::OverlayKeys;
    use crate::overlay::pages::MemoryPages;

    #[test]
    fn pages_open_only_under_their_own_key_and_name() {
        let (overlay, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let inner: Arc<MemoryPages> = Arc::default();
        let sealed = |master| {
            let cipher = OverlayKeys::for_tests(master).pages().unwrap();
            SealedPages::new(inner.clone(), cipher)
        };
        let pages = sealed(1);
        let put = [(PageKey(5), b"the page".as_slice())];
        pages.put(overlay, &put, b"the checkpoint").unwrap();
        let get = |pages: &SealedPages, key| pages.get(overlay, PageKey(key)).unwrap();
        assert_eq!(get(&pages, 5).unwrap(), b"the page");
        assert_eq!(get(&pages, 6), None);
        assert_eq!(
            pages.checkpoint(overlay).unwrap().unwrap(),
            b"the checkpoint"
        );
        assert_eq!(get(&sealed(2), 5).unwrap(), b"", "another key");
        // The stored bytes say nothing, and are of no use elsewhere.
        let stored = inner.get(overlay, PageKey(5)).unwrap().unwrap();
        assert!(!stored.windows(4).any(|four| four == b"page"));
        let moved = [(PageKey(6), stored.as_slice())];
        inner.put(overlay, &moved, &stored).unwrap();
        inner.put(other, &put_stored(&stored), &stored).unwrap();
        assert_eq!(get(&pages, 6).unwrap(), b"", "another page's");
        assert_eq!(pages.checkpoint(overlay).unwrap().unwrap(), b"");
        assert_eq!(pages.get(other, PageKey(5)).unwrap().unwrap(), b"");
    }

    fn put_stored(stored: &[u8]) -> [(PageKey, &[u8]); 1] {
        [(PageKey(5), stored)]
    }
}
