//! A disk in memory that fails, fills up, loses power and is killed on demand.
//!
//! Each file keeps what was synced and the writes since; each folder keeps which names were synced. A power failure
//! ([`SimulatedDisk::crash`]) leaves every 512-byte sector as it was after some of those writes, chosen sector by
//! sector, which covers writes that were lost, kept, reordered and torn. The end of the process
//! ([`SimulatedDisk::kill`]) leaves everything that was written. All choices follow from a seed.

mod file;
mod world;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use self::file::SimulatedFile;
use self::world::{Act, Chance, Entry, World, split};
use super::{Access, Caching, DirectoryItem, Disk, DiskError, DiskFile, Space};

/// A folder in memory, for tests.
///
/// Clones show the same folder.
#[derive(Clone)]
pub struct SimulatedDisk {
    world: Arc<Mutex<World>>,
}

/// What goes wrong, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The `nth` call of this kind from now on, counted from 0, fails with an input/output error and does nothing.
    Fail {
        /// Which calls are counted.
        operation: Operation,
        /// Which of them fails.
        nth: u64,
    },
    /// Only this many more bytes can be written; a call that needs more writes what fits and fails.
    FullAfter {
        /// The bytes left.
        bytes: u64,
    },
    /// The world stops at the mutating call with this number (see [`SimulatedDisk::operations`]): it and all calls
    /// after it fail.
    StopAt {
        /// Number of the call, counted from 0 since the disk was made.
        operation: u64,
        /// What the call itself still did.
        effect: Effect,
    },
}

/// How far the call came at which the world stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing was done.
    Nothing,
    /// A write put down the first half of its bytes; other calls did nothing.
    Half,
    /// All was done, only no answer came.
    Whole,
}

/// Kinds of calls that change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::sync`] and [`Disk::sync_directory`].
    Sync,
    /// [`Disk::create`] and [`Disk::create_directory`].
    Create,
    /// [`Disk::publish`] and [`Disk::replace`].
    Publish,
    /// [`Disk::remove`] and [`Disk::remove_directory`].
    Remove,
    /// [`DiskFile::set_length`] and [`DiskFile::punch`].
    Resize,
}

impl SimulatedDisk {
    /// Makes an empty disk.
    pub fn new() -> Self {
        Self::from_world(World::default())
    }

    /// Number of calls so far that changed something or tried to.
    pub fn operations(&self) -> u64 {
        self.world.lock().operations
    }

    /// Adds a fault to the plan.
    pub fn inject(&self, fault: Fault) {
        let mut world = self.world.lock();
        match fault {
            Fault::Fail { operation, nth } => world.failures.push((operation, nth)),
            Fault::FullAfter { bytes } => world.bytes_left = Some(bytes),
            Fault::StopAt { operation, effect } => world.stop = Some((operation, effect)),
        }
    }

    /// Forgets the plan. A stopped world stays stopped.
    pub fn clear_faults(&self) {
        let mut world = self.world.lock();
        world.failures.clear();
        world.bytes_left = None;
        world.stop = None;
    }

    /// Gives an independent copy, without faults and locks. This disk goes on.
    pub fn fork(&self) -> Self {
        Self::from_world(self.world.lock().copy())
    }

    /// Gives the disk as a power failure would leave it. This one and its open files go dead.
    pub fn crash(&self, seed: u64) -> Self {
        let mut world = self.world.lock();
        world.dead = true;
        let mut after = world.copy();
        after.lose_power(&mut Chance::new(seed));
        Self::from_world(after)
    }

    /// Gives the disk as the end of the process would leave it. This one and its open files go dead.
    pub fn kill(&self) -> Self {
        let mut world = self.world.lock();
        world.dead = true;
        Self::from_world(world.copy())
    }

    /// Turns over one bit of a file, on the medium and in memory. Says whether there was such a byte.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) -> bool {
        let mut world = self.world.lock();
        let Some(number) = world.file_number(path) else {
            return false;
        };
        let Some(file) = world.files.get_mut(&number) else {
            return false;
        };
        // What was not synced yet counts as synced now, so that both hold the same wrong bit.
        file.synced = file.current.clone();
        file.pending.clear();
        let Some(place) = usize::try_from(byte)
            .ok()
            .and_then(|byte| file.current.get_mut(byte))
        else {
            return false;
        };
        *place ^= 1 << (bit & 7);
        file.synced = file.current.clone();
        true
    }

    fn from_world(world: World) -> Self {
        Self {
            world: Arc::new(Mutex::new(world)),
        }
    }

    /// The world, for a call that changes nothing.
    fn look(&self, action: &'static str, path: &Path) -> Result<MutexGuard<'_, World>, DiskError> {
        let world = self.world.lock();
        world.check_alive(action, path)?;
        Ok(world)
    }

    fn file(
        &self,
        world: &World,
        number: u64,
        path: &Path,
        access: Access,
        caching: Caching,
    ) -> Arc<dyn DiskFile> {
        debug_assert!(world.files.contains_key(&number));
        Arc::new(SimulatedFile {
            world: Arc::clone(&self.world),
            number,
            path: path.to_owned(),
            access,
            caching,
        })
    }

    /// The common part of `publish` and `replace`.
    fn put(
        &self,
        action: &'static str,
        path: &Path,
        content: &[u8],
        replace: bool,
    ) -> Result<(), DiskError> {
        let mut world = self.world.lock();
        let act = world.begin(Operation::Publish, action, path)?;
        let (folder, name) = split(path);
        let taken = world.folder(action, &folder)?.current.contains_key(&name);
        if taken && !replace {
            return Err(DiskError::new(action, path, io::ErrorKind::AlreadyExists));
        }
        if !world.take_space(content.len() as u64) {
            return Err(DiskError::new(action, path, io::ErrorKind::StorageFull));
        }
        if act != Act::Skip {
            let number = world.new_file(content.to_vec());
            let durable = act == Act::Do;
            let listed = world.folder(action, &folder)?;
            listed.current.insert(name.clone(), Entry::File(number));
            if durable {
                listed.synced.insert(name, Entry::File(number));
            }
        }
        act.answer(action, path)
    }
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SimulatedDisk")
            .field("operations", &self.operations())
            .finish_non_exhaustive()
    }
}

impl Disk for SimulatedDisk {
    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        const ACTION: &str = "create the folder";
        let mut world = self.world.lock();
        world.check_alive(ACTION, path)?;
        if world.folder(ACTION, path).is_ok() {
            return Ok(());
        }
        let act = world.begin(Operation::Create, ACTION, path)?;
        if act == Act::Do || act == Act::DoUnanswered {
            let mut above: Vec<&Path> = path.ancestors().collect();
            above.reverse();
            for folder in above
                .into_iter()
                .filter(|folder| !folder.as_os_str().is_empty())
            {
                world.add_folder(folder);
            }
        }
        act.answer(ACTION, path)
    }

    fn create(&self, path: &Path, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        const ACTION: &str = "create";
        let mut world = self.world.lock();
        let act = world.begin(Operation::Create, ACTION, path)?;
        let (folder, name) = split(path);
        if world.folder(ACTION, &folder)?.current.contains_key(&name) {
            return Err(DiskError::new(ACTION, path, io::ErrorKind::AlreadyExists));
        }
        if act == Act::Skip {
            act.answer(ACTION, path)?;
        }
        let number = world.new_file(Vec::new());
        world
            .folder(ACTION, &folder)?
            .current
            .insert(name, Entry::File(number));
        act.answer(ACTION, path)?;
        Ok(self.file(&world, number, path, Access::ReadWrite, caching))
    }

    fn open(
        &self,
        path: &Path,
        access: Access,
        caching: Caching,
    ) -> Result<Arc<dyn DiskFile>, DiskError> {
        let world = self.look("open", path)?;
        match world.file_number(path) {
            Some(number) => Ok(self.file(&world, number, path, access, caching)),
            None => Err(DiskError::new("open", path, io::ErrorKind::NotFound)),
        }
    }

    fn publish(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        self.put("publish", path, content, false)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        self.put("replace", path, content, true)
    }

    fn read(&self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, DiskError> {
        let world = self.look("read", path)?;
        let file = world
            .file_number(path)
            .and_then(|number| world.files.get(&number));
        let file = file.ok_or_else(|| DiskError::new("read", path, io::ErrorKind::NotFound))?;
        if file.current.len() as u64 > limit_bytes {
            return Err(DiskError::new("read", path, io::ErrorKind::FileTooLarge));
        }
        Ok(file.current.clone())
    }

    fn list(&self, path: &Path) -> Result<Vec<DirectoryItem>, DiskError> {
        let mut world = self.look("list", path)?;
        let entries = world.folder("list", path)?.current.clone();
        let item = |(name, entry): (String, Entry)| match entry {
            Entry::Folder => DirectoryItem {
                name,
                length_bytes: 0,
                is_directory: true,
            },
            Entry::File(number) => {
                let length_bytes = world
                    .files
                    .get(&number)
                    .map_or(0, |file| file.current.len() as u64);
                DirectoryItem {
                    name,
                    length_bytes,
                    is_directory: false,
                }
            }
        };
        Ok(entries.into_iter().map(item).collect())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        const ACTION: &str = "remove";
        let mut world = self.world.lock();
        let act = world.begin(Operation::Remove, ACTION, path)?;
        if world.file_number(path).is_none() {
            return Err(DiskError::new(ACTION, path, io::ErrorKind::NotFound));
        }
        if act == Act::Do || act == Act::DoUnanswered {
            let (folder, name) = split(path);
            world.folder(ACTION, &folder)?.current.remove(&name);
        }
        act.answer(ACTION, path)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        const ACTION: &str = "remove the folder";
        let mut world = self.world.lock();
        let act = world.begin(Operation::Remove, ACTION, path)?;
        world.folder(ACTION, path)?;
        if act == Act::Do || act == Act::DoUnanswered {
            let (parent, name) = split(path);
            world.folder(ACTION, &parent)?.current.remove(&name);
            for folder in world.folders_below(path) {
                if let Some(folder) = world.folders.get_mut(&folder) {
                    folder.current.clear();
                }
            }
        }
        act.answer(ACTION, path)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        const ACTION: &str = "sync the folder";
        let mut world = self.world.lock();
        let act = world.begin(Operation::Sync, ACTION, path)?;
        let folder = world.folder(ACTION, path)?;
        if act == Act::Do || act == Act::DoUnanswered {
            folder.synced = folder.current.clone();
        }
        act.answer(ACTION, path)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Send + Sync>, DiskError> {
        let mut world = self.look("lock", path)?;
        if !world.locks.insert(path.to_owned()) {
            return Err(DiskError::new("lock", path, io::ErrorKind::WouldBlock));
        }
        Ok(Box::new(Lock {
            world: Arc::clone(&self.world),
            path: path.to_owned(),
        }))
    }

    fn space(&self) -> Result<Space, DiskError> {
        let world = self.look("measure", Path::new(""))?;
        let available_bytes = world.bytes_left.unwrap_or(CAPACITY_BYTES);
        Ok(Space {
            total_bytes: CAPACITY_BYTES,
            available_bytes,
        })
    }

    fn local_root(&self) -> Option<&Path> {
        None
    }
}

struct Lock {
    world: Arc<Mutex<World>>,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.world.lock().locks.remove(&self.path);
    }
}

/// What an unlimited disk says it has.
const CAPACITY_BYTES: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::IoSlice;

    use super::*;

    fn write(file: &dyn DiskFile, offset: u64, bytes: &[u8]) {
        file.write_at(offset, &[IoSlice::new(bytes)]).unwrap();
    }

    #[test]
    fn power_failure_keeps_what_was_synced_and_some_of_the_rest() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..100 {
            let disk = SimulatedDisk::new();
            let path = Path::new("a");
            let file = disk.create(path, Caching::Cached).unwrap();
            disk.sync_directory(Path::new("")).unwrap();
            write(&*file, 0, &[1; 2048]);
            file.sync().unwrap();
            write(&*file, 1024, &[2; 2048]);
            let after = disk.crash(seed);
            assert!(file.length().is_err(), "open files must go dead");
            let content = after.read(path, 1 << 20).unwrap();
            assert_eq!(content[..1024], [1; 1024]);
            match content[1024..].iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                2048 => kept += 1,
                some => {
                    assert!(some.is_multiple_of(512));
                    torn += 1;
                }
            }
        }
        assert!(lost > 5 && kept > 5 && torn > 20, "{lost} {kept} {torn}");
    }

    #[test]
    fn names_are_durable_only_after_a_sync() {
        let outcomes: BTreeSet<bool> = (0..50)
            .map(|seed| {
                let disk = SimulatedDisk::new();
                disk.publish(Path::new("sure"), b"x").unwrap();
                disk.create(Path::new("unsure"), Caching::Cached).unwrap();
                let after = disk.crash(seed);
                assert_eq!(after.read(Path::new("sure"), 10).unwrap(), b"x");
                after
                    .open(Path::new("unsure"), Access::Read, Caching::Cached)
                    .is_ok()
            })
            .collect();
        assert_eq!(outcomes.len(), 2);
    }

    #[test]
    fn a_kill_keeps_everything_written() {
        let disk = SimulatedDisk::new();
        disk.create_directory(Path::new("d/e")).unwrap();
        let file = disk.create(Path::new("d/e/a"), Caching::Cached).unwrap();
        write(&*file, 3, b"abc");
        let held = disk.lock(Path::new("lock")).unwrap();
        assert!(disk.lock(Path::new("lock")).is_err());
        let after = disk.kill();
        assert!(
            after.lock(Path::new("lock")).is_ok(),
            "locks end with the process"
        );
        drop(held);
        assert_eq!(after.read(Path::new("d/e/a"), 10).unwrap(), b"\0\0\0abc");
        assert!(file.write_at(0, &[IoSlice::new(b"x")]).is_err());
    }

    #[test]
    fn faults_hit_the_call_they_name() {
        let disk = SimulatedDisk::new();
        let file = disk.create(Path::new("a"), Caching::Cached).unwrap();
        disk.inject(Fault::Fail {
            operation: Operation::Write,
            nth: 1,
        });
        write(&*file, 0, b"one");
        assert!(file.write_at(3, &[IoSlice::new(b"two")]).is_err());
        write(&*file, 3, b"two");
        disk.inject(Fault::FullAfter { bytes: 2 });
        assert!(
            file.write_at(6, &[IoSlice::new(b"three")])
                .unwrap_err()
                .is_full()
        );
        assert_eq!(disk.read(Path::new("a"), 100).unwrap(), b"onetwoth");
        disk.clear_faults();
        let stop = disk.operations() + 1;
        disk.inject(Fault::StopAt {
            operation: stop,
            effect: Effect::Half,
        });
        write(&*file, 8, b"re");
        assert!(file.write_at(10, &[IoSlice::new(b"four")]).is_err());
        assert!(file.sync().is_err());
        assert_eq!(
            disk.kill().read(Path::new("a"), 100).unwrap(),
            b"onetwothrefo"
        );
    }

    #[test]
    fn removed_folders_are_gone_with_what_is_in_them() {
        let disk = SimulatedDisk::new();
        disk.create_directory(Path::new("d")).unwrap();
        disk.publish(Path::new("d/a"), b"x").unwrap();
        disk.remove_directory(Path::new("d")).unwrap();
        assert!(disk.list(Path::new("d")).is_err());
        assert!(disk.read(Path::new("d/a"), 10).is_err());
        disk.create_directory(Path::new("d")).unwrap();
        assert!(disk.list(Path::new("d")).unwrap().is_empty());
    }

    #[test]
    fn a_flipped_bit_shows() {
        let disk = SimulatedDisk::new();
        disk.publish(Path::new("a"), &[0; 4]).unwrap();
        assert!(disk.flip_bit(Path::new("a"), 2, 3));
        assert!(!disk.flip_bit(Path::new("a"), 4, 3));
        assert_eq!(
            disk.crash(0).read(Path::new("a"), 10).unwrap(),
            [0, 0, 8, 0]
        );
    }
}
