//! What proves payloads, block by block.

use bytes::Bytes;
use uuid::Uuid;

use super::BLOCK_BYTES;
use crate::checksum::{crc32c, crc32c_append};
use crate::keys::TAG_BYTES;
use crate::overlay::keys::{HEAD_CODE_BYTES, JournalKeys, Seals};

/// What proves the blocks of a payload: a check each, or, where they are encrypted, a tag each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proofs {
    Checks(Vec<u32>),
    Seals(Seals),
}

impl Proofs {
    /// Those of a record without payload.
    pub(crate) fn none(is_sealed: bool) -> Self {
        match is_sealed {
            false => Self::Checks(Vec::new()),
            true => Self::Seals(Seals::default()),
        }
    }

    /// Whether `blocks`, the first of which lies at `offset` of the disk, are what was written. Decrypts them.
    #[must_use]
    pub(crate) fn prove(
        &self,
        keys: Option<&JournalKeys>,
        overlay: Uuid,
        offset: u64,
        blocks: &mut [u8],
    ) -> bool {
        match (self, keys) {
            (Self::Checks(checks), None) => blocks_match(blocks, checks),
            (Self::Seals(Seals { salt, tags }), Some(keys)) => {
                keys.open(overlay, offset, blocks, salt, tags)
            }
            _ => false,
        }
    }

    pub(super) fn is_sealed(&self) -> bool {
        matches!(self, Self::Seals(_))
    }
}

/// One check for each block of a payload that lies in several pieces.
pub(crate) fn block_checks(payload: &[Bytes]) -> Vec<u32> {
    let total: usize = payload.iter().map(Bytes::len).sum();
    let mut checks = Vec::with_capacity(total.div_ceil(BLOCK_BYTES));
    let (mut check, mut filled) = (0, 0);
    for piece in payload {
        let mut rest: &[u8] = piece;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - filled));
            check = crc32c_append(check, now);
            filled += now.len();
            rest = later;
            if filled == BLOCK_BYTES {
                checks.push(check);
                (check, filled) = (0, 0);
            }
        }
    }
    if filled > 0 {
        checks.push(check);
    }
    checks
}

/// Whether the blocks of `bytes` have these checks, one each.
fn blocks_match(bytes: &[u8], checks: &[u32]) -> bool {
    let mut blocks = bytes.chunks(BLOCK_BYTES);
    blocks.len() == checks.len()
        && checks
            .iter()
            .all(|check| blocks.next().is_some_and(|block| crc32c(block) == *check))
}

/// Reads the proofs of so many blocks from a head and its table, which is long enough.
pub(super) fn decode_proofs(
    first_check: u32,
    table: &[u8],
    blocks: usize,
    is_sealed: bool,
) -> Proofs {
    if !is_sealed {
        let later = table
            .chunks_exact(4)
            .filter_map(|check| check.try_into().ok().map(u32::from_le_bytes));
        let all = std::iter::once(first_check).chain(later);
        return Proofs::Checks(all.take(blocks).collect());
    }
    let seals = || {
        let (salt, tags) = table.get(HEAD_CODE_BYTES..)?.split_first_chunk()?;
        let tags = tags.chunks_exact(TAG_BYTES).take(blocks);
        Some(Seals {
            salt: *salt,
            tags: tags.filter_map(|tag| tag.try_into().ok()).collect(),
        })
    };
    Proofs::Seals(if blocks == 0 {
        Seals::default()
    } else {
        seals().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_do_not_depend_on_the_pieces() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|number| (number % 253) as u8).collect();
        let whole = block_checks(&[Bytes::from(bytes.clone())]);
        let pieces: Vec<Bytes> = bytes.chunks(1000).map(Bytes::copy_from_slice).collect();
        assert_eq!(block_checks(&pieces), whole);
        assert!(blocks_match(&bytes, &whole));
        assert!(!blocks_match(&bytes[..9999], &whole));
        assert!(!blocks_match(&bytes[..8192], &whole));
    }
}
