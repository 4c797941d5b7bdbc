//! How a repository is made and opened.

use std::fmt;
use std::path::PathBuf;

use crate::adopt::PackProgress;
use crate::keys::{NewKeySlot, Secret};
use crate::overlay::OverlaySettings;
use crate::pack::ParityShare;

/// How a repository is made.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// The first key slots. With none, the repository is not encrypted, and can never be.
    pub key_slots: Vec<NewKeySlot>,
}

/// How a repository is opened. What is cached is bounded by these, whatever is stored.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Memory for decompressed chunks and for what was lately read and written of overlays.
    pub chunk_cache_bytes: u64,
    /// Map nodes kept in memory.
    pub node_cache_bytes: u64,
    /// The index's block cache.
    pub index_cache_bytes: u64,
    /// Threads that hash and compress for each disk being backed up. With 0 the caller does it all, and the same calls
    /// give the same files.
    pub workers: usize,
    /// How overlays keep their journal and map.
    pub overlay: OverlaySettings,
    /// What opens it, if it is encrypted.
    pub secret: Option<Secret>,
    /// Have the file system hold what a locked point needs, where it can.
    pub protect_files: bool,
    /// How much parity packs get beside them, to be repaired from.
    pub parity_share: ParityShare,
    /// A folder beside the repository in which is remembered how its files are, so that changes between two openings
    /// are noticed by [`Repository::watch`](super::Repository::watch).
    pub watch_record: Option<PathBuf>,
    /// Is told how far opening is.
    pub on_pack: Option<OnPack>,
}

impl OpenOptions {
    pub(super) fn tell_packs(&self, done: u64, all: u64) {
        if let Some(OnPack(progress)) = &self.on_pack {
            progress(done, all);
        }
    }
}

/// Someone who is told of packs that are done, and of all.
#[derive(Clone)]
pub struct OnPack(PackProgress);

impl From<PackProgress> for OnPack {
    fn from(progress: PackProgress) -> Self {
        Self(progress)
    }
}

impl fmt::Debug for OnPack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OnPack")
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            chunk_cache_bytes: 256 << 20,
            node_cache_bytes: 64 << 20,
            index_cache_bytes: 64 << 20,
            workers: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            overlay: OverlaySettings::default(),
            secret: None,
            protect_files: true,
            parity_share: ParityShare::default(),
            watch_record: None,
            on_pack: None,
        }
    }
}
