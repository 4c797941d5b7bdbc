//! FAT12, FAT16 and FAT32 with long names.
//!
//! `docs/protocols/guestfs.md` says what is read and what is refused. One [`Fat`] is used by many threads; nothing in it
//! changes but its caches.

mod allocation;
mod boot;
mod chain;
mod entry;
mod folder;
mod oem;
mod tree;

use std::fmt;
use std::sync::{Arc, OnceLock};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use self::boot::Geometry;
use self::chain::Chain;
use crate::pages::Pages;
use crate::{GuestError, Source};

pub(crate) use self::allocation::UsedClusters;

/// A filesystem.
pub(crate) struct Fat {
    pages: Pages,
    geometry: Geometry,
    /// By their first clusters.
    chains: Cache<u32, Arc<Chain>, Pieces>,
    free_clusters: OnceLock<u32>,
}

/// What a chain weighs in memory: its pieces.
#[derive(Clone)]
struct Pieces;

impl Weighter<u32, Arc<Chain>> for Pieces {
    fn weight(&self, _: &u32, chain: &Arc<Chain>) -> u64 {
        16 + chain.extents.count() as u64
    }
}

impl Fat {
    /// Opens what lies in `source`.
    pub(crate) fn open(source: Arc<dyn Source>) -> Result<Self, GuestError> {
        let geometry = Geometry::read(&*source)?;
        Ok(Self {
            pages: Pages::new(source),
            geometry,
            chains: Cache::with_weighter(CHAINS_KEPT, PIECES_KEPT, Pieces),
            free_clusters: OnceLock::new(),
        })
    }
}

impl fmt::Debug for Fat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fat")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

const CHAINS_KEPT: usize = 64 << 10;
/// Of all chains together: 16 MiB.
const PIECES_KEPT: u64 = 1 << 20;
