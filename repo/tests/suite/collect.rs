//! Space that is given back: random backups, expiries and collections against plain vectors.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use repo::{
    CollectOptions, CollectPhase, CollectReport, ImageBase, ImageSpec, PointKind, PointName,
    Repository, VerifyScope, WorkloadName,
};

use crate::support::{Mode, fresh_in, noise, read_all};

const CHUNK: usize = 65_536;

#[derive(Debug, Clone)]
enum Step {
    Backup {
        workload: usize,
        over_parent: bool,
        chunks: Vec<Option<u64>>,
        stream: Option<u64>,
        commit: bool,
    },
    Expire(usize),
    Unexpire(usize),
    Collect {
        at_once: bool,
    },
    Reopen {
        without_index: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let content = prop_oneof![2 => Just(None), 5 => (0..9_u64).prop_map(Some)];
    let backup = (
        0..2_usize,
        any::<bool>(),
        prop::collection::vec(content, 1..14),
        prop::option::of(0..4_u64),
        prop::bool::weighted(0.85),
    )
        .prop_map(
            |(workload, over_parent, chunks, stream, commit)| Step::Backup {
                workload,
                over_parent,
                chunks,
                stream,
                commit,
            },
        );
    prop_oneof![
        6 => backup,
        4 => (0..8_usize).prop_map(Step::Expire),
        1 => (0..4_usize).prop_map(Step::Unexpire),
        3 => any::<bool>().prop_map(|at_once| Step::Collect { at_once }),
        1 => any::<bool>().prop_map(|without_index| Step::Reopen { without_index }),
    ]
}

/// What a point holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    disk: Vec<u8>,
    stream: Option<Vec<u8>>,
}

#[derive(Default)]
struct Model {
    points: BTreeMap<PointName, Content>,
    expired: BTreeMap<PointName, Content>,
}

fn name(workload: usize) -> WorkloadName {
    WorkloadName::parse(["web", "mail"][workload]).unwrap()
}

fn at_once() -> CollectOptions {
    CollectOptions {
        grace: Duration::ZERO,
        reserve_bytes: 0,
        ..CollectOptions::default()
    }
}

fn collect(repository: &Repository, options: &CollectOptions) -> CollectReport {
    repository
        .collect(options, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

impl Model {
    fn back_up(&mut self, repository: &Repository, step: &Step) {
        let Step::Backup {
            workload,
            over_parent,
            chunks,
            stream,
            commit,
        } = step
        else {
            return;
        };
        let workload = name(*workload);
        let parent = self
            .points
            .iter()
            .rev()
            .find(|(name, _)| name.workload == workload);
        let mut disk = match parent {
            Some((_, content)) if *over_parent => content.disk.clone(),
            _ => Vec::new(),
        };
        disk.resize(chunks.len() * CHUNK, 0);
        let mut backup = repository.begin(&workload, PointKind::Incremental).unwrap();
        let mut writer = backup
            .image(&ImageSpec {
                name: "disk-0".to_owned(),
                size_bytes: disk.len() as u64,
                base: match over_parent {
                    true => ImageBase::Parent,
                    false => ImageBase::Nothing,
                },
            })
            .unwrap();
        for (number, seed) in chunks.iter().enumerate() {
            let Some(seed) = seed else { continue };
            let bytes = match seed {
                0 => vec![0; CHUNK],
                seed => noise(*seed, CHUNK),
            };
            disk[number * CHUNK..][..CHUNK].copy_from_slice(&bytes);
            writer
                .write((number * CHUNK) as u64, Bytes::from(bytes))
                .unwrap();
        }
        backup.finish_image(writer).unwrap();
        let stream = stream.map(|seed| noise(100 + seed, 150_000));
        if let Some(bytes) = &stream {
            let mut writer = backup.stream("log").unwrap();
            writer.append(bytes).unwrap();
            backup.finish_stream(writer).unwrap();
        }
        if *commit {
            let point = backup.commit().unwrap();
            self.points
                .insert(point.name.clone(), Content { disk, stream });
        }
    }

    fn expire(&mut self, repository: &Repository, which: usize) {
        let Some(name) = self.points.keys().nth(which).cloned() else {
            return;
        };
        repository.expire(&name).unwrap();
        let content = self.points.remove(&name).unwrap();
        self.expired.insert(name, content);
    }

    fn unexpire(&mut self, repository: &Repository, which: usize) {
        let Some(name) = self.expired.keys().nth(which).cloned() else {
            return;
        };
        repository.unexpire(&name).unwrap();
        let content = self.expired.remove(&name).unwrap();
        self.points.insert(name, content);
    }

    /// What was said to be free is what becomes free.
    fn collect(&mut self, repository: &Repository, options: &CollectOptions) {
        let waiting: Vec<_> = self.expired.keys().cloned().collect();
        for name in &waiting {
            repository.unexpire(name).unwrap();
        }
        let estimate = repository.space_of(&waiting).unwrap();
        for name in &waiting {
            repository.expire(name).unwrap();
        }
        let report = collect(repository, options);
        assert_eq!(report.points, waiting.len() as u64);
        assert_eq!(report.dead_bytes, estimate.bytes);
        assert_eq!(report.dead_records, estimate.records);
        assert!(report.hurt_packs.is_empty(), "{report:?}");
        self.expired.clear();
        let audit = repository
            .audit(&mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(audit.is_sound(), "{audit:?}");
    }

    fn check(&self, repository: &Repository) {
        let names: Vec<_> = repository
            .points(None)
            .iter()
            .map(|point| point.name.clone())
            .collect();
        assert_eq!(names, self.points.keys().cloned().collect::<Vec<_>>());
        for (name, content) in &self.points {
            assert!(read_point(repository, name) == *content, "{name} differs");
        }
    }

    /// What is stored in the end is about what a repository has that never held anything else.
    fn check_space(&self, mode: Mode, repository: &Repository) {
        let folder = tempfile::tempdir().unwrap();
        let other = fresh_in(mode, folder.path());
        for (name, content) in &self.points {
            let mut backup = other.begin(&name.workload, PointKind::Full).unwrap();
            let mut writer = backup
                .image(&ImageSpec {
                    name: "disk-0".to_owned(),
                    size_bytes: content.disk.len() as u64,
                    base: ImageBase::Nothing,
                })
                .unwrap();
            writer.write(0, Bytes::from(content.disk.clone())).unwrap();
            backup.finish_image(writer).unwrap();
            if let Some(bytes) = &content.stream {
                let mut writer = backup.stream("log").unwrap();
                writer.append(bytes).unwrap();
                backup.finish_stream(writer).unwrap();
            }
            backup.commit().unwrap();
        }
        other.close().unwrap();
        repository.close().unwrap();
        other.settle_account(&mut || true).unwrap();
        let wanted = other.space_statistics().unwrap().alive_bytes;
        let statistics = repository.space_statistics().unwrap();
        // Map nodes hold places, which compress one way or the other.
        let difference = statistics.alive_bytes.abs_diff(wanted);
        assert!(difference <= wanted / 50, "{statistics:?}, {wanted} wanted");
        let stored = repository.statistics().unwrap();
        // At most two fifths of a pack are dead; each has a page in front and some behind.
        let bound = wanted * 10 / 6 + 40_960 * (stored.packs + 1);
        assert!(
            stored.stored_bytes <= bound,
            "{} bytes in {} packs where {wanted} are alive",
            stored.stored_bytes,
            stored.packs
        );
    }
}

fn read_point(repository: &Repository, name: &PointName) -> Content {
    let point = repository.point(name).unwrap();
    let disk = read_all(&repository.image(&point, 0).unwrap());
    let stream = point.streams.first().map(|stream| {
        let mut bytes = Vec::new();
        let mut reader = repository.stream(&point, &stream.name).unwrap();
        std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
        bytes
    });
    Content { disk, stream }
}

fn reopen(mode: Mode, folder: &Path, repository: Repository, without_index: bool) -> Repository {
    drop(repository);
    if without_index {
        std::fs::remove_dir_all(folder.join("index")).unwrap();
    }
    Repository::open(folder, &mode.options()).unwrap()
}

fn run(mode: Mode, steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let mut repository = fresh_in(mode, folder.path());
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Backup { .. } => model.back_up(&repository, step),
            Step::Expire(which) => model.expire(&repository, *which),
            Step::Unexpire(which) => model.unexpire(&repository, *which),
            Step::Collect { at_once: true } => model.collect(&repository, &at_once()),
            Step::Collect { at_once: false } => {
                model.collect(
                    &repository,
                    &CollectOptions {
                        reserve_bytes: 0,
                        ..CollectOptions::default()
                    },
                );
            }
            Step::Reopen { without_index } => {
                repository = reopen(mode, folder.path(), repository, *without_index);
            }
        }
        model.check(&repository);
    }
    model.collect(&repository, &at_once());
    model.check(&repository);
    model.check_space(mode, &repository);
    let counted = repository.space_statistics().unwrap().alive_bytes;
    let repository = reopen(mode, folder.path(), repository, true);
    repository.settle_account(&mut || true).unwrap();
    assert_eq!(
        repository.space_statistics().unwrap().alive_bytes,
        counted,
        "counting anew gives the same"
    );
    model.check(&repository);
    let report = repository
        .verify(&VerifyScope::All, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(report.is_sound(), "{report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn points_stay_and_space_comes_back(
        encrypted in any::<bool>(),
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let mode = match encrypted {
            true => Mode::Encrypted,
            false => Mode::Plain,
        };
        run(mode, &steps);
    }
}

/// A disk of whole chunks, each of its own noise.
fn back_up_noise(repository: &Repository, workload: usize, seeds: &[u64]) -> PointName {
    let mut model = Model::default();
    model.back_up(
        repository,
        &Step::Backup {
            workload,
            over_parent: false,
            chunks: seeds.iter().map(|seed| Some(*seed)).collect(),
            stream: None,
            commit: true,
        },
    );
    model.points.into_keys().next().unwrap()
}

fn content_of(seeds: &[u64]) -> Vec<u8> {
    seeds.iter().flat_map(|seed| noise(*seed, CHUNK)).collect()
}

#[test]
fn a_backup_that_found_a_chunk_as_its_last_point_went_keeps_it() {
    Mode::each(|mode| {
        let folder = tempfile::tempdir().unwrap();
        let repository = fresh_in(mode, folder.path());
        let first = back_up_noise(&repository, 0, &[1, 2, 3]);
        // The backup finds chunk 2 where it is stored and takes its place for its map.
        let mut backup = repository.begin(&name(1), PointKind::Full).unwrap();
        let mut writer = backup
            .image(&ImageSpec {
                name: "disk-0".to_owned(),
                size_bytes: CHUNK as u64,
                base: ImageBase::Nothing,
            })
            .unwrap();
        writer.write(0, Bytes::from(noise(2, CHUNK))).unwrap();
        backup.finish_image(writer).unwrap();
        // Now its only point goes, and everything is done at once.
        repository.expire(&first).unwrap();
        let report = collect(&repository, &at_once());
        assert_eq!((report.points, report.removed_packs), (1, 0), "{report:?}");
        let point = backup.commit().unwrap().name.clone();
        let stored = repository
            .counters()
            .stored_chunks
            .load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(stored, 3, "the chunk was found, not stored again");
        for _ in 0..2 {
            collect(&repository, &at_once());
            assert!(read_point(&repository, &point).disk == content_of(&[2]));
        }
        assert!(repository.statistics().unwrap().stored_bytes < 4 * CHUNK as u64);
        let repository = reopen(mode, folder.path(), repository, true);
        assert!(read_point(&repository, &point).disk == content_of(&[2]));
    });
}

#[test]
fn a_backup_after_the_condemnation_stores_again() {
    Mode::each(|mode| {
        let folder = tempfile::tempdir().unwrap();
        let repository = fresh_in(mode, folder.path());
        let first = back_up_noise(&repository, 0, &[1, 2, 3]);
        repository.expire(&first).unwrap();
        let with_grace = CollectOptions {
            reserve_bytes: 0,
            ..CollectOptions::default()
        };
        let report = collect(&repository, &with_grace);
        assert!(
            report.condemned_packs > 0 && report.removed_packs == 0,
            "{report:?}"
        );
        let second = back_up_noise(&repository, 1, &[1, 2, 3]);
        let report = collect(&repository, &at_once());
        assert!(
            report.removed_packs > 0 && report.pardoned_packs == 0,
            "{report:?}"
        );
        assert!(read_point(&repository, &second).disk == content_of(&[1, 2, 3]));
    });
}

#[test]
fn what_is_being_read_is_not_taken_away() {
    Mode::each(|mode| {
        let folder = tempfile::tempdir().unwrap();
        let repository = fresh_in(mode, folder.path());
        let name = back_up_noise(&repository, 0, &[1, 2, 3, 4]);
        let image = repository
            .image(&repository.point(&name).unwrap(), 0)
            .unwrap();
        repository.expire(&name).unwrap();
        let report = collect(&repository, &at_once());
        assert_eq!(report.points_in_use, std::slice::from_ref(&name));
        assert!(read_all(&image) == content_of(&[1, 2, 3, 4]));
        assert!(repository.unexpire(&name).is_ok());
        repository.expire(&name).unwrap();
        drop(image);
        let report = collect(&repository, &at_once());
        assert!(
            report.points_in_use.is_empty() && report.removed_packs > 0,
            "{report:?}"
        );
        assert!(repository.unexpire(&name).is_err());
        assert_eq!(repository.statistics().unwrap().packs, 0);
    });
}

#[test]
fn a_collection_can_be_stopped_at_any_moment() {
    Mode::each(|mode| {
        let folder = tempfile::tempdir().unwrap();
        let repository = fresh_in(mode, folder.path());
        let mut expired = Vec::new();
        for turn in 0..6 {
            let seeds: Vec<u64> = (0..12).map(|chunk| turn * 100 + chunk).collect();
            expired.push(back_up_noise(&repository, 0, &seeds));
            repository.close().unwrap();
        }
        let kept = expired.pop().unwrap();
        for name in &expired {
            repository.expire(name).unwrap();
        }
        for allowed in 0.. {
            let mut steps = 0;
            let outcome = repository.collect(&at_once(), &mut |_| {
                steps += 1;
                match steps > allowed {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            assert!(
                read_point(&repository, &kept).disk == content_of(&(500..512).collect::<Vec<_>>())
            );
            if outcome.is_ok() {
                break;
            }
        }
        let statistics = repository.statistics().unwrap();
        assert!(
            statistics.stored_bytes < 14 * CHUNK as u64,
            "{statistics:?}"
        );
    });
}

#[test]
fn nothing_is_freed_while_a_manifest_is_damaged() {
    Mode::each(|mode| {
        let folder = tempfile::tempdir().unwrap();
        let repository = fresh_in(mode, folder.path());
        let first = back_up_noise(&repository, 0, &[1, 2]);
        back_up_noise(&repository, 0, &[3]);
        drop(repository);
        let mut workloads = std::fs::read_dir(folder.path().join("points")).unwrap();
        let web = workloads.next().unwrap().unwrap().path();
        let manifest = web.join("00000000000000000002.00000001");
        let mut text = std::fs::read(&manifest).unwrap();
        text[200] ^= 1;
        std::fs::write(&manifest, text).unwrap();
        let repository = Repository::open(folder.path(), &mode.options()).unwrap();
        repository.expire(&first).unwrap();
        let refused = repository.collect(&at_once(), &mut |_| ControlFlow::Continue(()));
        assert!(matches!(
            refused,
            Err(repo::RepoError::DamagedManifests { count: 1 })
        ));
    });
}

#[test]
fn points_that_come_while_packs_go_are_not_missed() {
    Mode::each(|mode| {
        let folder = tempfile::tempdir().unwrap();
        let repository = fresh_in(mode, folder.path());
        let first = back_up_noise(&repository, 0, &[1, 2, 3]);
        // Its packs hold nothing else.
        let repository = reopen(mode, folder.path(), repository, false);
        back_up_noise(&repository, 1, &[4]);
        repository.expire(&first).unwrap();
        let mut made = Vec::new();
        let report = repository.collect(&at_once(), &mut |progress| {
            // Whenever the account has been told of a point, another one is there already.
            if progress.phase == CollectPhase::Accounting && made.len() < 20 {
                let seed = 100 + made.len() as u64;
                made.push((back_up_noise(&repository, 1, &[seed]), seed));
            }
            ControlFlow::Continue(())
        });
        let report = report.unwrap();
        assert!(report.removed_packs > 0, "{report:?}");
        assert!(made.len() > 1, "{made:?}");
        for (name, seed) in &made {
            assert!(read_point(&repository, name).disk == content_of(&[*seed]));
        }
        let audit = repository.audit(&mut |progress| {
            if progress.done == 0 {
                back_up_noise(&repository, 1, &[1_000]);
            }
            ControlFlow::Continue(())
        });
        assert!(audit.unwrap().is_sound());
    });
}
