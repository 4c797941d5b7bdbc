//! Authenticated encryption with a key for each thing that is encrypted (`docs/formats/keys.md`).

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::error::RepoError;

/// Random bytes stored with what is encrypted, drawn anew for each thing.
pub(crate) type Salt = [u8; SALT_BYTES];

/// What proves that nothing was changed.
pub(crate) type Tag = [u8; TAG_BYTES];

/// Encrypts under keys that are used once: each is made from this cipher's own key, a random salt, and the bytes that
/// say what is encrypted. So the nonce can be constant, and a sealed thing can be moved but not taken for another.
pub(crate) struct Cipher {
    key: Zeroizing<[u8; 32]>,
}

impl Cipher {
    pub(crate) fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self { key }
    }

    /// Encrypts `bytes` in place.
    pub(crate) fn seal(&self, salt: &Salt, associated: &[u8], bytes: &mut [u8]) -> Tag {
        let tag = self
            .one_time_key(salt, associated)
            .seal_in_place_separate_tag(nonce(), Aad::from(associated), bytes)
            .expect("what is encrypted is far shorter than the cipher's limit");
        let mut stored = [0; TAG_BYTES];
        stored.copy_from_slice(tag.as_ref());
        stored
    }

    /// Decrypts `bytes` in place; false says that it, the salt, the tag or what was said about it is not what was
    /// sealed, or that the key is another. Nothing in `bytes` may be used then.
    #[must_use]
    pub(crate) fn open(&self, salt: &Salt, associated: &[u8], bytes: &mut [u8], tag: &Tag) -> bool {
        self.one_time_key(salt, associated)
            .open_in_place_separate_tag(nonce(), Aad::from(associated), (*tag).into(), bytes, 0..)
            .is_ok()
    }

    fn one_time_key(&self, salt: &Salt, associated: &[u8]) -> LessSafeKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(salt);
        hasher.update(associated);
        let key = Zeroizing::new(*hasher.finalize().as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("the key has 32 bytes");
        LessSafeKey::new(key)
    }
}

/// Each key seals one thing, so one nonce does for all.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Bytes that nobody can guess or has had before.
pub(crate) fn random<const COUNT: usize>() -> Result<[u8; COUNT], RepoError> {
    let mut bytes = [0; COUNT];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| RepoError::NoRandomness)?;
    Ok(bytes)
}

pub(crate) const SALT_BYTES: usize = 16;
pub(crate) const TAG_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_as_it_was() {
        let cipher = Cipher::new(Zeroizing::new([1; 32]));
        let salt = [2; 16];
        let mut sealed = b"the words".to_vec();
        let tag = cipher.seal(&salt, b"about", &mut sealed);
        assert_ne!(sealed, b"the words");
        let open = |cipher: &Cipher, salt: &Salt, about: &[u8], sealed: &[u8], tag: &Tag| {
            let mut bytes = sealed.to_vec();
            cipher.open(salt, about, &mut bytes, tag).then_some(bytes)
        };
        assert_eq!(
            open(&cipher, &salt, b"about", &sealed, &tag).as_deref(),
            Some(b"the words".as_slice())
        );
        let mut other_tag = tag;
        other_tag[15] ^= 1;
        let mut other_bytes = sealed.clone();
        other_bytes[0] ^= 1;
        let other = Cipher::new(Zeroizing::new([3; 32]));
        for refused in [
            open(&other, &salt, b"about", &sealed, &tag),
            open(&cipher, &[4; 16], b"about", &sealed, &tag),
            open(&cipher, &salt, b"abouT", &sealed, &tag),
            open(&cipher, &salt, b"about", &other_bytes, &tag),
            open(&cipher, &salt, b"about", &sealed[1..], &tag),
            open(&cipher, &salt, b"about", &sealed, &other_tag),
        ] {
            assert_eq!(refused, None);
        }
    }

    #[test]
    fn the_example_of_the_format_page_holds() {
        // docs/formats/keys.md, computed there by another implementation.
        let cipher = Cipher::new(Zeroizing::new([0x11; 32]));
        let mut bytes = b"holdfast".to_vec();
        let tag = cipher.seal(&[0x22; 16], b"example", &mut bytes);
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!((hex(&bytes).as_str(), hex(&tag).as_str()), EXAMPLE);
    }

    const EXAMPLE: (&str, &str) = ("8e0f810e5f5d2a9f", "0de140584d39c84a8337cd46702a8186");
}
