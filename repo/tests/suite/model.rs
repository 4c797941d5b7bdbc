//! Random backups, expiries and reopenings against plain vectors.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use repo::{ImageBase, ImageSpec, PointKind, PointName, Repository};

use crate::support::{Mode, fresh_in, noise, read, read_all, workload};

#[derive(Debug, Clone)]
enum Step {
    Backup {
        sectors: u64,
        over_parent: bool,
        writes: Vec<Write>,
    },
    Expire {
        which: usize,
    },
    Reopen {
        without_index: bool,
    },
}

#[derive(Debug, Clone)]
struct Write {
    gap_sectors: u64,
    sectors: u64,
    /// 0 writes zeroes; small numbers repeat, so that chunks are found again.
    content: u64,
}

fn write() -> impl Strategy<Value = Write> {
    (0..600_u64, 1..700_u64, 0..6_u64).prop_map(|(gap_sectors, sectors, content)| Write {
        gap_sectors,
        sectors,
        content,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let backup = (
        1..6000_u64,
        any::<bool>(),
        prop::collection::vec(write(), 0..8),
    )
        .prop_map(|(sectors, over_parent, writes)| Step::Backup {
            sectors,
            over_parent,
            writes,
        });
    prop_oneof![
        6 => backup,
        1 => (0..10_usize).prop_map(|which| Step::Expire { which }),
        2 => any::<bool>().prop_map(|without_index| Step::Reopen { without_index }),
    ]
}

#[derive(Default)]
struct Model {
    points: BTreeMap<PointName, Vec<u8>>,
}

impl Model {
    fn back_up(
        &mut self,
        repository: &Repository,
        sectors: u64,
        base: ImageBase,
        writes: &[Write],
    ) {
        let size = usize::try_from(sectors * 512).unwrap();
        let mut disk = match (base, self.points.last_key_value()) {
            (ImageBase::Parent, Some((_, parent))) => parent.clone(),
            _ => Vec::new(),
        };
        disk.resize(size, 0);
        let mut backup = repository
            .begin(&workload(), PointKind::Incremental)
            .unwrap();
        let spec = ImageSpec {
            name: "disk-0".to_owned(),
            size_bytes: size as u64,
            base,
        };
        let mut writer = backup.image(&spec).unwrap();
        let mut at = 0;
        for write in writes {
            at += write.gap_sectors * 512;
            let length = (write.sectors * 512).min((size as u64).saturating_sub(at));
            if length == 0 {
                break;
            }
            let range = usize::try_from(at).unwrap()..usize::try_from(at + length).unwrap();
            if write.content == 0 {
                writer.write_zeroes(at, length).unwrap();
                disk[range].fill(0);
            } else {
                let bytes = noise(write.content, range.len());
                disk[range].copy_from_slice(&bytes);
                writer.write(at, Bytes::from(bytes)).unwrap();
            }
            at += length;
        }
        backup.finish_image(writer).unwrap();
        let point = backup.commit().unwrap();
        self.points.insert(point.name.clone(), disk);
    }

    fn expire(&mut self, repository: &Repository, which: usize) {
        let Some(name) = self.points.keys().nth(which).cloned() else {
            return;
        };
        repository.expire(&name).unwrap();
        self.points.remove(&name);
    }

    fn check(&self, repository: &Repository) {
        let names: Vec<_> = repository
            .points(None)
            .iter()
            .map(|point| point.name.clone())
            .collect();
        assert_eq!(names, self.points.keys().cloned().collect::<Vec<_>>());
        for (name, disk) in &self.points {
            let image = repository
                .image(&repository.point(name).unwrap(), 0)
                .unwrap();
            assert!(read_all(&image) == *disk, "{name} differs");
            let mut rebuilt = vec![0; disk.len()];
            image
                .restore(0..image.size_bytes(), &mut |offset, bytes| {
                    rebuilt[usize::try_from(offset).unwrap()..][..bytes.len()]
                        .copy_from_slice(bytes);
                    Ok(())
                })
                .unwrap();
            assert!(rebuilt == *disk, "{name} is restored differently");
            check_extents(&image, disk);
        }
    }
}

/// What is called zero is zero.
fn check_extents(image: &repo::Image, disk: &[u8]) {
    let mut at = 0;
    for extent in image.extents(0, image.size_bytes(), usize::MAX).unwrap() {
        let end = at + usize::try_from(extent.length).unwrap();
        assert!(
            extent.data || disk[at..end].iter().all(|byte| *byte == 0),
            "{at}..{end}"
        );
        at = end;
    }
    assert_eq!(at, disk.len());
    let tail = disk.len().saturating_sub(512);
    assert_eq!(read(image, tail as u64, disk.len() - tail), disk[tail..]);
}

fn run(steps: &[Step], mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let mut repository = fresh_in(mode, folder.path());
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Backup {
                sectors,
                over_parent,
                writes,
            } => {
                let base = if *over_parent {
                    ImageBase::Parent
                } else {
                    ImageBase::Nothing
                };
                model.back_up(&repository, *sectors, base, writes);
            }
            Step::Expire { which } => model.expire(&repository, *which),
            Step::Reopen { without_index } => {
                drop(repository);
                repository = reopen(folder.path(), *without_index, mode);
                model.check(&repository);
            }
        }
    }
    model.check(&repository);
    let report = repository
        .verify(&repo::VerifyScope::All, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert!(report.is_sound(), "{report:?}");
}

fn reopen(folder: &Path, without_index: bool, mode: Mode) -> Repository {
    if without_index {
        std::fs::remove_dir_all(folder.join("index")).unwrap();
    }
    Repository::open(folder, &mode.options()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn points_stay_what_they_were(steps in prop::collection::vec(step(), 1..14)) {
        for mode in Mode::BOTH {
            run(&steps, mode);
        }
    }
}
