//! Where a chunk lies: a table that can be thrown away and is made again from the packs.
//!
//! `docs/formats/index.md` says what is kept. [`RocksIndex`] is the one in use, [`SimulatedIndex`] keeps the one of
//! tests.

mod account;
mod family;
mod health;
mod memory;
mod names;
mod pages;
mod rocks;

use std::fmt;

pub use memory::SimulatedIndex;
pub(crate) use rocks::RocksIndex;

use crate::account::AccountStore;
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::health::HealthStore;
use crate::overlay::PageStore;
pub(crate) use crate::pack::Place;

/// Finds records by name. What it says is a hint: whoever reads checks.
pub(crate) trait IndexStore: Send + Sync + fmt::Debug {
    /// The place of each of `ids`, in order.
    fn find(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>, RepoError>;

    /// Remembers places; of two for one name the later one counts.
    fn insert(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError>;

    /// Forgets places, as far as they are still the ones remembered.
    fn remove(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError>;

    /// What is remembered of a pack whose records are all in the index. Never ahead of the records themselves.
    fn coverage(&self, pack: u32) -> Result<Option<Coverage>, RepoError>;

    /// Remembers that all records of a sealed pack are in the index.
    fn set_coverage(&self, pack: u32, coverage: Coverage) -> Result<(), RepoError>;

    /// Forgets a pack that is gone.
    fn forget_pack(&self, pack: u32) -> Result<(), RepoError>;

    /// The highest pack number ever given, as far as is remembered; 0 if none is. Numbers are not given again, or what
    /// is remembered of a pack that is gone would be believed of another.
    fn highest_pack(&self) -> Result<u32, RepoError>;

    /// Remembers that a number was given. Never later than records of that pack.
    fn set_highest_pack(&self, pack: u32) -> Result<(), RepoError>;

    /// About how many names are known.
    fn entry_count(&self) -> u64;

    /// Makes what was inserted last.
    fn flush(&self) -> Result<(), RepoError>;
}

/// What the index remembers of a sealed pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// The pack was sealed by a scan after a crash.
    pub(crate) recovered: bool,
}

/// An index together with what is kept beside it: overlay maps, the health of packs, and the account of space.
pub(crate) struct OpenedIndex {
    pub(crate) index: std::sync::Arc<dyn IndexStore>,
    pub(crate) pages: std::sync::Arc<dyn PageStore>,
    pub(crate) health: std::sync::Arc<dyn HealthStore>,
    pub(crate) account: std::sync::Arc<dyn AccountStore>,
}
