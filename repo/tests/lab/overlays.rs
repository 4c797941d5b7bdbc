//! Overlays: written to, flushed, sealed, dropped.

use std::sync::Arc;

use bytes::Bytes;
use repo::{Overlay, PointKind, RepoError};
use uuid::Uuid;

use crate::chance::Chance;
use crate::check::differs;
use crate::content::{SECTOR, Tag, expand, fill};
use crate::model::{OverlayModel, PointModel};
use crate::run::{Run, Wrong, chain};

impl Run {
    pub(crate) fn make_overlay(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let Some(name) = self.some_point(chance) else {
            return Ok(());
        };
        let Ok(point) = self.repository().point(&name) else {
            return Ok(());
        };
        if self.model.overlays.len() >= 3 || self.model.leaving.contains(&name) {
            return Ok(());
        }
        let disk = chance.below(point.images.len() as u64) as usize;
        let before = self.faults();
        let made = self.repository().create_overlay(&point, disk);
        match self.judge(&format!("making an overlay over {name}"), before, made)? {
            None => self.model.maybe_overlays.push((name, disk)),
            Some(overlay) => {
                self.say(format!(
                    "overlay {} over disk {disk} of {name}",
                    overlay.id()
                ));
                let content = self.model.points[&name].disks[disk].1.clone();
                let model = OverlayModel::new(name, disk, content);
                self.model.overlays.insert(overlay.id(), model);
                self.overlays.insert(overlay.id(), overlay);
            }
        }
        Ok(())
    }

    pub(crate) fn write_overlay(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let Some((overlay, id)) = self.some_overlay(chance) else {
            return Ok(());
        };
        let model = self.overlay_model(id);
        let (sector, count) = range(model.now.sectors(), chance);
        let tags = fill(count, &model.now.clone(), chance);
        let bytes = expand(&tags);
        let cut = chance.of(&[512, 1000, 70_000]);
        let pieces: Vec<Bytes> = bytes.chunks(cut).map(Bytes::copy_from_slice).collect();
        let stable = chance.one_in(4);
        let quick = !stable && chance.one_in(2);
        self.change(id, sector, &tags, stable, || {
            if quick && let Some(answer) = overlay.try_write(sector * SECTOR, &pieces) {
                return answer;
            }
            overlay.write(sector * SECTOR, &pieces, stable)
        })
    }

    pub(crate) fn clear_overlay(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let Some((overlay, id)) = self.some_overlay(chance) else {
            return Ok(());
        };
        let (sector, count) = range(self.overlay_model(id).now.sectors(), chance);
        let (offset, length) = (sector * SECTOR, count * SECTOR);
        let stable = chance.one_in(4);
        let kind = chance.below(3);
        let zeroes = vec![0; count as usize];
        self.change(id, sector, &zeroes, stable, || match kind {
            0 => overlay.discard(offset, length, stable),
            kind => overlay.write_zeroes(offset, length, kind == 1, stable),
        })
    }

    fn change(
        &mut self,
        id: Uuid,
        sector: u64,
        tags: &[Tag],
        stable: bool,
        call: impl FnOnce() -> Result<(), RepoError>,
    ) -> Result<(), Wrong> {
        let before = self.faults();
        self.overlay_model(id).begin(sector, tags);
        let what = format!(
            "changing {} sectors at {sector} of overlay {id}",
            tags.len()
        );
        let answer = call();
        if self.judge(&what, before, answer)?.is_some() {
            self.say(format!("{what}{}", if stable { ", stable" } else { "" }));
            let model = self.overlay_model(id);
            model.answered(sector, tags);
            if stable {
                model.flushed();
            }
        }
        Ok(())
    }

    pub(crate) fn flush_overlay(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let Some((overlay, id)) = self.some_overlay(chance) else {
            return Ok(());
        };
        let before = self.faults();
        if self
            .judge("flushing an overlay", before, overlay.flush())?
            .is_some()
        {
            self.say(format!("overlay {id} is flushed"));
            self.overlay_model(id).flushed();
        }
        let now = self.overlay_model(id).now.clone();
        match differs(&overlay, &now) {
            Ok(None) => Ok(()),
            Ok(Some(index)) => Err(format!(
                "overlay {id} shows something else in chunk {index}"
            )),
            Err(_) if self.reads_are_excused(before) => Ok(()),
            Err(error) => Err(format!("overlay {id} cannot be read: {}", chain(&error))),
        }
    }

    pub(crate) fn checkpoint_overlay(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let Some((overlay, _)) = self.some_overlay(chance) else {
            return Ok(());
        };
        let before = self.faults();
        self.judge("a checkpoint", before, overlay.checkpoint())
            .map(drop)
    }

    pub(crate) fn seal_overlay(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        let Some((overlay, id)) = self.some_overlay(chance) else {
            return Ok(());
        };
        let model = self.overlay_model(id).clone();
        if !model.unanswered.is_empty() {
            return Ok(());
        }
        let name = self.model.points[&model.point].disks[model.disk].0.clone();
        let workload = model.point.workload.clone();
        let before = self.faults();
        let sealed = self
            .repository()
            .begin(&workload, PointKind::Sealed)
            .and_then(|mut backup| {
                backup.seal_overlay(&overlay, &name)?;
                Ok(backup)
            });
        let what = format!("sealing overlay {id}");
        let point = Arc::new(PointModel {
            disks: vec![(name, model.now)],
            streams: Vec::new(),
        });
        let Some(backup) = self.judge(&what, before, sealed)? else {
            overlay.thaw();
            return Ok(());
        };
        let committed = backup.commit();
        let Some(made) = self.judge(&what, before, committed)? else {
            self.model.maybe.push((workload, point));
            overlay.thaw();
            return Ok(());
        };
        self.acknowledge(&made.name, point)?;
        self.say(format!("overlay {id} is sealed as {}", made.name));
        self.overlay_model(id).flushed();
        self.drop_overlay(id)
    }

    pub(crate) fn discard_overlay(&mut self, chance: &mut Chance) -> Result<(), Wrong> {
        match self.some_overlay(chance) {
            Some((_, id)) => self.drop_overlay(id),
            None => Ok(()),
        }
    }

    fn drop_overlay(&mut self, id: Uuid) -> Result<(), Wrong> {
        let before = self.faults();
        let dropped = self.repository().discard_overlay(id);
        self.overlays.remove(&id);
        match self.judge(&format!("dropping overlay {id}"), before, dropped)? {
            None => drop(self.model.ending.insert(id)),
            Some(()) => {
                self.say(format!("overlay {id} is dropped"));
                self.model.overlays.remove(&id);
                self.model.ending.remove(&id);
            }
        }
        Ok(())
    }

    fn overlay_model(&mut self, id: Uuid) -> &mut OverlayModel {
        self.model
            .overlays
            .get_mut(&id)
            .expect("open ones are known")
    }

    /// One of the open overlays. They are taken by what they lie over, since their names differ from run to run.
    fn some_overlay(&mut self, chance: &mut Chance) -> Option<(Arc<Overlay>, Uuid)> {
        let mut ids: Vec<Uuid> = self
            .overlays
            .keys()
            .copied()
            .filter(|id| !self.model.ending.contains(id))
            .collect();
        ids.sort_by_key(|id| {
            let model = &self.model.overlays[id];
            (
                model.point.clone(),
                model.disk,
                self.overlays[id].statistics().written_bytes,
            )
        });
        let at = chance.below(ids.len() as u64) as usize;
        let id = *ids.get(at)?;
        Some((Arc::clone(&self.overlays[&id]), id))
    }
}

fn range(sectors: u64, chance: &mut Chance) -> (u64, u64) {
    // Large disks are written to in a few places, so that writes meet.
    let span = chance.of(&[sectors, sectors.min(300)]);
    let first = chance.below(span);
    let wanted = chance.of(&[1, 1, 8, 8, 40, 128, 300]);
    (first, wanted.min(sectors - first))
}
