//! A disk in memory that fails, fills up, loses power and is killed on demand.
//!
//! Each file keeps what was synced and the writes since; each folder keeps which names were synced. A power failure
//! ([`SimulatedDisk::crash`]) leaves every 512-byte sector as it was after some of those writes, chosen sector by
//! sector, which covers writes that were lost, kept, reordered and torn; a block that was new may hold bits of other
//! files. The end of the process ([`SimulatedDisk::kill`]) leaves everything that was written. A sync that fails drops
//! writes and takes them for done, as kernels do. All choices follow from seeds, and what went wrong is counted.

mod chance;
mod content;
mod file;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use self::chance::Chance;
use self::content::FileContent;
use self::file::SimulatedFile;
use self::world::{Act, Entry, Failure, World, failure, split};
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
    /// The `nth` call of this kind from now on, counted from 0, fails with an input/output error. A write may have been
    /// done in part, a sync has dropped some of what it was to make durable, a publication may be there.
    Fail {
        /// Which calls are counted.
        operation: Operation,
        /// Which of them fails.
        nth: u64,
    },
    /// Like [`Fail`](Fault::Fail), for lack of space.
    NoSpace {
        /// Which calls are counted.
        operation: Operation,
        /// Which of them fails.
        nth: u64,
    },
    /// Files can grow by only this many bytes in all; a call that needs more writes what fits and fails. What is
    /// removed makes room.
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

/// Kinds of calls.
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
    /// [`Disk::open`], [`Disk::read`] and [`DiskFile::read_at`].
    Read,
    /// [`Disk::list`].
    List,
}

impl SimulatedDisk {
    /// Makes an empty disk.
    pub fn new() -> Self {
        Self::seeded(0)
    }

    /// Makes an empty disk whose failing calls do what `seed` chooses.
    pub fn seeded(seed: u64) -> Self {
        Self::from_world(World {
            chance: Chance::new(seed),
            ..World::default()
        })
    }

    /// From now on failing calls do what `seed` chooses.
    pub fn reseed(&self, seed: u64) {
        self.world.lock().chance = Chance::new(seed);
    }

    /// Becomes a disk without direct input and output, as some file systems are.
    #[must_use]
    pub fn without_direct(self) -> Self {
        self.world.lock().all_cached = true;
        self
    }

    /// What went wrong so far, in words, and how often: also before a crash, a kill or a fork.
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.world.lock().injected.clone()
    }

    /// Number of calls so far that changed something or tried to.
    pub fn operations(&self) -> u64 {
        self.world.lock().operations
    }

    /// Adds a fault to the plan.
    pub fn inject(&self, fault: Fault) {
        let mut world = self.world.lock();
        match fault {
            Fault::Fail { operation, nth } => world.failures.push(Failure {
                operation,
                nth,
                full: false,
            }),
            Fault::NoSpace { operation, nth } => world.failures.push(Failure {
                operation,
                nth,
                full: true,
            }),
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
        let mut after = world.copy();
        after.count("kills", 1);
        Self::from_world(after)
    }

    /// What memory pressure does: readers see what is on the medium, where the kernel takes that for the same.
    pub fn forget_clean(&self) {
        let mut world = self.world.lock();
        world.files.values_mut().for_each(FileContent::forget_clean);
    }

    /// Turns over one bit of a file, on the medium and in memory. Says whether there was such a byte.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) -> bool {
        let mut world = self.world.lock();
        let Some(number) = world.file_number(path) else {
            return false;
        };
        let byte = usize::try_from(byte).unwrap_or(usize::MAX);
        let damaged = world
            .files
            .get_mut(&number)
            .is_some_and(|file| file.damage(byte, 1 << (bit & 7)));
        world.count("flipped bits", u64::from(damaged));
        damaged
    }

    fn from_world(world: World) -> Self {
        Self {
            world: Arc::new(Mutex::new(world)),
        }
    }

    /// The world, for a call that changes nothing.
    fn look(
        &self,
        operation: Operation,
        action: &'static str,
        path: &Path,
    ) -> Result<MutexGuard<'_, World>, DiskError> {
        let mut world = self.world.lock();
        world.look(operation, action, path)?;
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
        let caching = match world.all_cached {
            true => Caching::Cached,
            false => caching,
        };
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
        // It is the temporary file that does not fit, or that fails.
        world.check_space(action, path)?;
        let length = content.len() as u64;
        let taken = world.take_space(length);
        if taken < length {
            world.give_space(taken);
            return Err(failure(action, path, true));
        }
        // A failure may also be that of the folder's sync, when the name is there.
        let named = match act {
            Act::Fail { .. } => world.chance.below(2) == 0,
            act => act.is_done(),
        };
        if named {
            let freed = world.length_of(path);
            world.give_space(freed);
            let number = world.new_file(content.to_vec());
            let listed = world.folder(action, &folder)?;
            listed.current.insert(name, Entry::File(number));
            if act == Act::Do {
                listed.synced.clone_from(&listed.current);
            }
        } else {
            world.give_space(length);
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
        let mut above: Vec<&Path> = path
            .ancestors()
            .filter(|folder| !folder.as_os_str().is_empty())
            .collect();
        above.reverse();
        let there = world.folder(ACTION, path).is_ok();
        let act = match there {
            true => Act::Do,
            false => world.begin(Operation::Create, ACTION, path)?,
        };
        if !there {
            world.check_space(ACTION, path)?;
        }
        if act.is_done() {
            for folder in above {
                world.add_folder(folder, act == Act::Do);
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
        if !act.is_done() {
            act.answer(ACTION, path)?;
        }
        world.check_space(ACTION, path)?;
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
        let world = self.look(Operation::Read, "open", path)?;
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
        let world = self.look(Operation::Read, "read", path)?;
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
        let mut world = self.look(Operation::List, "list", path)?;
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
        if act.is_done() {
            let freed = world.length_of(path);
            world.give_space(freed);
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
        if act.is_done() {
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
        if act.is_done() {
            folder.synced.clone_from(&folder.current);
        }
        act.answer(ACTION, path)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Send + Sync>, DiskError> {
        let mut world = self.world.lock();
        world.check_alive("lock", path)?;
        if !world.locks.insert(path.to_owned()) {
            return Err(DiskError::new("lock", path, io::ErrorKind::WouldBlock));
        }
        Ok(Box::new(Lock {
            world: Arc::clone(&self.world),
            path: path.to_owned(),
        }))
    }

    fn space(&self) -> Result<Space, DiskError> {
        let world = self.world.lock();
        world.check_alive("measure", Path::new(""))?;
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
    fn a_failed_sync_drops_writes_and_a_later_one_does_not_bring_them_back() {
        let mut lost = 0;
        for seed in 0..20 {
            let disk = SimulatedDisk::seeded(seed);
            let file = disk.create(Path::new("a"), Caching::Cached).unwrap();
            disk.sync_directory(Path::new("")).unwrap();
            write(&*file, 0, b"old");
            file.sync().unwrap();
            write(&*file, 0, b"new");
            disk.inject(Fault::NoSpace {
                operation: Operation::Sync,
                nth: 0,
            });
            assert!(file.sync().unwrap_err().is_full());
            file.sync().unwrap();
            assert_eq!(disk.read(Path::new("a"), 10).unwrap(), b"new", "the cache");
            let after = disk.crash(seed);
            assert!(after.injected().contains_key("power failures"));
            lost += u32::from(after.read(Path::new("a"), 10).unwrap() == b"old");
        }
        assert!((1..20).contains(&lost), "{lost}");
    }

    #[test]
    fn room_is_taken_by_growth_and_given_back_by_removal() {
        let disk = SimulatedDisk::new();
        disk.inject(Fault::FullAfter { bytes: 8 });
        let file = disk.create(Path::new("a"), Caching::Cached).unwrap();
        write(&*file, 0, b"12345678");
        write(&*file, 0, b"87654321");
        assert!(disk.publish(Path::new("b"), b"").unwrap_err().is_full());
        let create = disk.create(Path::new("b"), Caching::Cached);
        assert!(create.unwrap_err().is_full());
        disk.remove(Path::new("a")).unwrap();
        assert!(disk.publish(Path::new("b"), b"123456789").is_err());
        disk.publish(Path::new("b"), b"12345678").unwrap();
        assert_eq!(disk.space().unwrap().available_bytes, 0);
    }

    #[test]
    fn a_failed_publication_is_there_whole_or_not() {
        let there: BTreeSet<bool> = (0..20)
            .map(|seed| {
                let disk = SimulatedDisk::seeded(seed);
                disk.inject(Fault::Fail {
                    operation: Operation::Publish,
                    nth: 0,
                });
                assert!(disk.publish(Path::new("a"), b"whole").is_err());
                match disk.read(Path::new("a"), 10) {
                    Ok(content) => content == b"whole",
                    Err(error) => !error.is_missing(),
                }
            })
            .collect();
        assert_eq!(there.len(), 2);
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
