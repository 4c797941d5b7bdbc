//! NTFS, by record of its table of files.
//!
//! `docs/protocols/guestfs.md` says what is read and what is refused. One [`Ntfs`] is used by many threads; nothing in it
//! changes but its caches.

mod allocation;
mod boot;
mod content;
mod extended;
mod folder;
mod index;
mod leavable;
mod log;
mod lznt1;
mod name;
mod node;
mod packed;
mod record;
mod reparse;
mod runs;
mod security;
mod table;
mod tree;

use std::collections::VecDeque;
use std::sync::Arc;

use ::bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use self::boot::Boot;
use self::index::Cursor;
use self::name::{Capitals, to_bytes};
use self::node::{Attribute, Node};
use self::record::{kind, units};
use crate::{GuestError, Source};

pub(crate) use self::allocation::UsedClusters;
pub(crate) use self::boot::{SECTORS, ends_at};
pub(crate) use self::leavable::leavable;
pub(crate) use self::tree::NtfsTree;

/// A filesystem.
pub(crate) struct Ntfs {
    source: Arc<dyn Source>,
    boot: Boot,
    /// The content of the table of files.
    table: Attribute,
    capitals: Option<Capitals>,
    /// Pieces of the table.
    pieces: Cache<u64, Bytes, Weight>,
    /// Blocks of indexes, by record and number.
    blocks: Cache<(u64, u64), Bytes, Weight>,
    nodes: Cache<u64, Arc<Node>, Weight>,
    /// Unpacked units, by record, name of the stream and number.
    units: Cache<(u64, Vec<u16>, u64), Bytes, Weight>,
    descriptors: Cache<u32, Bytes, Weight>,
    /// Where listings ended, by folder and how many entries were given.
    listings: Mutex<VecDeque<(u64, u64, Cursor)>>,
}

impl Ntfs {
    /// Opens what lies in `source`.
    pub(crate) fn open(source: Arc<dyn Source>) -> Result<Self, GuestError> {
        let boot = Boot::read(&*source)?;
        let cache = |bytes: u64| Cache::with_weighter(1024, bytes, Weight);
        let mut ntfs = Self {
            table: Attribute::nothing(),
            capitals: None,
            pieces: cache(CACHE_BYTES / 4),
            blocks: Cache::with_weighter(1024, CACHE_BYTES / 4, Weight),
            nodes: Cache::with_weighter(1024, CACHE_BYTES / 4, Weight),
            units: Cache::with_weighter(64, CACHE_BYTES / 8, Weight),
            descriptors: Cache::with_weighter(64, CACHE_BYTES / 8, Weight),
            listings: Mutex::default(),
            source,
            boot,
        };
        ntfs.open_table()?;
        ntfs.capitals = match ntfs.read_capitals() {
            Ok(capitals) => Some(capitals),
            Err(error) if error.is_of_one_place() => {
                tracing::warn!(%error, "the table of capital letters is lost: folders are searched from front to back");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(ntfs)
    }

    fn read_capitals(&self) -> Result<Capitals, GuestError> {
        let node = self.node(CAPITALS)?;
        let data = node.data();
        let data = data.ok_or_else(|| node.corrupt("it has no content"))?;
        let table = self.read(CAPITALS, data, 0, CAPITALS_BYTES)?.to_vec();
        if table.len() as u64 != CAPITALS_BYTES {
            return Err(node.corrupt("the table of capital letters is cut off"));
        }
        Ok(Capitals::new(units(&table)))
    }

    /// Whether the volume was marked for a check.
    fn is_dirty(&self) -> Result<bool, GuestError> {
        let node = self.node(VOLUME)?;
        let said = node.resident(kind::VOLUME);
        let said = said.ok_or_else(|| node.corrupt("nothing is said of the volume"))?;
        let flags = crate::bytes::View::new(said, node.place()).u16(10)?;
        Ok(flags & DIRTY != 0)
    }
}

/// The name that was given to the volume.
pub(crate) fn label(source: &Arc<dyn Source>) -> Option<String> {
    let ntfs = Ntfs::open(Arc::clone(source)).ok()?;
    let node = ntfs.node(VOLUME).ok()?;
    let name = to_bytes(&units(node.resident(kind::LABEL)?));
    let name = String::from_utf8_lossy(&name).into_owned();
    (!name.is_empty()).then_some(name)
}

/// How much memory something takes.
#[derive(Clone)]
struct Weight;

impl<K> Weighter<K, Bytes> for Weight {
    fn weight(&self, _: &K, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + 128
    }
}

impl<K> Weighter<K, Arc<Node>> for Weight {
    fn weight(&self, _: &K, node: &Arc<Node>) -> u64 {
        node.memory_bytes() as u64
    }
}

const VOLUME: u64 = 3;
const ROOT: u64 = 5;
const CAPITALS: u64 = 10;
/// Records before this one are the filesystem's own.
const FIRST_USER: u64 = 16;
const CAPITALS_BYTES: u64 = 128 << 10;
const DIRTY: u16 = 1;
/// Memory for metadata of one filesystem.
const CACHE_BYTES: u64 = 16 << 20;
