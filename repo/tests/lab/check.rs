//! Comparing everything after an end.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use repo::{Image, Overlay, Point, PointName, RepoError, VerifyScope};
use uuid::Uuid;

use crate::content::{CHUNK, Disk, SECTOR, expand};
use crate::model::{ExpiredModel, OverlayModel, PointModel};
use crate::run::{Run, Wrong, chain};

impl Run {
    /// After an opening: what was acknowledged is there, and nothing in part.
    pub(crate) fn check_all(&mut self, power_failed: bool) -> Result<(), Wrong> {
        self.check_points()?;
        if !self.degraded {
            self.check_expired()?;
            self.check_marks()?;
        }
        self.check_overlays(power_failed)?;
        if self.degraded {
            return Ok(());
        }
        self.verify()
    }

    pub(crate) fn verify(&mut self) -> Result<(), Wrong> {
        let before = self.faults();
        let report = self
            .repository()
            .verify(&VerifyScope::All, &mut |_| ControlFlow::Continue(()));
        let Some(report) = self.judge("verify", before, report)? else {
            return Ok(());
        };
        if self.degraded || self.is_excused(before) {
            return Ok(());
        }
        self.judge_rot(&report)?;
        if report.damaged.is_empty() && (report.mendable.is_empty() || self.is_rotten()) {
            return Ok(());
        }
        Err(format!(
            "verify finds damage: {:?} {:?}",
            report.damaged, report.mendable
        ))
    }

    fn check_points(&mut self) -> Result<(), Wrong> {
        let repository = self.repository();
        if !self.degraded
            && let Some(manifest) = repository.damaged_manifests().first()
        {
            return Err(format!("a manifest is damaged: {manifest}"));
        }
        let shown = repository.points(None);
        let names: BTreeSet<PointName> = shown.iter().map(|point| point.name.clone()).collect();
        for point in &shown {
            self.check_shown_point(point)?;
        }
        if self.degraded {
            return Ok(());
        }
        for name in self.model.points.keys() {
            if !names.contains(name) && !self.model.leaving.contains(name) {
                return Err(format!("{name} was acknowledged and is gone"));
            }
        }
        // Those that were leaving have left: whole, so that they can be brought back.
        let left: Vec<PointName> = self.model.points.keys().cloned().collect();
        for name in left.into_iter().filter(|name| !names.contains(name)) {
            if let Some(content) = self.model.points.remove(&name) {
                let expired = ExpiredModel {
                    content,
                    may_be_gone: self.model.met_leaving.contains(&name),
                };
                self.model.expired.insert(name, expired);
            }
        }
        self.model.leaving.clear();
        self.model.met_leaving.clear();
        self.model.maybe.clear();
        Ok(())
    }

    /// Expired points can be brought back, but for those that a collection may have met.
    fn check_expired(&mut self) -> Result<(), Wrong> {
        let shown = self.repository().expired();
        for point in &shown {
            let is_going = self.model.gone.contains(&point.name) && !point.can_be_brought_back;
            if !self.model.expired.contains_key(&point.name) && !is_going {
                return Err(format!("{} is shown as expired, and is not", point.name));
            }
        }
        let can_return: BTreeSet<&PointName> = shown
            .iter()
            .filter(|point| point.can_be_brought_back)
            .map(|point| &point.name)
            .collect();
        let (mut back, mut lost) = (Vec::new(), Vec::new());
        for (name, expired) in &self.model.expired {
            match can_return.contains(name) {
                true => back.push(name.clone()),
                false if expired.may_be_gone => lost.push(name.clone()),
                false => return Err(format!("{name} was expired and cannot be brought back")),
            }
        }
        for name in back {
            if let Some(expired) = self.model.expired.get_mut(&name) {
                expired.may_be_gone = false;
            }
        }
        for name in lost {
            self.model.expired.remove(&name);
            self.model.gone.insert(name);
        }
        Ok(())
    }

    fn check_shown_point(&mut self, point: &Arc<Point>) -> Result<(), Wrong> {
        if let Some(model) = self.model.points.get(&point.name).cloned() {
            return match self.compare_point(point, &model)? {
                None => Ok(()),
                Some(difference) => Err(format!("{} is not what it was: {difference}", point.name)),
            };
        }
        let candidates: Vec<_> = self
            .model
            .maybe
            .iter()
            .filter(|(workload, _)| *workload == point.name.workload)
            .map(|(_, model)| Arc::clone(model))
            .collect();
        for candidate in candidates {
            if self.compare_point(point, &candidate)?.is_none() {
                self.say(format!("{} is there, which was not answered", point.name));
                if !self.model.given.insert(point.name.clone()) {
                    return Err(format!("the number of {} was given before", point.name));
                }
                self.model.points.insert(point.name.clone(), candidate);
                return Ok(());
            }
        }
        Err(format!(
            "{} is there, which was never acknowledged or had ended, and is like nothing that was under way",
            point.name
        ))
    }

    /// Reads a point whole. `Ok(Some(_))` says where it differs.
    pub(crate) fn compare_point(
        &mut self,
        point: &Arc<Point>,
        model: &PointModel,
    ) -> Result<Option<String>, Wrong> {
        self.counts.restores += 1;
        let disks: Vec<(&str, u64)> = point
            .images
            .iter()
            .map(|image| (image.name.as_str(), image.size_bytes))
            .collect();
        let expected: Vec<(&str, u64)> = model
            .disks
            .iter()
            .map(|(name, disk)| (name.as_str(), disk.size_bytes()))
            .collect();
        if disks != expected {
            return Ok(Some(format!("its disks are {disks:?}, not {expected:?}")));
        }
        let before = self.faults();
        let repository = self.repository();
        for (number, (name, disk)) in model.disks.iter().enumerate() {
            let compared = repository
                .image(point, number)
                .and_then(|image| compare_image(&image, disk));
            match compared {
                Ok(None) => {}
                Ok(Some(at)) => return Ok(Some(format!("{name} differs in chunk {at}"))),
                Err(_) if self.degraded || self.reads_are_excused(before) => return Ok(None),
                Err(error) => return Ok(Some(format!("{name} cannot be read: {}", chain(&error)))),
            }
        }
        let streams: Vec<&str> = point
            .streams
            .iter()
            .map(|stream| stream.name.as_str())
            .collect();
        if streams.len() != model.streams.len() {
            return Ok(Some(format!("its streams are {streams:?}")));
        }
        for (name, content) in &model.streams {
            match read_stream(&repository, point, name) {
                Ok(found) if found == **content => {}
                Ok(_) => return Ok(Some(format!("stream {name} differs"))),
                Err(_) if self.degraded || self.reads_are_excused(before) => return Ok(None),
                Err(error) => {
                    return Ok(Some(format!(
                        "stream {name} cannot be read: {}",
                        chain(&error)
                    )));
                }
            }
        }
        Ok(None)
    }

    fn check_overlays(&mut self, power_failed: bool) -> Result<(), Wrong> {
        let repository = self.repository();
        let shown = match repository.overlays() {
            Ok(shown) => shown,
            Err(error) if self.degraded => {
                self.say(chain(&error));
                return Ok(());
            }
            Err(error) => return Err(format!("overlays cannot be listed: {}", chain(&error))),
        };
        let ids: BTreeSet<Uuid> = shown.iter().map(|record| record.id).collect();
        for record in &shown {
            if self.model.overlays.contains_key(&record.id) {
                continue;
            }
            let expected = (record.point.clone(), record.disk);
            let made = self.model.maybe_overlays.contains(&expected);
            let below = self.model.points.get(&record.point);
            match below.filter(|_| made) {
                Some(point) => {
                    let content = point.disks[record.disk].1.clone();
                    let model = OverlayModel::new(record.point.clone(), record.disk, content);
                    self.model.overlays.insert(record.id, model);
                }
                None if self.degraded => {}
                None => return Err(format!("overlay {} was never made or had ended", record.id)),
            }
        }
        for id in self.model.overlays.keys().copied().collect::<Vec<_>>() {
            if !ids.contains(&id) {
                if self.model.ending.remove(&id) {
                    self.model.overlays.remove(&id);
                    continue;
                }
                return Err(format!("overlay {id} is gone"));
            }
            self.check_overlay(id, power_failed)?;
        }
        if !self.degraded {
            self.model.maybe_overlays.clear();
        }
        Ok(())
    }

    fn check_overlay(&mut self, id: Uuid, power_failed: bool) -> Result<(), Wrong> {
        let before = self.faults();
        let overlay = match self.repository().open_overlay(id) {
            Ok(overlay) => overlay,
            Err(_) if self.degraded || self.reads_are_excused(before) => return Ok(()),
            // Its end was not answered, so its point may have been expired meanwhile.
            Err(_) if self.model.ending.contains(&id) => return Ok(()),
            Err(error) => return Err(format!("overlay {id} does not open: {}", chain(&error))),
        };
        self.model.ending.remove(&id);
        let model = self.model.overlays.get_mut(&id).expect("it was just there");
        match compare_overlay(&overlay, model, power_failed) {
            Ok(Ok(found)) => model.settle(found),
            Ok(Err(difference)) => return Err(format!("overlay {id}: {difference}")),
            // It is looked at again when more of the repository is known.
            Err(_) if self.degraded => {
                model.doubt_everything();
                return Ok(());
            }
            Err(error) => {
                return Err(format!("overlay {id} cannot be read: {}", chain(&error)));
            }
        }
        self.overlays.insert(id, overlay);
        Ok(())
    }
}

/// Gives the first chunk in which an image is not like the model.
pub(crate) fn compare_image(image: &Image, model: &Disk) -> Result<Option<u64>, RepoError> {
    for index in model.interesting_chunks() {
        if read_chunk(image, index, model)? != model.chunk(index) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// The bytes of a chunk as far as the disk goes.
pub(crate) fn read_chunk(image: &Image, index: u64, model: &Disk) -> Result<Vec<u8>, RepoError> {
    let length = CHUNK.min(model.size_bytes() - index * CHUNK);
    let mut found = Vec::new();
    image.read(index * CHUNK, length as u32, &mut found)?;
    Ok(concat(&found))
}

/// Compares an overlay with what it may hold; gives what the doubtful sectors hold, or how it differs.
fn compare_overlay(
    overlay: &Overlay,
    model: &OverlayModel,
    power_failed: bool,
) -> Result<Result<Vec<(u64, u64)>, Wrong>, RepoError> {
    let mut now = model.now.clone();
    let mut settled = Vec::new();
    for sector in model.doubtful() {
        let bytes = read_overlay(overlay, sector * SECTOR, SECTOR)?;
        let known = model
            .unflushed
            .get(&sector)
            .into_iter()
            .chain(model.unanswered.get(&sector))
            .flatten()
            .copied()
            .chain([model.now.get(sector)]);
        let fits = |tag: &u64| model.allows(sector, *tag, power_failed) && expand(&[*tag]) == bytes;
        let Some(tag) = known.into_iter().find(fits) else {
            return Ok(Err(format!(
                "sector {sector} starts with {:02x?}, not with {:x} or what may have come in its place",
                &bytes[..8],
                model.now.get(sector)
            )));
        };
        now.set(sector, tag);
        settled.push((sector, tag));
    }
    Ok(match differs(overlay, &now)? {
        None => Ok(settled),
        Some(index) => Err(format!("chunk {index} is not what was acknowledged")),
    })
}

/// The first chunk in which an overlay is not like the model.
pub(crate) fn differs(overlay: &Overlay, model: &Disk) -> Result<Option<u64>, RepoError> {
    for index in model.interesting_chunks() {
        let expected = model.chunk(index);
        if read_overlay(overlay, index * CHUNK, expected.len() as u64)? != expected {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

fn read_overlay(overlay: &Overlay, offset: u64, length: u64) -> Result<Vec<u8>, RepoError> {
    let mut found = Vec::new();
    overlay.read(offset, length as u32, &mut found)?;
    Ok(concat(&found))
}

pub(crate) fn read_stream(
    repository: &repo::Repository,
    point: &Point,
    name: &str,
) -> Result<Vec<u8>, RepoError> {
    let mut reader = repository.stream(point, name)?;
    let mut found = Vec::new();
    while let Some(piece) = reader.next_chunk()? {
        found.extend_from_slice(&piece);
    }
    Ok(found)
}

fn concat(pieces: &[Bytes]) -> Vec<u8> {
    pieces.concat()
}
