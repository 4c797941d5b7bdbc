//! The index in RocksDB (`docs/formats/index.md`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, Options, WriteBatch,
    WriteOptions,
};

use super::account::RocksAccount;
use super::family::failed;
use super::names::IndexNames;
use super::{Coverage, IndexStore, OpenedIndex, Place, health::RocksHealth, pages::RocksPages};
use crate::chunk::ChunkId;
use crate::disk::DiskError;
use crate::error::RepoError;
use crate::keys::KeyRing;

/// Names to places in a log-structured tree: new data is all misses, and those a filter in memory answers.
pub(crate) struct RocksIndex {
    database: Arc<DB>,
    unlogged: WriteOptions,
    /// Held by those who insert together, and by whoever removes alone, so that nothing new is removed.
    changing: RwLock<()>,
    /// Is there when the index was found damaged, so that the next opening makes it again.
    damage_mark: PathBuf,
}

impl RocksIndex {
    /// Opens the index in `folder`, or makes an empty one. One that cannot be opened, or was found damaged, is thrown
    /// away first: the packs have all that it had.
    pub(crate) fn open(
        folder: &Path,
        cache_bytes: usize,
        keys: &KeyRing,
    ) -> Result<OpenedIndex, RepoError> {
        let names = IndexNames::new(keys);
        let damage_mark = folder.with_extension("damaged");
        if damage_mark.exists() {
            discard(folder, &damage_mark)?;
        }
        let open = || {
            let (unwanted, wanted) = match names.are_hidden() {
                true => (CLEAR_FAMILIES, HIDDEN_FAMILIES),
                false => (HIDDEN_FAMILIES, CLEAR_FAMILIES),
            };
            drop_families(folder, unwanted)?;
            open_database(folder, cache_bytes, wanted)
        };
        let database = match open() {
            Ok(database) => database,
            Err(error) => {
                tracing::info!(folder = %folder.display(), %error, "the index cannot be opened and is made again");
                discard(folder, &damage_mark)?;
                open().map_err(failed("be made"))?
            }
        };
        let database = Arc::new(database);
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        let pages = Arc::new(RocksPages::new(Arc::clone(&database)));
        let health = RocksHealth::new(Arc::clone(&database), Arc::clone(&names));
        let account = RocksAccount::new(Arc::clone(&database), names);
        let index = Arc::new(Self {
            database,
            unlogged,
            changing: RwLock::new(()),
            damage_mark,
        });
        Ok(OpenedIndex {
            index,
            pages,
            health: Arc::new(health),
            account: Arc::new(account),
        })
    }

    /// A damaged part of the index knows nothing: what it had is stored again, and the next opening mends it.
    fn or_nothing<T>(
        &self,
        action: &'static str,
        answer: Result<Option<T>, rocksdb::Error>,
    ) -> Result<Option<T>, RepoError> {
        match answer {
            Err(error) if error.kind() == rocksdb::ErrorKind::Corruption => {
                if !self.damage_mark.exists() {
                    tracing::warn!(%error, "the index is damaged; it is made again when the repository is next opened");
                    if let Err(error) = std::fs::write(&self.damage_mark, b"") {
                        tracing::error!(%error, path = %self.damage_mark.display(), "cannot note that the index is damaged");
                    }
                }
                Ok(None)
            }
            other => other.map_err(failed(action)),
        }
    }
}

impl IndexStore for RocksIndex {
    fn find(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>, RepoError> {
        let answers = self.database.multi_get(ids.iter().map(key)).into_iter();
        let place = |answer| {
            let value = self.or_nothing("find a chunk", answer)?;
            Ok(value.and_then(|value: Vec<u8>| Place::from_bytes(&value)))
        };
        answers.map(place).collect()
    }

    fn insert(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        let _shared = self.changing.read();
        let mut batch = WriteBatch::default();
        for (id, place) in entries {
            batch.put(key(id), place.to_bytes());
        }
        let written = self.database.write_opt(batch, &self.unlogged).map(Some);
        self.or_nothing("remember chunks", written).map(drop)
    }

    fn remove(&self, entries: &[(ChunkId, Place)]) -> Result<(), RepoError> {
        let _alone = self.changing.write();
        let ids: Vec<_> = entries.iter().map(|(id, _)| *id).collect();
        let mut batch = WriteBatch::default();
        for ((id, place), found) in entries.iter().zip(self.find(&ids)?) {
            if found == Some(*place) {
                batch.delete(key(id));
            }
        }
        let written = self.database.write_opt(batch, &self.unlogged).map(Some);
        self.or_nothing("forget chunks", written).map(drop)
    }

    fn coverage(&self, pack: u32) -> Result<Option<Coverage>, RepoError> {
        let value = self.or_nothing("find a pack", self.database.get(coverage_key(pack)))?;
        Ok(value.and_then(|value| match value.as_slice() {
            [0] => Some(Coverage { recovered: false }),
            [1] => Some(Coverage { recovered: true }),
            _ => None,
        }))
    }

    fn set_coverage(&self, pack: u32, coverage: Coverage) -> Result<(), RepoError> {
        let value = [u8::from(coverage.recovered)];
        let written = self
            .database
            .put_opt(coverage_key(pack), value, &self.unlogged)
            .map(Some);
        self.or_nothing("remember a pack", written).map(drop)
    }

    fn forget_pack(&self, pack: u32) -> Result<(), RepoError> {
        let written = self
            .database
            .delete_opt(coverage_key(pack), &self.unlogged)
            .map(Some);
        self.or_nothing("forget a pack", written).map(drop)
    }

    fn highest_pack(&self) -> Result<u32, RepoError> {
        let value = self.or_nothing("find the last pack", self.database.get(HIGHEST_PACK_KEY))?;
        let number = value.and_then(|value| <[u8; 4]>::try_from(value).ok());
        Ok(number.map_or(0, u32::from_le_bytes))
    }

    fn set_highest_pack(&self, pack: u32) -> Result<(), RepoError> {
        let written = self
            .database
            .put_opt(HIGHEST_PACK_KEY, pack.to_le_bytes(), &self.unlogged)
            .map(Some);
        self.or_nothing("remember the last pack", written).map(drop)
    }

    fn entry_count(&self) -> u64 {
        self.database
            .property_int_value("rocksdb.estimate-num-keys")
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    fn flush(&self) -> Result<(), RepoError> {
        self.database.flush().map_err(failed("be flushed"))
    }
}

fn open_database(
    folder: &Path,
    cache_bytes: usize,
    families: [&str; 2],
) -> Result<DB, rocksdb::Error> {
    let cache = Cache::new_lru_cache(cache_bytes);
    let options = base_options();
    let families = ["default", RocksPages::FAMILY].into_iter().chain(families);
    let families = families.map(|name| ColumnFamilyDescriptor::new(name, table_options(&cache)));
    DB::open_cf_descriptors(&options, folder, families)
}

/// Drops families with all that they had, so that nothing of it is left in the folder once the database is opened again:
/// earlier versions named restore points in clear in encrypted repositories, too.
fn drop_families(folder: &Path, unwanted: [&str; 2]) -> Result<(), rocksdb::Error> {
    // There is no list where there is no database.
    let present = DB::list_cf(&base_options(), folder).unwrap_or_default();
    let (old, _): (Vec<_>, Vec<_>) = present
        .iter()
        .partition(|name| unwanted.contains(&name.as_str()));
    if old.is_empty() {
        return Ok(());
    }
    let cache = Cache::new_lru_cache(1 << 20);
    let families = present.iter();
    let families = families.map(|name| ColumnFamilyDescriptor::new(name, table_options(&cache)));
    let mut database = DB::open_cf_descriptors(&base_options(), folder, families)?;
    for name in old {
        tracing::info!(family = name.as_str(), "a part of the index is made again");
        database.drop_cf(name)?;
    }
    Ok(())
}

/// Throws an index away, whatever state it is in.
fn discard(folder: &Path, damage_mark: &Path) -> Result<(), RepoError> {
    for outcome in [
        std::fs::remove_dir_all(folder),
        std::fs::remove_file(damage_mark),
    ] {
        match outcome {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(DiskError::new("remove the damaged index", folder, error).into());
            }
            _ => {}
        }
    }
    Ok(())
}

fn base_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_use_direct_reads(true);
    options.set_use_direct_io_for_flush_and_compaction(true);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_db_write_buffer_size(UNWRITTEN_BYTES_MAX);
    options.set_keep_log_file_num(2);
    // On a full disk RocksDB, as Debian builds it, ends the process with the second line of its own log that it cannot write.
    // What it would have told as an error, its calls tell, too.
    options.set_log_level(rocksdb::LogLevel::Fatal);
    options
}

fn table_options(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_ribbon_filter(10.0);
    blocks.set_block_size(4096);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_data_block_index_type(rocksdb::DataBlockIndexType::BinaryAndHash);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(32 << 20);
    options.set_max_write_buffer_number(3);
    options.set_compression_type(DBCompressionType::None);
    options
}

/// What all families together hold in memory before it is written to a file.
const UNWRITTEN_BYTES_MAX: usize = 64 << 20;

/// Half of a chunk's name: two chunks that share it by accident will not be met, and readers check the whole.
fn key(id: &ChunkId) -> [u8; 16] {
    let (head, _) = id
        .as_bytes()
        .split_first_chunk()
        .expect("a name has 32 bytes");
    *head
}

/// Shorter than any chunk's key.
fn coverage_key(pack: u32) -> [u8; 5] {
    let [a, b, c, d] = pack.to_be_bytes();
    [b'p', a, b, c, d]
}

/// Families that speak of restore points, with names in clear, and with hidden ones.
const CLEAR_FAMILIES: [&str; 2] = [RocksHealth::FAMILY, RocksAccount::FAMILY];
const HIDDEN_FAMILIES: [&str; 2] = [RocksHealth::HIDDEN_FAMILY, RocksAccount::HIDDEN_FAMILY];

/// Shorter than any other key.
const HIGHEST_PACK_KEY: [u8; 1] = *b"n";

impl fmt::Debug for RocksIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RocksIndex")
            .field("folder", &self.database.path())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Changes;
    use crate::clock::UnixNanoseconds;
    use crate::keys::MasterKey;

    /// Whether a file of the folder holds `words`.
    fn holds(folder: &Path, words: &str) -> bool {
        std::fs::read_dir(folder).unwrap().any(|entry| {
            let content = std::fs::read(entry.unwrap().path()).unwrap();
            let mut windows = content.windows(words.len());
            windows.any(|window| window == words.as_bytes())
        })
    }

    #[test]
    fn names_that_an_earlier_version_left_in_clear_are_gone_once_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let point: crate::catalog::PointName = "payroll@7".parse().unwrap();
        let fill = |keys: &KeyRing| {
            let opened = RocksIndex::open(folder, 1 << 20, keys).unwrap();
            let changes = Changes {
                points: vec![(point.clone(), true)],
                operation: Some(Some(b"{\"point\": \"payroll@7\"}".to_vec())),
                ..Changes::default()
            };
            opened.account.write(&changes).unwrap();
            opened.account.flush().unwrap();
            let health = opened.health;
            health.set_walked("payroll@7", UnixNanoseconds(5)).unwrap();
            health.flush().unwrap();
            opened.index.set_highest_pack(9).unwrap();
            opened.index.flush().unwrap();
        };
        fill(&KeyRing::plain());
        assert!(holds(folder, "payroll"));
        let keys = KeyRing::new(MasterKey::from_bytes([5; 32]), uuid::Uuid::nil());
        let opened = RocksIndex::open(folder, 1 << 20, &keys).unwrap();
        assert!(!holds(folder, "payroll"));
        assert!(opened.account.points().unwrap().is_empty());
        assert_eq!(opened.index.highest_pack().unwrap(), 9, "the rest stays");
        drop(opened);
        fill(&keys);
        assert!(!holds(folder, "payroll"));
        let opened = RocksIndex::open(folder, 1 << 20, &keys).unwrap();
        assert!(opened.account.points().unwrap().contains(&point));
        let walked = opened.health.walked("payroll@7").unwrap();
        assert_eq!(walked, Some(UnixNanoseconds(5)));
    }
}
