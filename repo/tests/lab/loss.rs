//! More of a pack is hurt than can be made good. What suffers is named; everything else stays as it was.
//!
//! This happens in a copy of the world, so that the story itself goes on unhurt.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use repo::clock::Clock;
use repo::disk::{Disk as _, SimulatedDisk};
use repo::{
    CollectOptions, Damage, ImageBase, ImageSpec, PointKind, PointName, RepoError, Repository,
    Rescue, VerifyScope, WorkloadName,
};

use crate::chance::Chance;
use crate::check::{read_chunk, read_stream};
use crate::content::CHUNK;
use crate::lies::Lie;
use crate::model::PointModel;
use crate::rot::{PAGE, PackOnDisk, packs_on};
use crate::run::{Run, Wrong, chain, root};

/// A part of a disk or stream that cannot be read any more: point, name, offset.
type Unreadable = BTreeSet<(PointName, String, u64)>;

impl Run {
    pub(crate) fn lose(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        if self.degraded || self.disk_is_dead() {
            return Ok(());
        }
        let disk = self.disk.fork().kill();
        let packs = packs_on(&disk);
        let at = chance.below(packs.len() as u64) as usize;
        let Some(pack) = packs.get(at) else {
            return Ok(());
        };
        self.counts.losses += 1;
        let harm = Harm::some(pack, chance);
        self.say(format!("in a copy: {harm:?} of {}", pack.path.display()));
        let open_first = chance.one_in(2);
        let index = self.index.crash(chance.next());
        let open = || {
            let disk = Arc::new(disk.clone());
            let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
            Repository::open_with(disk, root(), clock, &index, &self.options)
                .map_err(|error| format!("with a hurt pack it does not open: {}", chain(&error)))
        };
        let repository = if open_first {
            let repository = open()?;
            harm.befall(&disk, pack, chance);
            repository
        } else {
            harm.befall(&disk, pack, chance);
            open()?
        };
        let copy = Copy {
            lie: self.lie,
            points: &self.model.points.clone(),
            repository,
        };
        self.rescue(&disk)?;
        copy.check()
    }

    /// Whoever reads with no repository open gives the same, or says what is missing.
    fn rescue(&self, disk: &SimulatedDisk) -> Result<(), Wrong> {
        let disk = Arc::new(disk.fork());
        let rescue = Rescue::open_on(disk, root(), self.options.secret.as_ref())
            .map_err(|error| format!("nothing can be rescued: {}", chain(&error)))?;
        for (name, model) in &self.model.points {
            let Ok(point) = rescue.point(name) else {
                match self.model.leaving.contains(name) {
                    true => continue,
                    false => return Err(format!("{name} cannot be rescued")),
                }
            };
            for (number, (disk_name, content)) in model.disks.iter().enumerate() {
                let what = format!("{disk_name} of {name}, rescued");
                let mut wrong = None;
                let mut seen = BTreeSet::new();
                let report = rescue
                    .restore_disk(
                        point,
                        number,
                        &mut |offset, bytes| {
                            if content.chunk(offset / CHUNK) != bytes {
                                wrong = Some(offset);
                            }
                            seen.insert(offset / CHUNK);
                            Ok(())
                        },
                        &mut |_| ControlFlow::Continue(()),
                    )
                    .map_err(|error| format!("{what}: {}", chain(&error)))?;
                if let Some(offset) = wrong {
                    return Err(format!("{what}, differs at {offset}"));
                }
                for index in content.interesting_chunks() {
                    let is_zero = content.chunk(index).iter().all(|byte| *byte == 0);
                    let offset = index * CHUNK;
                    let is_named = report.missing.iter().any(|missing| {
                        missing.offset <= offset && offset < missing.offset + missing.length
                    });
                    if !is_zero && !seen.contains(&index) && !is_named {
                        return Err(format!("{what}, lacks {offset}, and nobody says so"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What happens to a pack.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// It is gone, and all that lies beside it.
    Gone,
    /// Bits flip in so many pages from one on, and all over its parity.
    Pages { first: u64, count: u64 },
}

impl Harm {
    fn some(pack: &PackOnDisk, chance: &mut Chance) -> Self {
        let pages = (pack.length_bytes / PAGE).max(1);
        match chance.below(5) {
            0 => Self::Gone,
            1 => Self::Pages {
                first: 0,
                count: pages,
            },
            _ => {
                let first = chance.below(pages);
                let count = (1 + chance.below(20)).min(pages - first);
                Self::Pages { first, count }
            }
        }
    }

    fn befall(self, disk: &SimulatedDisk, pack: &PackOnDisk, chance: &mut Chance) {
        let flip = |path: &Path, first: u64, count: u64, chance: &mut Chance| {
            for page in first..first + count {
                disk.flip_bit(path, page * PAGE + chance.below(PAGE), 3);
            }
        };
        match self {
            Self::Gone => {
                disk.remove(&pack.path).unwrap();
                if let Some(parity) = &pack.parity {
                    disk.remove(&parity.path).unwrap();
                }
            }
            Self::Pages { first, count } => {
                flip(&pack.path, first, count, chance);
                if let Some(parity) = &pack.parity {
                    flip(&parity.path, 0, parity.pages, chance);
                }
            }
        }
    }
}

/// A copy of the world in which something is lost.
struct Copy<'a> {
    lie: Lie,
    points: &'a std::collections::BTreeMap<PointName, Arc<PointModel>>,
    repository: Repository,
}

impl Copy<'_> {
    fn check(&self) -> Result<(), Wrong> {
        let unreadable = self.read()?;
        let report = self
            .repository
            .verify(&VerifyScope::All, &mut |_| ControlFlow::Continue(()))
            .map_err(|error| format!("verify fails over damage: {}", chain(&error)))?;
        let mut damaged = report.damaged;
        if self.lie == Lie::UnnamedLoss {
            damaged.clear();
        }
        let unnamed = unreadable.iter().find(|part| !names(&damaged, part));
        if let Some((name, part, offset)) = unnamed.filter(|_| !report.more_damage) {
            return Err(format!(
                "{part} of {name} cannot be read at {offset}, and verify does not say so: {damaged:?}"
            ));
        }
        self.back_up_again()?;
        match self.collect() {
            // Nobody knows what a map needs that is lost. Once its point is expired, everything else goes on.
            Err(error) if error.is_corrupt() && !unreadable.is_empty() => {
                if !self.expire_hurt(&unreadable)? {
                    return Ok(());
                }
                self.collect()
            }
            other => other,
        }
        .map_err(|error| format!("with a hurt pack nothing is collected: {}", chain(&error)))?;
        match self.read()?.difference(&unreadable).next() {
            None => Ok(()),
            Some((name, part, offset)) => Err(format!(
                "a collection beside a hurt pack took {offset} of {part} of {name}"
            )),
        }
    }

    fn collect(&self) -> Result<(), RepoError> {
        let options = CollectOptions {
            grace: Duration::ZERO,
            reserve_bytes: 0,
            samples: 0,
            ..CollectOptions::default()
        };
        self.repository
            .collect(&options, &mut |_| ControlFlow::Continue(()))
            .map(drop)
    }

    /// Says whether all went: some may be locked or in use.
    fn expire_hurt(&self, unreadable: &Unreadable) -> Result<bool, Wrong> {
        let hurt: BTreeSet<&PointName> = unreadable.iter().map(|(name, _, _)| name).collect();
        for name in hurt {
            match self.repository.expire(name) {
                Err(
                    RepoError::Locked { .. } | RepoError::Starred(_) | RepoError::PointInUse { .. },
                ) => return Ok(false),
                other => other.map_err(|error| format!("expiring {name}: {}", chain(&error)))?,
            }
        }
        Ok(true)
    }

    /// Reads every point, part by part: each is right, or an error that says what is lost.
    fn read(&self) -> Result<Unreadable, Wrong> {
        let mut unreadable = Unreadable::new();
        for (name, model) in self.points {
            let Ok(point) = self.repository.point(name) else {
                continue;
            };
            for (number, (part, content)) in model.disks.iter().enumerate() {
                let image = self.repository.image(&point, number);
                let image = image.map_err(|error| chain(&error))?;
                for index in content.interesting_chunks() {
                    let found = read_chunk(&image, index, content);
                    let found = match found {
                        Err(error) if error.is_corrupt() && self.lie == Lie::ZeroesForLoss => {
                            Ok(vec![0; content.chunk(index).len()])
                        }
                        other => other,
                    };
                    match found {
                        Ok(found) if found == content.chunk(index) => {}
                        Ok(_) => {
                            return Err(format!(
                                "{part} of {name} shows something else in chunk {index}"
                            ));
                        }
                        Err(error) if error.is_corrupt() => {
                            unreadable.insert((name.clone(), part.clone(), index * CHUNK));
                        }
                        Err(error) => {
                            return Err(format!("{part} of {name} fails by {}", chain(&error)));
                        }
                    }
                }
            }
            for (part, content) in &model.streams {
                match read_stream(&self.repository, &point, part) {
                    Ok(found) if found == **content => {}
                    Ok(_) => return Err(format!("{part} of {name} shows something else")),
                    Err(RepoError::Corrupt { .. } | RepoError::ChunkMissing { .. }) => {
                        unreadable.insert((name.clone(), part.clone(), u64::MAX));
                    }
                    Err(error) => {
                        return Err(format!("{part} of {name} fails by {}", chain(&error)));
                    }
                }
            }
        }
        Ok(unreadable)
    }

    /// What is lost is stored again by the next backup that brings it.
    fn back_up_again(&self) -> Result<(), Wrong> {
        let Some((name, content)) = self.points.values().flat_map(|point| &point.disks).next()
        else {
            return Ok(());
        };
        let backed_up = || -> Result<Option<u64>, RepoError> {
            let workload = WorkloadName::parse("again")?;
            let mut backup = self.repository.begin(&workload, PointKind::Full)?;
            let mut writer = backup.image(&ImageSpec {
                name: name.clone(),
                size_bytes: content.size_bytes(),
                base: ImageBase::Nothing,
            })?;
            for index in content.interesting_chunks() {
                writer.write(index * CHUNK, content.chunk(index).into())?;
            }
            backup.finish_image(writer)?;
            let point = backup.commit()?;
            let image = self.repository.image(&point, 0)?;
            crate::check::compare_image(&image, content)
        };
        match backed_up() {
            Ok(None) => Ok(()),
            Ok(Some(index)) => Err(format!("a backup after a loss differs in chunk {index}")),
            Err(error) => Err(format!("a backup after a loss: {}", chain(&error))),
        }
    }
}

/// Whether a list of damages has a part.
fn names(damaged: &[Damage], (point, part, offset): &(PointName, String, u64)) -> bool {
    damaged.iter().any(|damage| {
        let covers = match (damage.offset, damage.length) {
            (Some(start), Some(length)) => {
                *offset == u64::MAX || (start <= *offset && *offset < start + length)
            }
            _ => true,
        };
        damage.point.as_ref() == Some(point) && damage.part.as_ref() == Some(part) && covers
    })
}
