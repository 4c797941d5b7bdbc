//! The account of space in RocksDB (`docs/formats/index.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rocksdb::{DB, WriteBatch};

use super::family::Family;
use super::names::IndexNames;
use crate::account::{AccountStore, Changes, Entry};
use crate::catalog::{PointName, WorkloadName};
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::pack::Place;

/// The account in a column family of its own. The first byte of a key says what it is for.
#[derive(Debug)]
pub(super) struct RocksAccount {
    family: Family,
    names: Arc<IndexNames>,
}

impl RocksAccount {
    /// The column family that must be there: one for names in clear, one for others.
    pub(super) const FAMILY: &'static str = "account";
    pub(super) const HIDDEN_FAMILY: &'static str = "account-hidden";

    pub(super) fn new(database: Arc<DB>, names: Arc<IndexNames>) -> Self {
        let family = match names.are_hidden() {
            true => Self::HIDDEN_FAMILY,
            false => Self::FAMILY,
        };
        Self {
            family: Family::new(database, family),
            names,
        }
    }

    fn point_key(&self, point: &PointName) -> Vec<u8> {
        let workload = self.names.in_key(point.workload.as_str());
        [&[POINT_TAG], &point.sequence.to_be_bytes()[..], &workload].concat()
    }

    /// The point of a key without its tag, and what is stored under it.
    fn decode_point(&self, key: &[u8], value: &[u8]) -> Option<PointName> {
        let (sequence, workload) = key.split_first_chunk::<8>()?;
        let workload = match self.names.are_hidden() {
            false => workload.to_vec(),
            true => self.names.open(&[&[POINT_TAG], key].concat(), value)?,
        };
        Some(PointName {
            workload: WorkloadName::parse(std::str::from_utf8(&workload).ok()?).ok()?,
            sequence: u64::from_be_bytes(*sequence),
        })
    }
}

impl AccountStore for RocksAccount {
    fn entries(&self, ids: &[ChunkId]) -> Result<Vec<Option<Entry>>, RepoError> {
        let keys = ids.iter().map(entry_key);
        let values = self.family.get_all(keys, "find an entry of the account")?;
        let values = values.into_iter();
        values
            .map(|value| {
                let entry = value.map(|value| decode_entry(&value).ok_or_else(hurt));
                entry.transpose()
            })
            .collect()
    }

    fn alive(&self) -> Result<BTreeMap<u32, u64>, RepoError> {
        let mut alive = BTreeMap::new();
        self.family.visit(&[PACK_TAG], LIST, &mut |key, value| {
            let pack = <[u8; 4]>::try_from(key).map_err(|_| hurt())?;
            let bytes = <[u8; 8]>::try_from(value).map_err(|_| hurt())?;
            alive.insert(u32::from_be_bytes(pack), u64::from_le_bytes(bytes));
            Ok(())
        })?;
        Ok(alive)
    }

    fn points(&self) -> Result<BTreeSet<PointName>, RepoError> {
        let mut points = BTreeSet::new();
        self.family.visit(&[POINT_TAG], LIST, &mut |key, value| {
            points.insert(self.decode_point(key, value).ok_or_else(hurt)?);
            Ok(())
        })?;
        Ok(points)
    }

    fn operation(&self) -> Result<Option<Vec<u8>>, RepoError> {
        let stored = self.family.get([OPERATION_TAG], "read the account")?;
        let opened = stored.map(|stored| {
            let opened = self.names.open(&[OPERATION_TAG], &stored);
            opened.ok_or_else(hurt)
        });
        opened.transpose()
    }

    fn write(&self, changes: &Changes) -> Result<(), RepoError> {
        let family = self.family.handle()?;
        let mut batch = WriteBatch::default();
        for (id, entry) in &changes.entries {
            match entry {
                Some(entry) => batch.put_cf(family, entry_key(id), encode_entry(entry)),
                None => batch.delete_cf(family, entry_key(id)),
            }
        }
        for (pack, bytes) in &changes.alive {
            match bytes {
                0 => batch.delete_cf(family, pack_key(*pack)),
                bytes => batch.put_cf(family, pack_key(*pack), bytes.to_le_bytes()),
            }
        }
        for (point, present) in &changes.points {
            let key = self.point_key(point);
            match (present, self.names.are_hidden()) {
                (true, false) => batch.put_cf(family, key, b""),
                (true, true) => {
                    let name = self.names.seal(&key, point.workload.as_str().as_bytes())?;
                    batch.put_cf(family, key, name);
                }
                (false, _) => batch.delete_cf(family, key),
            }
        }
        match &changes.operation {
            None => {}
            Some(None) => batch.delete_cf(family, [OPERATION_TAG]),
            Some(Some(operation)) => {
                let sealed = self.names.seal(&[OPERATION_TAG], operation)?;
                batch.put_cf(family, [OPERATION_TAG], sealed);
            }
        }
        self.family.write(batch, "change the account")
    }

    fn clear(&self) -> Result<(), RepoError> {
        let family = self.family.handle()?;
        let mut batch = WriteBatch::default();
        // All keys start with a tag, and no tag is that high.
        batch.delete_range_cf(family, &[0_u8][..], &[0xff_u8][..]);
        self.family.write(batch, "clear the account")?;
        self.flush()
    }

    fn flush(&self) -> Result<(), RepoError> {
        self.family.flush("flush the account")
    }
}

/// The tag and half of the name, like the index.
fn entry_key(id: &ChunkId) -> [u8; 17] {
    let mut key = [ENTRY_TAG; 17];
    for (target, byte) in key.iter_mut().skip(1).zip(id.as_bytes()) {
        *target = *byte;
    }
    key
}

fn pack_key(pack: u32) -> [u8; 5] {
    let [a, b, c, d] = pack.to_be_bytes();
    [PACK_TAG, a, b, c, d]
}

fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut value = Vec::with_capacity(20);
    value.extend_from_slice(&entry.count.to_le_bytes());
    value.extend_from_slice(&entry.place.to_bytes());
    value.extend_from_slice(&entry.length.to_le_bytes());
    value
}

fn decode_entry(value: &[u8]) -> Option<Entry> {
    let (count, rest) = value.split_first_chunk::<8>()?;
    let (place, length) = rest.split_at_checked(8)?;
    Some(Entry {
        count: u64::from_le_bytes(*count),
        place: Place::from_bytes(place)?,
        length: u32::from_le_bytes(length.try_into().ok()?),
    })
}

fn hurt() -> RepoError {
    RepoError::Corrupt {
        what: "the account of space in the index".to_owned(),
        detail: "a line of it makes no sense".to_owned(),
    }
}

const LIST: &str = "list the account";

const ENTRY_TAG: u8 = b'c';
const OPERATION_TAG: u8 = b'o';
const PACK_TAG: u8 = b'p';
const POINT_TAG: u8 = b'r';

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{KeyRing, MasterKey};

    fn keys() -> [KeyRing; 2] {
        let master = MasterKey::from_bytes([5; 32]);
        [KeyRing::plain(), KeyRing::new(master, uuid::Uuid::nil())]
    }

    #[test]
    fn what_was_written_and_flushed_is_there_after_reopening() {
        for keys in keys() {
            reopens(&keys);
        }
    }

    fn reopens(keys: &KeyRing) {
        let folder = tempfile::tempdir().unwrap();
        let open = |folder: &std::path::Path| {
            let names = IndexNames::new(keys);
            let family = match names.are_hidden() {
                true => RocksAccount::HIDDEN_FAMILY,
                false => RocksAccount::FAMILY,
            };
            RocksAccount::new(Family::alone(folder, family), names)
        };
        let ids = [ChunkId::of(b"a"), ChunkId::of(b"b")];
        let entry = Entry {
            count: 3,
            place: Place { pack: 7, slot: 99 },
            length: 1280,
        };
        let point: PointName = "web@258".parse().unwrap();
        {
            let account = open(folder.path());
            account
                .write(&Changes {
                    entries: ids.iter().map(|id| (*id, Some(entry))).collect(),
                    alive: vec![(7, 2560), (258, 1)],
                    points: vec![(point.clone(), true), ("db@1".parse().unwrap(), true)],
                    operation: Some(Some(b"adding".to_vec())),
                })
                .unwrap();
            account
                .write(&Changes {
                    entries: vec![(ids[1], None)],
                    alive: vec![(7, 0)],
                    points: vec![("db@1".parse().unwrap(), false)],
                    operation: None,
                })
                .unwrap();
            account.flush().unwrap();
        }
        let account = open(folder.path());
        assert_eq!(account.entries(&ids).unwrap(), [Some(entry), None]);
        assert_eq!(account.alive().unwrap(), BTreeMap::from([(258, 1)]));
        assert_eq!(account.points().unwrap(), BTreeSet::from([point]));
        assert_eq!(account.operation().unwrap().unwrap(), b"adding");
        account.clear().unwrap();
        assert_eq!(account.entries(&ids).unwrap(), [None, None]);
        assert!(account.points().unwrap().is_empty());
        assert_eq!(account.operation().unwrap(), None);
    }

    /// An account in a database under a random load is at each moment like one in memory.
    #[test]
    fn it_answers_like_an_account_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut random = blake3::Hasher::new();
        random.update(b"account");
        let mut random = random.finalize_xof();
        let mut draw = |below: u64| {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            u64::from_le_bytes(bytes) % below
        };
        let ids: Vec<_> = (0..3000_u64)
            .map(|number| ChunkId::of(&number.to_le_bytes()))
            .collect();
        let model = crate::account::MemoryAccount::default();
        for opening in 0..3 {
            let [_, keys] = keys();
            let index = super::super::RocksIndex::open(folder.path(), 1 << 20, &keys).unwrap();
            let account = index.account;
            for step in 0..120 {
                let mut changes = Changes::default();
                for _ in 0..draw(200) {
                    let id = ids[usize::try_from(draw(3000)).unwrap()];
                    let entry = Entry {
                        count: draw(9) + 1,
                        place: Place { pack: 1, slot: 1 },
                        length: 1,
                    };
                    changes.entries.push((id, (draw(3) != 0).then_some(entry)));
                }
                account.write(&changes).unwrap();
                model.write(&changes).unwrap();
                match draw(100) {
                    0..5 => {
                        account.clear().unwrap();
                        model.clear().unwrap();
                    }
                    5..15 => account.flush().unwrap(),
                    _ => {}
                }
                let start = usize::try_from(draw(2000)).unwrap();
                let mut some = ids[start..start + 300].to_vec();
                some.sort_unstable();
                for list in [&some, &ids] {
                    assert!(
                        account.entries(list).unwrap() == model.entries(list).unwrap(),
                        "after step {step} of opening {opening}"
                    );
                }
            }
        }
    }
}
