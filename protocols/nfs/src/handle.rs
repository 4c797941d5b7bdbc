//! File handles: which export, which file, and proof that this server made them.
//!
//! 32 bytes, so that MOUNT version 1 can carry them too: layout byte, three zeroes, export id, file id, and twelve bytes
//! of a keyed BLAKE3 hash of what stands before. With the same key a handle holds through restarts; without the key
//! nobody can make one, so that leave to use one export is not leave to use another.

use std::fmt;

use export::FileId;

use crate::error::Status;

/// The secret that handles are made with. Keep it: clients hold handles for as long as they are mounted.
#[derive(Clone, PartialEq, Eq)]
pub struct HandleKey([u8; 32]);

impl HandleKey {
    /// A key from 32 bytes that the caller keeps secret and persistent.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    pub(crate) fn seal(&self, target: Target) -> Handle {
        let mut handle = [0_u8; HANDLE_BYTES];
        let (body, mac) = handle.split_at_mut(BODY_BYTES);
        let (head, ids) = body.split_at_mut(4);
        let (export, file) = ids.split_at_mut(8);
        head.copy_from_slice(&[LAYOUT, 0, 0, 0]);
        export.copy_from_slice(&target.export.to_be_bytes());
        file.copy_from_slice(&target.file.0.to_be_bytes());
        mac.copy_from_slice(&self.mac(body));
        handle
    }

    pub(crate) fn open(&self, handle: &[u8]) -> Result<Target, Status> {
        let handle: &Handle = handle.try_into().map_err(|_| Status::BadHandle)?;
        let (body, mac) = handle.split_at(BODY_BYTES);
        if self.mac(body) != *mac {
            return Err(Status::BadHandle);
        }
        let (head, ids) = body.split_at(4);
        let (export, file) = ids.split_first_chunk().ok_or(Status::BadHandle)?;
        let file = file.try_into().map_err(|_| Status::BadHandle)?;
        if head != [LAYOUT, 0, 0, 0] {
            return Err(Status::BadHandle);
        }
        let file = FileId(u64::from_be_bytes(file));
        Ok(Target {
            export: u64::from_be_bytes(*export),
            file,
        })
    }

    fn mac(&self, body: &[u8]) -> [u8; MAC_BYTES] {
        let hash = blake3::keyed_hash(&self.0, body);
        let (mac, _) = hash
            .as_bytes()
            .split_first_chunk()
            .expect("a hash has 32 bytes");
        *mac
    }
}

impl fmt::Debug for HandleKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HandleKey(secret)")
    }
}

/// What a handle names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) export: u64,
    pub(crate) file: FileId,
}

pub(crate) type Handle = [u8; HANDLE_BYTES];

pub(crate) const HANDLE_BYTES: usize = 32;
const BODY_BYTES: usize = 20;
const MAC_BYTES: usize = HANDLE_BYTES - BODY_BYTES;
const LAYOUT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target {
        export: 7,
        file: FileId(0x0123_4567_89ab_cdef),
    };

    #[test]
    fn a_handle_holds_with_the_same_key_only() {
        let handle = HandleKey::new([5; 32]).seal(TARGET);
        assert_eq!(HandleKey::new([5; 32]).open(&handle), Ok(TARGET));
        assert_eq!(
            HandleKey::new([6; 32]).open(&handle),
            Err(Status::BadHandle)
        );
    }

    #[test]
    fn a_changed_bit_anywhere_is_seen() {
        let key = HandleKey::new([5; 32]);
        let handle = key.seal(TARGET);
        for bit in 0..HANDLE_BYTES * 8 {
            let mut forged = handle;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&forged), Err(Status::BadHandle), "bit {bit}");
        }
        assert_eq!(key.open(&handle[..31]), Err(Status::BadHandle));
        assert_eq!(key.open(&[]), Err(Status::BadHandle));
    }
}
