//! Keys: what an encrypted repository is encrypted with, and how a person gets at it.
//!
//! `docs/formats/keys.md` specifies the bytes and `docs/design/0006-encryption.md` says why they are so. A random
//! [`MasterKey`] never changes. It lies in the repository in one or more key slots, each wrapped by a [`Secret`]. From
//! it a [`KeyRing`] makes one key for each use.

mod cipher;
mod keyring;
mod secret;
mod slot;
mod slots;

pub(crate) use cipher::{Cipher, SALT_BYTES, Salt, TAG_BYTES, Tag, random};
pub(crate) use keyring::{KeyRing, NodeKind};
pub(crate) use secret::MasterKey;
pub use secret::Secret;
#[doc(hidden)]
pub use slot::fuzz_key_slot;
pub use slot::{KdfSettings, KeySlot, KeySlotKind, NewKeySlot};
pub(crate) use slots::SlotLocks;
pub use slots::{KeySlotCounters, KeySlots};
