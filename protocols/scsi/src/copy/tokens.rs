//! ROD tokens: names for the bytes of a moment (SPC-4, 5.17.6). Ours are of the type "point in time copy, change
//! vulnerable": a token stands for its blocks until one of them is written, and for nothing from then on. So it costs
//! nothing but the watch over its ranges, and can never give other bytes than those it was made for.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::block::BlockRange;
use crate::unit::LogicalUnit;
use crate::wire;

/// A token, as it goes over the wire.
pub(crate) type TokenBytes = Box<[u8; TOKEN_BYTES]>;

pub(crate) const TOKEN_BYTES: usize = 512;
/// Point in time copy, change vulnerable.
pub(crate) const CHANGE_VULNERABLE: u32 = 0x0080_0001;
/// The token that stands for zeroes, which everybody knows.
pub(crate) const ZEROES: u32 = 0xffff_0001;
/// Block ranges of one token, or of one write.
pub(crate) const RANGES_MAX: u16 = 64;

/// All tokens of a target.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    kept: Mutex<VecDeque<Arc<Token>>>,
    made: AtomicU64,
    /// Keyed at random: nobody guesses a token that was not told to him.
    secrets: [RandomState; 2],
}

/// The tokens for ranges of one unit.
#[derive(Debug, Default)]
pub(crate) struct UnitTokens {
    watched: Mutex<Vec<Weak<Token>>>,
}

/// What a token stands for.
#[derive(Debug)]
pub(crate) struct Token {
    id: u64,
    bytes: TokenBytes,
    pub(crate) unit: Weak<LogicalUnit>,
    pub(crate) ranges: Vec<BlockRange>,
    revoked: AtomicBool,
}

impl Tokens {
    /// Makes a token for `ranges` of `unit`. The caller holds all of the unit, so that no write is under way.
    pub(crate) fn make(&self, unit: &Arc<LogicalUnit>, ranges: Vec<BlockRange>) -> Arc<Token> {
        let id = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        let blocks: u64 = ranges.iter().map(|range| range.blocks).sum();
        let bytes = unit.geometry.bytes(blocks);
        let mut wire_bytes = [0; TOKEN_BYTES];
        wire::put(&mut wire_bytes, 0, &CHANGE_VULNERABLE.to_be_bytes());
        wire::put(&mut wire_bytes, 6, &0x01f8_u16.to_be_bytes());
        wire::put(&mut wire_bytes, 8, &id.to_be_bytes());
        wire::put(&mut wire_bytes, 16, &[0xe4, 0, 0, 0, 0x01, 0x03, 0, 16]);
        wire::put(&mut wire_bytes, 24, &crate::primary::naa(unit.identity));
        let block_bytes = unit.geometry.block_bytes.to_be_bytes();
        wire::put(&mut wire_bytes, 44, &block_bytes);
        wire::put(&mut wire_bytes, 48, &u128::from(bytes).to_be_bytes());
        for (secret, at) in self.secrets.iter().zip([128, 136]) {
            wire::put(&mut wire_bytes, at, &secret.hash_one(id).to_be_bytes());
        }
        let token = Arc::new(Token {
            id,
            bytes: Box::new(wire_bytes),
            unit: Arc::downgrade(unit),
            ranges,
            revoked: AtomicBool::new(false),
        });
        let mut kept = self.kept.lock();
        if kept.len() == TOKENS_MAX {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&token));
        token
    }

    /// The token that `bytes` are, if it is one of ours that is still kept.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<Arc<Token>> {
        let id = wire::u64_at(bytes, 8);
        let kept = self.kept.lock();
        let found = kept.iter().find(|token| token.id == id)?;
        (found.bytes[..] == *bytes).then(|| Arc::clone(found))
    }

    /// Forgets a token.
    pub(crate) fn delete(&self, token: &Token) {
        self.kept.lock().retain(|kept| kept.id != token.id);
    }
}

impl Token {
    pub(crate) fn bytes(&self) -> TokenBytes {
        self.bytes.clone()
    }

    /// Whether a block of it was written.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }
}

impl UnitTokens {
    pub(crate) fn watch(&self, token: &Arc<Token>) {
        let mut watched = self.watched.lock();
        watched.retain(|token| token.strong_count() > 0);
        watched.push(Arc::downgrade(token));
    }

    /// Revokes the tokens that stand for a block of `range`. Says whether any are left to watch over.
    pub(crate) fn touch(&self, range: BlockRange) -> bool {
        let mut watched = self.watched.lock();
        watched.retain(|token| {
            let Some(token) = token.upgrade() else {
                return false;
            };
            if token.ranges.iter().any(|other| other.overlaps(&range)) {
                token.revoked.store(true, Ordering::Release);
            }
            !token.is_revoked()
        });
        !watched.is_empty()
    }
}

/// Tokens that a target keeps; a newer one pushes the oldest out.
const TOKENS_MAX: usize = 1024;
