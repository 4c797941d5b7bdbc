//! One key slot: the master key, wrapped by one secret (`docs/formats/keys.md`).

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::cipher::{Cipher, SALT_BYTES, Salt, TAG_BYTES, Tag, random};
use super::secret::{MasterKey, Secret, SecretKind};
use crate::catalog::{WorkloadName, open_head, seal_head};
use crate::clock::UnixNanoseconds;
use crate::error::RepoError;

/// How much work a passphrase costs whoever tries one: Argon2id's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KdfSettings {
    /// Memory, in KiB.
    pub memory_kibibytes: u32,
    /// How many times it is gone through.
    pub passes: u32,
    /// Independent parts of it.
    pub lanes: u32,
}

impl Default for KdfSettings {
    fn default() -> Self {
        Self {
            memory_kibibytes: 256 << 10,
            passes: 3,
            lanes: 1,
        }
    }
}

impl KdfSettings {
    /// Whether they are within what a reader accepts; a file must not make it take all memory or work for hours.
    fn are_sensible(self) -> bool {
        (1..=LANES_MAX).contains(&self.lanes)
            && (1..=PASSES_MAX).contains(&self.passes)
            && (8 * self.lanes..=MEMORY_KIBIBYTES_MAX).contains(&self.memory_kibibytes)
    }
}

/// A key slot to be made.
#[derive(Debug, Clone)]
pub struct NewKeySlot {
    /// Its name: as for workloads.
    pub name: String,
    /// What opens it.
    pub secret: Secret,
    /// The work that a passphrase costs.
    pub kdf: KdfSettings,
}

/// What opens a key slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeySlotKind {
    /// A passphrase.
    Passphrase,
    /// A key, in a file or printed.
    Key,
}

/// A key slot, as far as it can be told without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeySlot {
    /// Its name.
    pub name: String,
    /// What opens it.
    pub kind: KeySlotKind,
    /// When it was made, by that machine's clock, in nanoseconds since 1970.
    pub created: UnixNanoseconds,
    /// The work that its passphrase costs.
    pub kdf: Option<KdfSettings>,
}

/// The file of a slot.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredSlot {
    repository: Uuid,
    slot: String,
    created_unix_nanoseconds: u64,
    opens_with: KeySlotKind,
    argon2id: Option<KdfSettings>,
    salt: String,
    wrapped_key: String,
}

impl StoredSlot {
    /// Wraps the master key.
    pub(super) fn make(
        master: &MasterKey,
        repository: Uuid,
        new: &NewKeySlot,
        created: UnixNanoseconds,
    ) -> Result<Self, RepoError> {
        check_name(&new.name)?;
        if !new.kdf.are_sensible() {
            return Err(RepoError::Refused(
                "the work for a passphrase is 8 KiB to 1 GiB of memory, 1 to 16 passes, 1 to 16 lanes",
            ));
        }
        let salt: Salt = random()?;
        let (opens_with, argon2id) = match new.secret.kind() {
            SecretKind::Passphrase(_) => (KeySlotKind::Passphrase, Some(new.kdf)),
            SecretKind::Key(_) => (KeySlotKind::Key, None),
        };
        let mut slot = Self {
            repository,
            slot: new.name.clone(),
            created_unix_nanoseconds: created.0,
            opens_with,
            argon2id,
            salt: to_hex(&salt),
            wrapped_key: String::new(),
        };
        let cipher = slot
            .wrapping(&salt, &new.secret)?
            .expect("the slot was just made for this kind of secret");
        let mut wrapped = Zeroizing::new(*master.bytes());
        let tag = cipher.seal(&salt, &slot.about(), wrapped.as_mut_slice());
        slot.wrapped_key = to_hex(wrapped.as_slice()) + &to_hex(&tag);
        Ok(slot)
    }

    /// The master key, if `secret` opens this slot.
    pub(super) fn unwrap(&self, secret: &Secret) -> Result<Option<MasterKey>, RepoError> {
        let Some((salt, mut key, tag)) = self.stored_key() else {
            return Ok(None);
        };
        let Some(cipher) = self.wrapping(&salt, secret)? else {
            return Ok(None);
        };
        let opened = cipher.open(&salt, &self.about(), key.as_mut_slice(), &tag);
        Ok(opened.then(|| MasterKey::from_bytes(*key)))
    }

    fn stored_key(&self) -> Option<(Salt, Zeroizing<[u8; 32]>, Tag)> {
        let salt = from_hex(&self.salt)?;
        let stored: [u8; WRAPPED_BYTES] = from_hex(&self.wrapped_key)?;
        let (key, tag): (&[u8; 32], &[u8]) = stored.split_first_chunk()?;
        Some((salt, Zeroizing::new(*key), tag.try_into().ok()?))
    }

    /// What the master key is wrapped with; `None` if this kind of secret does not fit.
    fn wrapping(&self, salt: &Salt, secret: &Secret) -> Result<Option<Cipher>, RepoError> {
        let material = match (secret.kind(), self.argon2id) {
            (SecretKind::Passphrase(words), Some(kdf)) if kdf.are_sensible() => {
                stretch(words, salt, kdf)?
            }
            (SecretKind::Key(key), None) => key.clone(),
            _ => return Ok(None),
        };
        let key = blake3::derive_key(WRAPPING, material.as_slice());
        Ok(Some(Cipher::new(Zeroizing::new(key))))
    }

    /// Everything that the file says, so that nothing of it can be changed.
    fn about(&self) -> Vec<u8> {
        let opens_with = match (self.opens_with, self.argon2id) {
            (KeySlotKind::Key, _) => "key".to_owned(),
            (KeySlotKind::Passphrase, kdf) => {
                let kdf = kdf.unwrap_or_default();
                format!(
                    "passphrase argon2id {} {} {}",
                    kdf.memory_kibibytes, kdf.passes, kdf.lanes
                )
            }
        };
        let Self {
            repository,
            slot,
            created_unix_nanoseconds: created,
            ..
        } = self;
        format!("{KIND} {VERSION}\n{repository}\n{slot}\n{created}\n{opens_with}\n").into_bytes()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let body = serde_json::to_string_pretty(self).expect("a slot has only text keys");
        seal_head(KIND, VERSION, body.as_bytes())
    }

    /// Reads the file of slot `name` of `repository`, without opening the slot.
    pub(super) fn decode(text: &[u8], repository: Uuid, name: &str) -> Result<Self, RepoError> {
        let what = format!("key slot {name}");
        let corrupt = |detail: &str| RepoError::Corrupt {
            what: what.clone(),
            detail: detail.to_owned(),
        };
        let (_, body) = open_head(&what, KIND, VERSION, text)?;
        let slot: Self =
            serde_json::from_slice(body).map_err(|error| corrupt(&error.to_string()))?;
        if slot.repository != repository || slot.slot != name {
            return Err(corrupt("it is another slot or repository's"));
        }
        let whole = from_hex::<SALT_BYTES>(&slot.salt).is_some()
            && from_hex::<WRAPPED_BYTES>(&slot.wrapped_key).is_some();
        let sensible = match slot.opens_with {
            KeySlotKind::Passphrase => slot.argon2id.is_some_and(KdfSettings::are_sensible),
            KeySlotKind::Key => slot.argon2id.is_none(),
        };
        if whole && sensible {
            Ok(slot)
        } else {
            Err(corrupt("its lengths or settings make no sense"))
        }
    }

    pub(super) fn describe(&self) -> KeySlot {
        KeySlot {
            name: self.slot.clone(),
            kind: self.opens_with,
            created: UnixNanoseconds(self.created_unix_nanoseconds),
            kdf: self.argon2id,
        }
    }
}

/// The rule is the one for workloads: the name is that of a file.
pub(super) fn check_name(name: &str) -> Result<(), RepoError> {
    match WorkloadName::parse(name) {
        Err(RepoError::BadName { name, rule, .. }) => Err(RepoError::BadName {
            name,
            what: "name of a key slot",
            rule,
        }),
        other => other.map(drop),
    }
}

/// Argon2id, version 1.3.
fn stretch(words: &str, salt: &Salt, kdf: KdfSettings) -> Result<Zeroizing<[u8; 32]>, RepoError> {
    let params = Params::new(kdf.memory_kibibytes, kdf.passes, kdf.lanes, Some(32))
        .expect("sensible settings are allowed ones");
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(words.as_bytes(), salt, key.as_mut_slice())
        .map_err(|_| RepoError::NoMemoryForKey {
            kibibytes: kdf.memory_kibibytes,
        })?;
    Ok(key)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const COUNT: usize>(text: &str) -> Option<[u8; COUNT]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != COUNT || !rest.is_empty() {
        return None;
    }
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; COUNT];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// Feeds `bytes` to the decoder of key slots. Whatever they are, nothing panics.
#[doc(hidden)]
pub fn fuzz_key_slot(bytes: &[u8]) {
    drop(StoredSlot::decode(bytes, Uuid::nil(), "fuzz"));
    drop(StoredSlot::decode(
        &seal_head(KIND, VERSION, bytes),
        Uuid::nil(),
        "fuzz",
    ));
    drop(Secret::from_text(bytes));
    drop(Secret::from_key_file(bytes));
}

/// The largest file of a slot.
pub(super) const SLOT_BYTES_MAX: u64 = 64 << 10;

const KIND: &str = "key-slot";
const VERSION: u32 = 1;
const WRAPPING: &str = "holdfast key slot v1: wrapping key";
const WRAPPED_BYTES: usize = 32 + TAG_BYTES;
const MEMORY_KIBIBYTES_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn new(secret: Secret) -> NewKeySlot {
        NewKeySlot {
            name: "one".to_owned(),
            secret,
            kdf: KdfSettings {
                memory_kibibytes: 16,
                passes: 1,
                lanes: 2,
            },
        }
    }

    #[test]
    fn a_slot_opens_with_its_secret_and_no_other() {
        let master = MasterKey::from_bytes([9; 32]);
        let words = Secret::passphrase("open sesame").unwrap();
        let key = Secret::random_key().unwrap();
        let wrong = [
            Secret::passphrase("open sesame ").unwrap(),
            Secret::random_key().unwrap(),
        ];
        for secret in [&words, &key] {
            let created = UnixNanoseconds(5);
            let slot =
                StoredSlot::make(&master, Uuid::nil(), &new(secret.clone()), created).unwrap();
            let back = StoredSlot::decode(&slot.encode(), Uuid::nil(), "one").unwrap();
            assert_eq!(
                back.unwrap(secret).unwrap().unwrap().bytes(),
                master.bytes()
            );
            let opens = |secret| back.unwrap(secret).unwrap().is_some();
            assert!(!wrong.iter().any(opens));
            assert!(StoredSlot::decode(&slot.encode(), Uuid::max(), "one").is_err());
            assert!(StoredSlot::decode(&slot.encode(), Uuid::nil(), "two").is_err());
        }
    }

    #[test]
    fn nothing_in_a_slot_can_be_changed() {
        let master = MasterKey::from_bytes([9; 32]);
        let secret = Secret::passphrase("open sesame").unwrap();
        let created = UnixNanoseconds(5);
        let make = || StoredSlot::make(&master, Uuid::nil(), &new(secret.clone()), created);
        let changes: [fn(&mut StoredSlot); 6] = [
            |slot| slot.repository = Uuid::max(),
            |slot| slot.slot = "two".to_owned(),
            |slot| slot.created_unix_nanoseconds = 6,
            |slot| slot.argon2id.as_mut().unwrap().passes = 2,
            |slot| slot.salt = "00".repeat(16),
            |slot| slot.wrapped_key.replace_range(..2, "zz"),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut slot = make().unwrap();
            change(&mut slot);
            assert!(slot.unwrap(&secret).unwrap().is_none(), "change {number}");
        }
    }

    #[test]
    fn a_file_cannot_make_a_reader_work_for_ever() {
        let master = MasterKey::from_bytes([9; 32]);
        let secret = Secret::passphrase("open sesame").unwrap();
        for (memory_kibibytes, passes, lanes) in [
            (u32::MAX, 1, 1),
            (1 << 21, 1, 1),
            (64, u32::MAX, 1),
            (64, 1, u32::MAX),
            (7, 1, 1),
            (64, 0, 1),
        ] {
            let mut slot = StoredSlot::make(
                &master,
                Uuid::nil(),
                &new(secret.clone()),
                UnixNanoseconds(5),
            )
            .unwrap();
            let kdf = KdfSettings {
                memory_kibibytes,
                passes,
                lanes,
            };
            slot.argon2id = Some(kdf);
            assert!(
                StoredSlot::decode(&slot.encode(), Uuid::nil(), "one").is_err(),
                "{kdf:?}"
            );
            assert!(slot.unwrap(&secret).unwrap().is_none());
            let refused = NewKeySlot {
                kdf,
                ..new(secret.clone())
            };
            let made = StoredSlot::make(&master, Uuid::nil(), &refused, UnixNanoseconds(5));
            assert!(made.is_err(), "{kdf:?}");
        }
    }
}
