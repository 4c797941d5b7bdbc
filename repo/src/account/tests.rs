//! The account against counting everything, and after a crash between any two of its steps.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{Account, MemoryAccount};
use crate::catalog::{PointKind, PointName, WorkloadName};
use crate::chunk::ChunkId;
use crate::clock::{ManualClock, UnixNanoseconds};
use crate::disk::SimulatedDisk;
use crate::error::RepoError;
use crate::repository::{CreateOptions, OpenOptions, Repository};
use crate::{ImageBase, ImageSpec};

fn repository() -> Repository {
    let disk = SimulatedDisk::new();
    let clock = Arc::new(ManualClock::new(UnixNanoseconds(1)));
    let root = Path::new("simulated");
    Repository::create_on(&disk, root, clock.as_ref(), &CreateOptions::default()).unwrap();
    Repository::open_on(Arc::new(disk), root, clock, &OpenOptions::default()).unwrap()
}

/// Chunks of a disk, each filled with one letter; a blank is nothing, a dot is left as it was.
fn back_up(repository: &Repository, workload: &str, chunks: &str) -> PointName {
    let mut backup = repository
        .begin(
            &WorkloadName::parse(workload).unwrap(),
            PointKind::Incremental,
        )
        .unwrap();
    // Chunks lie in different leaves, so that inner nodes take part.
    let stride = 600 * 65_536;
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: chunks.len() as u64 * stride,
        base: ImageBase::Parent,
    };
    let mut writer = backup.image(&spec).unwrap();
    for (number, letter) in chunks.bytes().enumerate() {
        let offset = number as u64 * stride;
        match letter {
            b'.' => {}
            b' ' => writer.write_zeroes(offset, 65_536).unwrap(),
            letter => writer
                .write(offset, Bytes::from(vec![letter; 65_536]))
                .unwrap(),
        }
    }
    backup.finish_image(writer).unwrap();
    let mut stream = backup.stream("log").unwrap();
    stream.append(chunks.as_bytes()).unwrap();
    backup.finish_stream(stream).unwrap();
    backup.commit().unwrap().name.clone()
}

fn filled() -> (Repository, Vec<PointName>) {
    let repository = repository();
    let mut names = Vec::new();
    for (workload, chunks) in [
        ("a", "xyz"),
        ("a", "x.w"),
        ("b", "zzzzz"),
        ("a", "xyzq "),
        ("a", ". y"),
        ("b", "...a."),
        ("a", "xyz"),
    ] {
        names.push(back_up(&repository, workload, chunks));
    }
    (repository, names)
}

fn settled(repository: &Repository, store: &Arc<MemoryAccount>) -> Result<Account, RepoError> {
    let account = Account::new(
        Arc::clone(store) as Arc<dyn super::AccountStore>,
        Arc::clone(repository.store()),
    );
    account
        .lock()
        .settle(repository.catalog(), &mut || Ok(()))?;
    Ok(account)
}

/// How often each id is needed, by the definition: runs in maps, places in streams.
fn counted_by_hand(repository: &Repository) -> BTreeMap<ChunkId, u64> {
    let mut counts = BTreeMap::new();
    for workload in repository.workloads() {
        let mut before: BTreeMap<(u8, u64), ChunkId> = BTreeMap::new();
        for point in repository.points(Some(&workload)) {
            let mut here = BTreeMap::new();
            let image = &point.images[0];
            let depth = crate::image::depth_for(image.size_bytes);
            collect(repository, image.root, depth, 0, &mut here);
            for (place, id) in &here {
                if before.get(place) != Some(id) {
                    *counts.entry(*id).or_default() += 1;
                }
            }
            before = here;
            let stream = &point.streams[0];
            let mut reader = repository.stream(&point, &stream.name).unwrap();
            while let Some(pointer) = reader.next_pointer().unwrap() {
                *counts.entry(pointer.id).or_default() += 1;
            }
        }
    }
    counts
}

fn collect(
    repository: &Repository,
    pointer: crate::image::Pointer,
    height: u8,
    first: u64,
    found: &mut BTreeMap<(u8, u64), ChunkId>,
) {
    if pointer.id.is_zero() {
        return;
    }
    found.insert((height, first), pointer.id);
    if height > 0 {
        let node = repository
            .store()
            .node(pointer.id, pointer.place, height - 1)
            .unwrap();
        let span = 1_u64 << (10 * u32::from(height - 1));
        for (slot, child) in (0_u64..).zip(node.pointers()) {
            collect(repository, *child, height - 1, first + slot * span, found);
        }
    }
}

fn counts(store: &MemoryAccount) -> BTreeMap<ChunkId, u64> {
    let (entries, alive, _) = store.content();
    let mut by_pack: BTreeMap<u32, u64> = BTreeMap::new();
    for entry in entries.values() {
        *by_pack.entry(entry.place.pack).or_default() += u64::from(entry.length);
    }
    assert_eq!(alive, by_pack, "bytes alive are those of the entries");
    entries
        .iter()
        .map(|(id, entry)| (*id, entry.count))
        .collect()
}

#[test]
fn counts_are_those_of_the_definition_whatever_goes_and_in_which_order() {
    let (_, names) = filled();
    for turn in 0..names.len() {
        let (repository, names) = filled();
        let store = Arc::new(MemoryAccount::default());
        let account = settled(&repository, &store).unwrap();
        assert_eq!(counts(&store), counted_by_hand(&repository));
        for step in 0..names.len() {
            let name = &names[(turn + step * 3) % names.len()];
            let point = repository.point(name).unwrap();
            let before: u64 = account.lock().alive().values().sum();
            let estimate = account.lock().estimate(&[], &[Arc::clone(&point)]).unwrap();
            repository.expire(name).unwrap();
            repository.catalog().release(name).unwrap();
            let freed = account.lock().take_out(&point, &mut || Ok(())).unwrap();
            assert_eq!(counts(&store), counted_by_hand(&repository), "{name}");
            let after: u64 = account.lock().alive().values().sum();
            assert_eq!(freed.bytes, before - after);
            assert_eq!(
                (estimate.bytes, estimate.records),
                (freed.bytes, freed.records)
            );
        }
        assert!(counts(&store).is_empty());
    }
}

#[test]
fn points_may_come_in_between() {
    let (repository, names) = filled();
    let whole = Arc::new(MemoryAccount::default());
    settled(&repository, &whole).unwrap();
    for name in &names {
        let store = Arc::new(MemoryAccount::default());
        repository.expire(name).unwrap();
        repository.catalog().release(name).unwrap();
        settled(&repository, &store).unwrap();
        // Only here: a released point does not come back to a repository.
        repository.catalog().revive(name);
        let account = settled(&repository, &store).unwrap();
        assert!(account.lock().has(name));
        assert_eq!(counts(&store), counts(&whole), "{name}");
    }
}

#[test]
fn a_crash_between_any_two_steps_changes_nothing_in_the_end() {
    let (repository, names) = filled();
    let whole = Arc::new(MemoryAccount::default());
    settled(&repository, &whole).unwrap();
    let point = repository.point(&names[3]).unwrap();
    let mut steps = 0;
    for allowed in 0.. {
        let store = Arc::new(MemoryAccount::default());
        store.allow_writes(Some(allowed));
        let outcome = settled(&repository, &store);
        store.allow_writes(None);
        settled(&repository, &store).unwrap();
        assert_eq!(counts(&store), counts(&whole), "after {allowed} steps");
        if outcome.is_ok() {
            steps = allowed;
            break;
        }
    }
    assert!(steps > 10, "{steps}");
    repository.expire(&point.name).unwrap();
    repository.catalog().release(&point.name).unwrap();
    for allowed in 0.. {
        let store = Arc::new(MemoryAccount::default());
        repository.catalog().revive(&point.name);
        let account = settled(&repository, &store).unwrap();
        repository.expire(&point.name).unwrap();
        repository.catalog().release(&point.name).unwrap();
        store.allow_writes(Some(allowed));
        let outcome = account.lock().take_out(&point, &mut || Ok(()));
        store.allow_writes(None);
        let account = settled(&repository, &store).unwrap();
        account.lock().take_out(&point, &mut || Ok(())).unwrap();
        assert_eq!(
            counts(&store),
            counted_by_hand(&repository),
            "after {allowed} steps"
        );
        if outcome.is_ok() {
            break;
        }
    }
}

#[test]
fn a_set_frees_more_than_its_members_one_by_one() {
    let repository = repository();
    let first = back_up(&repository, "a", "xyz");
    let second = back_up(&repository, "a", "...");
    back_up(&repository, "a", "uvw");
    let one = |name: &PointName| repository.space_of(std::slice::from_ref(name)).unwrap();
    let both = repository
        .space_of(&[first.clone(), second.clone()])
        .unwrap();
    assert!(both.bytes > one(&first).bytes + one(&second).bytes);
    repository.expire(&first).unwrap();
    let rest = one(&second);
    assert_eq!(
        rest.bytes + repository_expired_share(&repository),
        both.bytes,
        "what is expired already counts as gone"
    );
}

/// What the expired points free by themselves.
fn repository_expired_share(repository: &Repository) -> u64 {
    let expired: Vec<_> = repository
        .catalog()
        .expired()
        .into_iter()
        .map(|expired| expired.point)
        .collect();
    repository
        .account()
        .lock()
        .estimate(&[], &expired)
        .unwrap()
        .bytes
}

#[test]
fn a_point_that_vanished_stops_everything_until_somebody_expires_it() {
    let (repository, names) = filled();
    let store = Arc::new(MemoryAccount::default());
    settled(&repository, &store).unwrap();
    repository.expire(&names[1]).unwrap();
    repository.catalog().make_vanish(&names[1]);
    let account = Account::new(store, Arc::clone(repository.store()));
    let settle = || account.lock().settle(repository.catalog(), &mut || Ok(()));
    assert!(matches!(settle(), Err(RepoError::Vanished(name)) if name == names[1]));
    repository.catalog().expire_vanished(&names[1]).unwrap();
    settle().unwrap();
}
