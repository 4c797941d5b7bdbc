//! exFAT.
//!
//! `docs/protocols/guestfs.md` says what is read and what is refused. One [`ExFat`] is used by many threads; nothing in
//! it changes but its caches.

mod allocation;
mod boot;
mod chain;
mod entry;
mod folder;
mod tree;
mod upcase;

use std::fmt;
use std::sync::{Arc, OnceLock};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use self::boot::Geometry;
use self::entry::Stream;
use self::upcase::UpCase;
use crate::extents::Extents;
use crate::pages::Pages;
use crate::{GuestError, Source};

pub(crate) use self::allocation::UsedClusters;

/// A filesystem.
pub(crate) struct ExFat {
    pages: Pages,
    geometry: Geometry,
    system: System,
    upcase: UpCase,
    /// By their first clusters, whole.
    chains: Cache<u32, Arc<Extents>, Pieces>,
    free_clusters: OnceLock<u64>,
}

/// What the folder at the top says of the filesystem itself.
#[derive(Debug, Clone, Default)]
struct System {
    /// One for each table of clusters.
    bitmaps: [Option<Stream>; 2],
    upcase: Option<(Stream, u32)>,
    label: Option<String>,
}

/// What a chain weighs in memory: its pieces.
#[derive(Clone)]
struct Pieces;

impl Weighter<u32, Arc<Extents>> for Pieces {
    fn weight(&self, _: &u32, chain: &Arc<Extents>) -> u64 {
        16 + chain.count() as u64
    }
}

impl ExFat {
    /// Opens what lies in `source`.
    pub(crate) fn open(source: Arc<dyn Source>) -> Result<Self, GuestError> {
        let geometry = Geometry::read(&*source)?;
        let mut exfat = Self {
            pages: Pages::new(source),
            geometry,
            system: System::default(),
            upcase: UpCase::ascii(),
            chains: Cache::with_weighter(CHAINS_KEPT, PIECES_KEPT, Pieces),
            free_clusters: OnceLock::new(),
        };
        exfat.system = exfat.read_system()?;
        exfat.upcase = match exfat.read_upcase() {
            Err(error) if error.is_of_one_place() => {
                tracing::debug!(%error, "names are compared as if only ASCII had upper case");
                UpCase::ascii()
            }
            other => other?,
        };
        Ok(exfat)
    }

    pub(crate) fn label(&self) -> Option<String> {
        self.system.label.clone()
    }
}

impl fmt::Debug for ExFat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExFat")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

const CHAINS_KEPT: usize = 64 << 10;
/// Of all chains together: 16 MiB.
const PIECES_KEPT: u64 = 1 << 20;
