//! Backups, one after the other and several at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use repo::{
    Backup, ImageBase, ImageSpec, ImageWriter, PointKind, PointName, RepoError, StreamWriter,
    WorkloadName,
};

use crate::chance::Chance;
use crate::content::{CHUNK, Disk, SECTOR, expand, fill};
use crate::model::PointModel;
use crate::run::{Run, Wrong};

/// A backup under way.
pub(crate) struct OpenBackup {
    backup: Backup,
    workload: WorkloadName,
    /// The newest point when it began, if something builds on it.
    must_follow: Option<PointName>,
    disks: Vec<OpenDisk>,
    stream: Option<(StreamWriter, Vec<u8>)>,
    model: PointModel,
    /// Faults that had hit when it began.
    faults_before: u64,
}

struct OpenDisk {
    name: String,
    writer: ImageWriter,
    content: Disk,
}

impl Run {
    /// A backup from begin to commit.
    pub(crate) fn backup(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let open = self.backups.len();
        self.begin_backup(chance)?;
        if self.backups.len() == open {
            return Ok(());
        }
        self.advance(open, chance)?;
        if self.backups.len() == open {
            return Ok(());
        }
        self.commit(open)
    }

    pub(crate) fn begin_backup(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        if self.backups.len() >= 3 {
            return Ok(());
        }
        let workload = WorkloadName::parse(chance.of(&["web", "web", "db"])).unwrap();
        let before = self.faults();
        let begun = self.begin(&workload, chance);
        let what = format!("beginning a backup of {workload}");
        if let Some(open) = self.judge(&what, before, begun)? {
            self.backups.push(open);
        }
        Ok(())
    }

    pub(crate) fn continue_backup(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        match self.backups.len() {
            0 => Ok(()),
            count => self.advance(chance.below(count as u64) as usize, chance),
        }
    }

    pub(crate) fn commit_backup(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        match self.backups.len() {
            0 => Ok(()),
            count => self.commit(chance.below(count as u64) as usize),
        }
    }

    fn begin(
        &mut self,
        workload: &WorkloadName,
        chance: &mut Chance,
    ) -> Result<OpenBackup, RepoError> {
        let faults_before = self.faults();
        let full = chance.one_in(4);
        let kind = if full {
            PointKind::Full
        } else {
            PointKind::Incremental
        };
        let mut backup = self.repository().begin(workload, kind)?;
        let parent = backup.parent().map(|parent| parent.name.clone());
        let below = parent
            .as_ref()
            .and_then(|parent| self.model.points.get(parent))
            .cloned();
        let mut open = OpenBackup {
            workload: workload.clone(),
            must_follow: None,
            disks: Vec::new(),
            stream: None,
            model: PointModel::default(),
            faults_before,
            backup: {
                backup.set_configuration(serde_json::json!({ "seed": chance.next() }));
                backup
            },
        };
        for number in 0..1 + chance.below(3) {
            let name = format!("disk-{number}");
            let old = below
                .iter()
                .flat_map(|below| &below.disks)
                .find(|(known, _)| *known == name)
                .map(|(_, disk)| disk);
            if let Some(old) = old.filter(|_| chance.one_in(6)) {
                open.backup.keep_image(&name)?;
                open.model.disks.push((name, old.clone()));
                open.must_follow.clone_from(&parent);
                continue;
            }
            let size_bytes = match old {
                Some(old) if !chance.one_in(8) => old.size_bytes(),
                _ => chance.of(SIZES),
            };
            let (base, content) = match old.filter(|_| !full) {
                Some(old) => {
                    open.must_follow.clone_from(&parent);
                    let mut content = old.clone();
                    content.resize(size_bytes);
                    (ImageBase::Parent, content)
                }
                None if full => (ImageBase::Nothing, Disk::zeroes(size_bytes)),
                None => (ImageBase::Parent, Disk::zeroes(size_bytes)),
            };
            let writer = open.backup.image(&ImageSpec {
                name: name.clone(),
                size_bytes,
                base,
            })?;
            open.disks.push(OpenDisk {
                name,
                writer,
                content,
            });
        }
        if chance.one_in(3) {
            open.stream = Some((open.backup.stream("stream-0")?, Vec::new()));
        }
        Ok(open)
    }

    /// Writes more of an open backup; one that fails is dropped.
    fn advance(&mut self, number: usize, chance: &mut Chance) -> Result<(), Wrong> {
        let mut open = self.backups.remove(number);
        let before = open.faults_before;
        let written = open.advance(chance);
        let what = format!("writing a backup of {}", open.workload);
        if self.judge(&what, before, written)?.is_some() {
            self.backups.insert(number, open);
        }
        Ok(())
    }

    fn commit(&mut self, number: usize) -> Result<(), Wrong> {
        let open = self.backups.remove(number);
        let (workload, before) = (open.workload.clone(), open.faults_before);
        let what = format!("committing a backup of {workload}");
        let must_follow = open.must_follow.clone();
        let Some((backup, model)) = self.judge(&what, before, open.finish())? else {
            return Ok(());
        };
        let overtaken =
            must_follow.is_some() && must_follow.as_ref() != self.model.latest(&workload);
        let committed = backup.commit();
        if overtaken && matches!(committed, Err(RepoError::Overtaken(_))) {
            self.say(format!("{what}: overtaken"));
            return Ok(());
        }
        let model = Arc::new(model);
        let Some(point) = self.judge(&what, before, committed)? else {
            self.model.maybe.push((workload, model));
            return Ok(());
        };
        if overtaken && self.model.leaving.is_empty() {
            return Err(format!(
                "{} was made over a point that is not the newest",
                point.name
            ));
        }
        self.acknowledge(&point.name, model)?;
        self.say(format!("{} is committed", point.name));
        Ok(())
    }

    pub(crate) fn acknowledge(
        &mut self,
        name: &PointName,
        model: Arc<PointModel>,
    ) -> Result<(), Wrong> {
        self.counts.points += 1;
        if !self.model.given.insert(name.clone()) {
            return Err(format!("the number of {name} was given before"));
        }
        self.model.points.insert(name.clone(), model);
        Ok(())
    }

    pub(crate) fn read_some_point(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let Some(name) = self.some_point(chance) else {
            return Ok(());
        };
        let point = match self.repository().point(&name) {
            Ok(point) => point,
            Err(_) if self.degraded || self.model.leaving.contains(&name) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let model = Arc::clone(&self.model.points[&name]);
        match self.compare_point(&point, &model)? {
            None => Ok(()),
            Some(difference) => Err(format!("{name} is not what it was: {difference}")),
        }
    }

    pub(crate) fn some_point(&self, chance: &mut Chance) -> Option<PointName> {
        let names: BTreeSet<&PointName> = self.model.points.keys().collect();
        let at = chance.below(names.len() as u64) as usize;
        names.into_iter().nth(at).cloned()
    }
}

impl OpenBackup {
    fn advance(&mut self, chance: &mut Chance) -> Result<(), RepoError> {
        for disk in &mut self.disks {
            for _ in 0..chance.below(4) {
                disk.write(chance)?;
            }
        }
        if let Some((writer, content)) = &mut self.stream {
            let length = chance.of(&[0, 1, 700, 20_000, 150_000]);
            let tags = fill(length / SECTOR + 1, &Disk::zeroes(SECTOR), chance);
            let mut bytes = expand(&tags);
            bytes.truncate(length as usize);
            writer.append(&bytes)?;
            content.extend_from_slice(&bytes);
        }
        Ok(())
    }

    /// Everything but the commit.
    fn finish(mut self) -> Result<(Backup, PointModel), RepoError> {
        for disk in self.disks {
            self.backup.finish_image(disk.writer)?;
            self.model.disks.push((disk.name, disk.content));
        }
        if let Some((writer, content)) = self.stream {
            self.backup.finish_stream(writer)?;
            self.model
                .streams
                .push(("stream-0".to_owned(), Arc::new(content)));
        }
        Ok((self.backup, self.model))
    }
}

impl OpenDisk {
    /// Writes or zeroes the next range.
    fn write(&mut self, chance: &mut Chance) -> Result<(), RepoError> {
        let sectors = self.content.sectors();
        let at = self.writer.position().div_ceil(SECTOR);
        let gap = match chance.below(4) {
            0 => 0,
            1 => chance.below(300),
            2 => (CHUNK / SECTOR) - at % (CHUNK / SECTOR),
            _ => chance.below(sectors - at + 1),
        };
        let first = at + gap;
        if first >= sectors {
            return Ok(());
        }
        let wanted = chance.of(&[1, 7, 60, 128, 200, 400]);
        let count = wanted.min(sectors - first);
        if chance.one_in(6) {
            for sector in first..first + count {
                self.content.set(sector, 0);
            }
            return self.writer.write_zeroes(first * SECTOR, count * SECTOR);
        }
        let tags = fill(count, &self.content, chance);
        for (sector, tag) in (first..).zip(&tags) {
            self.content.set(sector, *tag);
        }
        self.writer
            .write(first * SECTOR, Bytes::from(expand(&tags)))
    }
}

/// Sizes of disks: less than a chunk, one, some, and with two levels of map.
const SIZES: &[u64] = &[
    SECTOR,
    CHUNK - SECTOR,
    CHUNK,
    CHUNK + SECTOR,
    3 * CHUNK,
    4 * CHUNK + 10 * SECTOR,
    7 * CHUNK,
    1_030 * CHUNK + SECTOR,
];
