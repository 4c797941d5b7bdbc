//! What a backup leaves out: it reads as zeroes, is known to be unknown, and stays so until it is sent.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the disks of these tests are small"
)]

use std::fs::File;
use std::io::Write as _;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use repo::{ImageBase, ImageSpec, Point, PointKind, RepoError, Repository};

use crate::support::{Mode, back_up, fresh_in, noise, read_all, workload};

/// A small disk with an odd end.
const SECTORS: usize = 6 * 128 + 7;
const SIZE: u64 = SECTORS as u64 * 512;

/// What is expected of the newest point.
struct Model {
    disk: Vec<u8>,
    left_out: Vec<bool>,
}

fn ranges(marked: &[bool]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (at, _) in marked.iter().enumerate().filter(|(_, marked)| **marked) {
        let sector = at as u64 * 512..(at as u64 + 1) * 512;
        match ranges.last_mut() {
            Some(last) if last.end == sector.start => last.end = sector.end,
            _ => ranges.push(sector),
        }
    }
    ranges
}

fn sectors(range: &Range<u64>) -> Range<usize> {
    (range.start / 512) as usize..(range.end / 512) as usize
}

fn spec(base: ImageBase) -> ImageSpec {
    ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: SIZE,
        base,
    }
}

impl Model {
    fn new() -> Self {
        Self {
            disk: vec![0; SIZE as usize],
            left_out: vec![false; SECTORS],
        }
    }

    fn put(&mut self, range: &Range<u64>, content: Option<&[u8]>) {
        let place = range.start as usize..range.end as usize;
        match content {
            Some(content) => self.disk[place].copy_from_slice(content),
            None => self.disk[place].fill(0),
        }
        self.left_out[sectors(range)].fill(content.is_none());
    }

    fn check(&self, repository: &Repository, point: &Point) {
        let excluded = repository.excluded(point, 0).unwrap();
        assert_eq!(excluded.ranges(), ranges(&self.left_out));
        let record = point.images[0].excluded.as_ref();
        let total = record.map_or(0, |record| record.total_bytes);
        assert_eq!(total, excluded.total_bytes());
        assert!(read_all(&repository.image(point, 0).unwrap()) == self.disk);
    }
}

/// Some stretches: skipped sectors, sectors, what happens to them.
fn stretches() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    prop::collection::vec((0_usize..150, 1_usize..200, 0_u8..3), 1..10)
}

fn place(stretches: &[(usize, usize, u8)]) -> Vec<(Range<u64>, u8)> {
    let mut at = 0;
    let mut placed = Vec::new();
    for (skip, length, what) in stretches {
        let start = (at + skip).min(SECTORS);
        let end = (start + length).min(SECTORS);
        at = end;
        if start < end {
            placed.push((start as u64 * 512..end as u64 * 512, *what));
        }
    }
    placed
}

/// Calls of a client, in order: bytes, zeroes, and what is left out.
fn by_calls(
    repository: &Repository,
    model: &mut Model,
    calls: &[(Range<u64>, u8)],
    seed: u64,
) -> Arc<Point> {
    let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
    let mut writer = backup.image(&spec(ImageBase::Parent)).unwrap();
    for (range, what) in calls {
        let length = range.end - range.start;
        let content = match what {
            0 => noise(seed ^ range.start, length as usize),
            _ => vec![0; length as usize],
        };
        match what {
            0 => writer
                .write(range.start, Bytes::from(content.clone()))
                .unwrap(),
            1 => writer.write_zeroes(range.start, length).unwrap(),
            _ => writer.exclude(range.start, length).unwrap(),
        }
        model.put(range, (*what < 2).then_some(&content));
    }
    backup.finish_image(writer).unwrap();
    backup.commit().unwrap()
}

/// A file of which some stretches changed and some are left out.
fn by_file(
    repository: &Repository,
    model: &mut Model,
    calls: &[(Range<u64>, u8)],
    seed: u64,
    home: &Path,
) -> Arc<Point> {
    // What nobody asks for is not looked at, but whole chunks are read around what changed.
    let mut file = noise(seed, SIZE as usize);
    let changed: Vec<_> = calls
        .iter()
        .filter(|call| call.1 == 0)
        .map(|call| call.0.clone())
        .collect();
    let left_out: Vec<_> = calls
        .iter()
        .filter(|call| call.1 == 2)
        .map(|call| call.0.clone())
        .collect();
    let mut touched = vec![false; SECTORS];
    for range in &changed {
        let first = range.start - range.start % 65_536;
        let end = range.end.next_multiple_of(65_536).min(SIZE);
        touched[sectors(&(first..end))].fill(true);
    }
    for (number, _) in touched.iter().enumerate().filter(|(_, touched)| !**touched) {
        // A source that differs where nothing is said to have changed is not met: these bytes stay as they are below.
        file[number * 512..(number + 1) * 512].fill(0x77);
    }
    for range in ranges(&touched) {
        let content = file[range.start as usize..range.end as usize].to_vec();
        model.put(&range, Some(&content));
    }
    for range in &left_out {
        model.put(range, None);
    }
    let path = home.join("disk");
    File::create(&path).unwrap().write_all(&file).unwrap();
    let mut backup = repository
        .begin(&workload(), PointKind::Incremental)
        .unwrap();
    let mut writer = backup.image(&spec(ImageBase::Parent)).unwrap();
    let mut go_on = |_| ControlFlow::Continue(());
    let file = File::open(&path).unwrap();
    writer
        .copy_file(&file, &changed, &left_out, &mut go_on)
        .unwrap();
    backup.finish_image(writer).unwrap();
    backup.commit().unwrap()
}

/// An overlay in which chunks are written, kept as a point.
fn by_overlay(repository: &Repository, model: &mut Model, newest: &Point, seed: u64) -> Arc<Point> {
    let overlay = repository.create_overlay(newest, 0).unwrap();
    let number = seed % 6;
    let range = number * 65_536 + 512..number * 65_536 + 1024;
    let content = noise(seed, 512);
    overlay
        .write(range.start, &[Bytes::from(content.clone())], false)
        .unwrap();
    let mut backup = repository.begin(&workload(), PointKind::Sealed).unwrap();
    backup.seal_overlay(&overlay, "disk-0").unwrap();
    let point = backup.commit().unwrap();
    let id = overlay.id();
    drop(overlay);
    repository.discard_overlay(id).unwrap();
    // The guest has seen the rest of the chunk as zeroes: it is what it is from now on.
    let chunk = number * 65_536..(number + 1) * 65_536;
    model.put(&range, Some(&content));
    model.left_out[sectors(&chunk)].fill(false);
    point
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_left_out_is_known_through_all_that_follows(
        rounds in prop::collection::vec((0_u8..4, stretches(), any::<u64>()), 1..7),
    ) {
        for mode in Mode::BOTH {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("repo");
            let mut repository = fresh_in(mode, &path);
            let mut model = Model::new();
            let mut newest = None::<Arc<Point>>;
            for (kind, stretches, seed) in &rounds {
                let calls = place(stretches);
                let point = match (kind, &newest) {
                    (1, _) => by_file(&repository, &mut model, &calls, *seed, home.path()),
                    (2, Some(newest)) => by_overlay(&repository, &mut model, newest, *seed),
                    (3, Some(_)) => {
                        let mut backup = repository.begin(&workload(), PointKind::Incremental).unwrap();
                        backup.keep_image("disk-0").unwrap();
                        backup.commit().unwrap()
                    }
                    _ => by_calls(&repository, &mut model, &calls, *seed),
                };
                model.check(&repository, &point);
                newest = Some(point);
            }
            let newest = newest.unwrap();
            // What was below may go, and all is still known after a restart.
            for old in repository.points(None) {
                if old.name != newest.name {
                    repository.expire(&old.name).unwrap();
                }
            }
            repository.collect(&repo::CollectOptions::default(), &mut |_| ControlFlow::Continue(())).unwrap();
            drop(repository);
            repository = Repository::open(&path, &mode.options()).unwrap();
            model.check(&repository, &repository.point(&newest.name).unwrap());
        }
    }
}

#[test]
fn a_disk_of_another_size_keeps_what_still_fits() {
    let home = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Plain, &home.path().join("repo"));
    let mut model = Model::new();
    by_calls(&repository, &mut model, &[(65_536..SIZE, 2)], 1);
    let smaller = back_up(
        &repository,
        131_072,
        ImageBase::Parent,
        &[(0, vec![1; 512])],
    );
    let excluded = repository.excluded(&smaller, 0).unwrap();
    assert_eq!(excluded.ranges(), std::slice::from_ref(&(65_536..131_072)));
    // Made over nothing, everything is what it is.
    let whole = back_up(
        &repository,
        131_072,
        ImageBase::Nothing,
        &[(0, vec![1; 512])],
    );
    assert!(repository.excluded(&whole, 0).unwrap().is_empty());
    assert!(whole.streams.is_empty() && whole.images[0].excluded.is_none());
}

#[test]
fn what_is_left_out_comes_in_order_like_all_else() {
    let home = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Plain, &home.path().join("repo"));
    let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
    let mut writer = backup.image(&spec(ImageBase::Nothing)).unwrap();
    writer.exclude(4096, 4096).unwrap();
    for (offset, length) in [(0, 512), (4096, 512), (7680, 512), (8192, 100), (SIZE, 512)] {
        let refused = [
            writer.exclude(offset, length),
            writer.write_zeroes(offset, length),
        ];
        for refused in refused {
            assert!(
                matches!(refused, Err(RepoError::BadRange { .. })),
                "{offset} {refused:?}"
            );
        }
    }
    writer.exclude(8192, 512).unwrap();
    backup.finish_image(writer).unwrap();
    let point = backup.commit().unwrap();
    let excluded = repository.excluded(&point, 0).unwrap();
    assert_eq!(excluded.ranges(), std::slice::from_ref(&(4096..8704)));
}
