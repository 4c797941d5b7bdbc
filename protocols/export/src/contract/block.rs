//! What every [`BlockExport`] must do.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test says that something failed by panicking, and its disks are small"
)]

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;

use crate::{BlockExport, BlockState, Durability, ExportError, Extent, MemoryDisk, ZeroMode};

/// Checks writable exports. `make` gives a new export of the asked size that reads as zeroes everywhere.
///
/// # Panics
/// If the export does not keep the contract.
pub fn check(make: impl Fn(u64) -> Arc<dyn BlockExport>) {
    check_over(|content| {
        let export = make(content.len() as u64);
        if content.iter().any(|&byte| byte != 0) {
            export
                .write(0, &[Bytes::copy_from_slice(content)], Durability::Unstable)
                .unwrap();
        }
        export
    });
}

/// Checks writable exports that start with content. `make` gives a new export that reads as the bytes it is given.
///
/// # Panics
/// If the export does not keep the contract.
pub fn check_over(make: impl Fn(&[u8]) -> Arc<dyn BlockExport>) {
    let seed = RandomState::new().hash_one(0);
    for seed in [1, 2, seed] {
        let content = Random(seed).sparse(MODEL_BYTES);
        check_random_operations(&*make(&content), &content, seed);
    }
    check_edges(&*make(&vec![0; MODEL_BYTES]));
    check_refusals(&*make(&vec![0; MODEL_BYTES]));
    check_zeroes(&*make(&vec![7; MODEL_BYTES]));
    check_pieces(&*make(&vec![0; MODEL_BYTES]));
    check_held_reads(&*make(&vec![0; MODEL_BYTES]));
    check_extents(
        &*make(&Random(3).sparse(MODEL_BYTES)),
        &Random(3).sparse(MODEL_BYTES),
    );
    check_copies(&make);
    check_threads(&make(&vec![0; MODEL_BYTES]));
}

/// Checks an export that refuses writes and must read as `content`.
///
/// # Panics
/// If the export does not keep the contract.
pub fn check_read_only(export: &dyn BlockExport, content: &[u8]) {
    let properties = export.properties();
    assert!(properties.read_only, "the export says that it is read-only");
    assert_eq!(
        properties.size_bytes,
        content.len() as u64,
        "the size is that of the content"
    );
    let block = u64::from(properties.block_size_bytes);
    let data = [Bytes::from(vec![9; properties.block_size_bytes as usize])];
    for durability in [Durability::Unstable, Durability::Stable] {
        expect_read_only("a write", export.write(0, &data, durability));
        expect_read_only(
            "zeroes",
            export.write_zeroes(0, block, ZeroMode::Deallocate, durability),
        );
        expect_read_only("a discard", export.discard(0, block, durability));
    }
    if let Some(answer) = export.try_write(0, &data) {
        expect_read_only("a quick write", answer);
    }
    let other = MemoryDisk::new(64 * 1024);
    let copy = export.copy_from(0, &other, 0, 64 * 1024, Durability::Unstable);
    assert!(
        matches!(copy, Ok(false) | Err(ExportError::ReadOnly)),
        "a copy to it is refused, not {copy:?}"
    );
    export.flush().expect("a flush with nothing to do succeeds");
    let seed = RandomState::new().hash_one(0);
    let mut random = Random(seed);
    for _ in 0..200 {
        let (offset, length) = random.range(properties.size_bytes, block);
        check_read(export, content, offset, length, seed);
    }
    check_refused_reads(export);
    check_extents(export, content);
}

/// Random operations, each followed by a look at the bytes around it.
fn check_random_operations(export: &dyn BlockExport, content: &[u8], seed: u64) {
    let mut model = content.to_vec();
    let mut random = Random(seed);
    let size = model.len() as u64;
    let block = u64::from(export.properties().block_size_bytes);
    for step in 0..400 {
        let (offset, length) = random.range(size, block);
        let range = offset as usize..(offset + length) as usize;
        let durability = if random.below(8) == 0 {
            Durability::Stable
        } else {
            Durability::Unstable
        };
        match random.below(8) {
            0 => {
                export.discard(offset, length, durability).unwrap();
                model[range].fill(0);
            }
            1 | 2 => {
                let mode = if random.below(2) == 0 {
                    ZeroMode::Deallocate
                } else {
                    ZeroMode::KeepAllocated
                };
                export
                    .write_zeroes(offset, length, mode, durability)
                    .unwrap();
                model[range].fill(0);
            }
            3 => export.flush().unwrap(),
            4 => export.prefetch(offset, length),
            _ => {
                let data = random.bytes(length as usize);
                model[range].copy_from_slice(&data);
                let data = [Bytes::from(data)];
                match (durability, export.try_write(offset, &data)) {
                    (Durability::Unstable, Some(answer)) => answer.unwrap(),
                    _ => export.write(offset, &data, durability).unwrap(),
                }
            }
        }
        let (offset, length) = if step % 3 == 0 {
            random.range(size, block)
        } else {
            (offset, length)
        };
        check_read(export, &model, offset, length, seed);
    }
    check_read(export, &model, 0, size, seed);
    check_extents(export, &model);
}

/// The first and last block, alone and as part of the whole.
fn check_edges(export: &dyn BlockExport) {
    let properties = export.properties();
    let (size, block) = (
        properties.size_bytes,
        u64::from(properties.block_size_bytes),
    );
    let mut model = vec![0; size as usize];
    for (mark, offset) in [(1, 0), (2, size - block)] {
        export
            .write(
                offset,
                &[Bytes::from(vec![mark; block as usize])],
                Durability::Unstable,
            )
            .unwrap();
        model[offset as usize..(offset + block) as usize].fill(mark);
    }
    check_read(export, &model, 0, size, 0);
    check_read(export, &model, size - block, block, 0);
    assert_eq!(export.properties(), properties, "properties stay the same");
}

/// Ranges that are empty, misaligned or outside are refused and change nothing.
fn check_refusals(export: &dyn BlockExport) {
    let properties = export.properties();
    let (size, block) = (
        properties.size_bytes,
        u64::from(properties.block_size_bytes),
    );
    assert!(
        properties.block_size_bytes.is_power_of_two() && block >= 512,
        "the block size is a power of two from 512"
    );
    assert!(
        properties.preferred_size_bytes.is_power_of_two()
            && u64::from(properties.preferred_size_bytes) >= block,
        "the preferred size is a power of two and not below the block size"
    );
    check_refused_reads(export);
    for (offset, length) in bad_ranges(size, block) {
        let what = format!("{length} bytes at {offset}");
        expect_out_of_range(
            &what,
            export.write_zeroes(offset, length, ZeroMode::Deallocate, Durability::Unstable),
        );
        expect_out_of_range(&what, export.discard(offset, length, Durability::Unstable));
        if length <= 2 * block {
            let data = [Bytes::from(vec![5; length as usize])];
            expect_out_of_range(&what, export.write(offset, &data, Durability::Unstable));
            if let Some(answer) = export.try_write(offset, &data) {
                expect_out_of_range(&what, answer);
            }
        }
    }
    check_read(export, &vec![0; size as usize], 0, size, 0);
}

/// Zeroes in both modes and discards read as zeroes, to the block, and the map agrees.
fn check_zeroes(export: &dyn BlockExport) {
    let properties = export.properties();
    let (size, block) = (
        properties.size_bytes,
        u64::from(properties.block_size_bytes),
    );
    let mut model = vec![7; size as usize];
    let third = size / 3 / block * block;
    export
        .write_zeroes(block, third, ZeroMode::Deallocate, Durability::Unstable)
        .unwrap();
    export
        .write_zeroes(
            third + 2 * block,
            block,
            ZeroMode::KeepAllocated,
            Durability::Stable,
        )
        .unwrap();
    export
        .discard(2 * third, third, Durability::Unstable)
        .unwrap();
    model[block as usize..(block + third) as usize].fill(0);
    model[(third + 2 * block) as usize..(third + 3 * block) as usize].fill(0);
    model[2 * third as usize..3 * third as usize].fill(0);
    check_read(export, &model, 0, size, 0);
    check_extents(export, &model);
    export
        .write(
            block,
            &[Bytes::from(vec![8; block as usize])],
            Durability::Unstable,
        )
        .unwrap();
    model[block as usize..2 * block as usize].fill(8);
    check_read(export, &model, 0, size, 0);
    check_extents(export, &model);
}

/// A write in many pieces is one write.
fn check_pieces(export: &dyn BlockExport) {
    let size = export.properties().size_bytes;
    let mut model = vec![0; size as usize];
    let mut random = Random(11);
    let data = random.bytes(96 * 1024);
    let cuts = [0, 1, 100, 511, 4096, 4097, 70_000, data.len()];
    let pieces: Vec<Bytes> = cuts
        .windows(2)
        .map(|cut| Bytes::copy_from_slice(&data[cut[0]..cut[1]]))
        .collect();
    export.write(8192, &pieces, Durability::Unstable).unwrap();
    model[8192..8192 + data.len()].copy_from_slice(&data);
    check_read(export, &model, 0, size, 11);
    if let Some(answer) = export.try_write(256 * 1024, &pieces) {
        answer.unwrap();
        model[256 * 1024..256 * 1024 + data.len()].copy_from_slice(&data);
        check_read(export, &model, 0, size, 11);
    }
}

/// A copy that is a step of a map is as good as one of bytes, to another disk and within one; what is refused or not
/// possible changes nothing.
fn check_copies(make: impl Fn(&[u8]) -> Arc<dyn BlockExport>) {
    let mut random = Random(29);
    let (mut one_model, mut two_model) = (random.sparse(MODEL_BYTES), random.sparse(MODEL_BYTES));
    let (one, two) = (make(&one_model), make(&two_model));
    let size = one_model.len() as u64;
    let block = u64::from(one.properties().block_size_bytes);
    let unit = 64 * 1024;
    for round in 0..60_u64 {
        let (from, to, length) = if round % 3 == 0 {
            let (from, length) = random.range(size / 2, block);
            (from, size / 2 / block * block, length)
        } else {
            let length = (1 + random.below(3)) * unit;
            (random.below(2) * unit, (3 + random.below(3)) * unit, length)
        };
        let length = length.min((size - to) / block * block);
        let within = round % 2 == 0;
        let source = if within { &two } else { &one };
        let done = two
            .copy_from(to, &**source, from, length, Durability::Unstable)
            .unwrap();
        if done {
            let from = from as usize..(from + length) as usize;
            let bytes = if within {
                two_model[from].to_vec()
            } else {
                one_model[from].to_vec()
            };
            two_model[to as usize..(to + length) as usize].copy_from_slice(&bytes);
        }
        check_read(&*two, &two_model, 0, size, 29);
        // Neither sees what is written to the other afterwards.
        for (export, model) in [(&one, &mut one_model), (&two, &mut two_model)] {
            let (offset, length) = random.range(size, block);
            let data = random.bytes(length as usize);
            export
                .write(offset, &[Bytes::from(data.clone())], Durability::Unstable)
                .unwrap();
            model[offset as usize..(offset + length) as usize].copy_from_slice(&data);
        }
        check_read(&*one, &one_model, 0, size, 29);
        check_read(&*two, &two_model, 0, size, 29);
    }
    for (offset, length) in bad_ranges(size, block) {
        for (to, from) in [(offset, 0), (0, offset)] {
            let answer = two.copy_from(to, &*one, from, length, Durability::Unstable);
            assert!(
                matches!(answer, Ok(false) | Err(ExportError::OutOfRange { .. })),
                "a copy of {length} bytes from {from} to {to} is refused, not {answer:?}"
            );
        }
    }
    check_read(&*two, &two_model, 0, size, 29);
}

/// The bytes of a read stay as they were when they were read.
fn check_held_reads(export: &dyn BlockExport) {
    let block = export.properties().block_size_bytes;
    let first = vec![1; 16 * block as usize];
    export
        .write(0, &[Bytes::from(first.clone())], Durability::Unstable)
        .unwrap();
    let held = export.read(0, 16 * block).unwrap();
    export
        .write(
            u64::from(block),
            &[Bytes::from(vec![2; block as usize])],
            Durability::Unstable,
        )
        .unwrap();
    export
        .discard(4 * u64::from(block), u64::from(block), Durability::Unstable)
        .unwrap();
    assert_eq!(
        held.to_vec(),
        first,
        "an answer that is held does not change"
    );
}

/// Threads that write their own ranges do not disturb one another, and see what they wrote.
fn check_threads(export: &Arc<dyn BlockExport>) {
    let size = export.properties().size_bytes;
    let block = u64::from(export.properties().block_size_bytes);
    const THREADS: u64 = 4;
    let workers: Vec<_> = (0..THREADS)
        .map(|number| {
            let export = Arc::clone(export);
            thread::spawn(move || {
                let mut random = Random(number + 100);
                let blocks = size / block;
                for round in 0..100_u64 {
                    // Every fourth block is this thread's: neighbours belong to others.
                    let index = random.below(blocks / THREADS) * THREADS + number;
                    let fill = vec![(number * 64 + round % 64) as u8; block as usize];
                    export
                        .write(
                            index * block,
                            &[Bytes::from(fill.clone())],
                            Durability::Unstable,
                        )
                        .unwrap();
                    let seen = export.read(index * block, block as u32).unwrap().to_vec();
                    assert!(seen == fill, "a thread sees its own write of block {index}");
                    if round % 32 == 0 {
                        export.flush().unwrap();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("a worker passed");
    }
    for index in 0..size / block {
        let seen = export.read(index * block, block as u32).unwrap().to_vec();
        assert!(
            seen.iter().all(|&byte| byte == seen[0]),
            "block {index} is from one write"
        );
        assert!(
            seen[0] == 0 || u64::from(seen[0] / 64) == index % THREADS,
            "block {index} is its owner's"
        );
    }
}

/// The map covers the range exactly, keeps to its limit, merges, and never calls data zero.
fn check_extents(export: &dyn BlockExport, content: &[u8]) {
    let size = content.len() as u64;
    let block = u64::from(export.properties().block_size_bytes);
    let all = export.extents(0, size, usize::MAX).unwrap();
    check_cover(&all, 0, size, content);
    assert_eq!(
        all.iter().map(|extent| extent.length).sum::<u64>(),
        size,
        "the map without a limit reaches the end"
    );
    let mut random = Random(17);
    for limit in [1, 2, 3, 7] {
        let (offset, length) = random.range(size, block);
        let some = export.extents(offset, length, limit).unwrap();
        assert!(
            !some.is_empty() && some.len() <= limit,
            "the map gives from 1 to {limit} extents"
        );
        check_cover(&some, offset, length, content);
    }
    let mut offset = 0;
    let mut walked = 0;
    while offset < size {
        let step = export.extents(offset, size - offset, 1).unwrap();
        offset += step[0].length;
        walked += 1;
        assert!(walked <= size / block, "a walk through the map ends");
    }
    assert_eq!(offset, size, "a walk through the map ends at the end");
    for map in export.change_maps() {
        let changes = export.changes(&map, 0, size, usize::MAX).unwrap();
        assert_eq!(
            changes.iter().map(|change| change.0).sum::<u64>(),
            size,
            "change map {map} reaches the end"
        );
        assert!(
            changes.windows(2).all(|pair| pair[0].1 != pair[1].1),
            "change map {map} merges neighbours"
        );
    }
    assert!(
        export.changes("no such map", 0, block, 1).is_err(),
        "a change map that does not exist is refused"
    );
}

/// One answer of the map against the bytes.
fn check_cover(extents: &[Extent], offset: u64, length: u64, content: &[u8]) {
    let mut at = offset;
    for extent in extents {
        assert!(extent.length > 0, "no extent is empty");
        let range = at as usize..(at + extent.length) as usize;
        assert!(
            at + extent.length <= offset + length,
            "no extent reaches beyond the range"
        );
        if extent.state != BlockState::Data {
            assert!(
                content[range].iter().all(|&byte| byte == 0),
                "data at {at} is not called {:?}",
                extent.state
            );
        }
        at += extent.length;
    }
    assert!(
        extents
            .windows(2)
            .all(|pair| (pair[0].state, pair[0].depth) != (pair[1].state, pair[1].depth)),
        "equal neighbours are merged"
    );
}

fn check_read(export: &dyn BlockExport, model: &[u8], offset: u64, length: u64, seed: u64) {
    let wanted = &model[offset as usize..(offset + length) as usize];
    if let Some(answer) = export.read_cached(offset, length as u32) {
        let seen = answer.unwrap();
        assert_eq!(
            seen.len(),
            wanted.len(),
            "a cached read of {length} bytes at {offset} is complete"
        );
        assert!(
            seen.to_vec() == wanted,
            "cached bytes at {offset}, {length} long, are right (seed {seed})"
        );
    }
    let seen = export.read(offset, length as u32).unwrap();
    assert_eq!(
        seen.len(),
        wanted.len(),
        "a read of {length} bytes at {offset} is complete"
    );
    assert!(
        seen.to_vec() == wanted,
        "bytes at {offset}, {length} long, are right (seed {seed})"
    );
}

fn check_refused_reads(export: &dyn BlockExport) {
    let properties = export.properties();
    for (offset, length) in bad_ranges(
        properties.size_bytes,
        u64::from(properties.block_size_bytes),
    ) {
        let what = format!("{length} bytes at {offset}");
        if let Ok(short) = u32::try_from(length) {
            expect_out_of_range(&what, export.read(offset, short));
            if let Some(answer) = export.read_cached(offset, short) {
                expect_out_of_range(&what, answer);
            }
        }
        expect_out_of_range(&what, export.extents(offset, length, 8));
    }
}

fn bad_ranges(size: u64, block: u64) -> Vec<(u64, u64)> {
    vec![
        (0, 0),
        (size, 0),
        (size, block),
        (size - block, 2 * block),
        (size + block, block),
        (u64::MAX - block + 1, block),
        (u64::MAX - block + 1, 2 * block),
        (0, u64::MAX - block + 1),
        (1, block),
        (0, block - 1),
        (block / 2, block),
        (block, block + 1),
    ]
}

fn expect_out_of_range<T>(what: &str, answer: Result<T, ExportError>) {
    match answer {
        Err(ExportError::OutOfRange { .. }) => {}
        Err(other) => panic!("{what}: refused as out of range, not with: {other}"),
        Ok(_) => panic!("{what}: refused, not done"),
    }
}

fn expect_read_only(what: &str, answer: Result<(), ExportError>) {
    assert!(
        matches!(answer, Err(ExportError::ReadOnly)),
        "{what} is refused as read-only, not {answer:?}"
    );
}

/// Numbers that are spread well and come again with the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Bytes with stretches of zeroes of many lengths.
    fn sparse(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let step = 512 * (1 + self.below(200)) as usize;
            let step = step.min(length - bytes.len());
            match self.below(2) {
                0 => bytes.resize(bytes.len() + step, 0),
                _ => bytes.extend(self.bytes(step)),
            }
        }
        bytes
    }

    /// A range of whole blocks, mostly short, inside `size`.
    fn range(&mut self, size: u64, block: u64) -> (u64, u64) {
        let blocks = size / block;
        let first = self.below(blocks);
        let longest = if self.below(4) == 0 {
            blocks - first
        } else {
            (blocks - first).min(16)
        };
        (first * block, (1 + self.below(longest)) * block)
    }
}

/// Size of the disks under test: many blocks of any size, and a last one that is short.
const MODEL_BYTES: usize = 8 * 64 * 1024 + 4096;
