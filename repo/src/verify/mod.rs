//! Reads everything back and compares it with its names.
//!
//! Packs are read one after the other as they lie, every record proven; then each map is walked, each node once, to
//! see that all it points to is there. What is hurt is rebuilt from parity, if that is wanted; what cannot be is named
//! with the points, disks and extents that suffer.

mod care;
mod pace;
mod packs;
mod survey;
mod walk;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

pub use care::Repair;
pub(crate) use care::look_after;
use pace::Pace;

use crate::catalog::{Point, PointName};
use crate::clock::UnixNanoseconds;
use crate::error::RepoError;
use crate::health::Care;
use crate::repository::Repository;

/// What to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyScope {
    /// Every pack and every point.
    All,
    /// What one point needs.
    Point(PointName),
    /// So many packs, those that were proven longest ago, or never.
    Oldest {
        /// How many.
        packs: u64,
    },
    /// One pack in so many, chosen in the same way.
    OneIn {
        /// In how many.
        parts: u64,
    },
    /// No pack: which points suffer from what is known to be lost.
    Lost,
}

/// How to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyOptions {
    /// What.
    pub scope: VerifyScope,
    /// Bytes of packs to read in a second at most.
    pub rate: Option<u64>,
    /// What is done about what is found.
    pub repair: Repair,
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VerifyProgress {
    /// Bytes of packs read.
    pub read_bytes: u64,
    /// Bytes of packs to read, as far as is known.
    pub total_bytes: u64,
    /// Points whose maps were walked.
    pub points: u64,
}

/// What a verification found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// Points whose maps were walked.
    pub points: u64,
    /// Disks of these.
    pub images: u64,
    /// Streams of these.
    pub streams: u64,
    /// Packs read.
    pub packs: u64,
    /// Records proven.
    pub records: u64,
    /// Bytes of packs read.
    pub read_bytes: u64,
    /// Records that nothing could rebuild.
    pub lost_records: u64,
    /// Hurt records that were stored again in another pack, where they are read.
    pub replaced_records: u64,
    /// Damaged packs that were mended from their parity, as sentences.
    pub mended: Vec<String>,
    /// Pages that were written back for that.
    pub mended_pages: u64,
    /// Damaged packs that can be mended, or are for each read, and were not.
    pub mendable: Vec<String>,
    /// Packs that got parity, for the first time or again.
    pub parity_made: u64,
    /// What is hurt and cannot be rebuilt. Empty means that nothing is lost.
    pub damaged: Vec<Damage>,
    /// Damage was found beyond what is listed.
    pub more_damage: bool,
}

/// One hurt thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What is hurt and how that shows.
    pub what: String,
    /// The point that suffers, if one does.
    pub point: Option<PointName>,
    /// Its disk or stream.
    pub part: Option<String>,
    /// Where on it the hurt stretch starts.
    pub offset: Option<u64>,
    /// How long it is.
    pub length: Option<u64>,
}

impl Damage {
    /// Takes in what lies just behind it on the same disk.
    fn extend(&mut self, next: &Self) -> bool {
        let end = self
            .offset
            .zip(self.length)
            .map(|(offset, length)| offset + length);
        let same = self.point.is_some() && self.point == next.point && self.part == next.part;
        if !same || end.is_none() || end != next.offset {
            return false;
        }
        self.length = self
            .length
            .zip(next.length)
            .map(|(here, there)| here + there);
        true
    }
}

impl VerifyReport {
    /// Whether nothing is hurt, or all that was hurt is mended.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.mendable.is_empty()
    }

    fn note(&mut self, damage: Damage) {
        // Neighbouring stretches of one disk are one.
        if let Some(last) = self.damaged.last_mut()
            && last.extend(&damage)
        {
            return;
        }
        if self.damaged.len() < DAMAGES_MAX {
            self.damaged.push(damage);
        } else {
            self.more_damage = true;
        }
    }
}

impl Repository {
    /// Proves what is stored, and changes nothing. `progress` is called now and then and may stop the work.
    ///
    /// # Errors
    /// If it was stopped, the point is not there, or the storage cannot be used at all. Damage is no error: it stands
    /// in the report.
    pub fn verify(
        &self,
        scope: &VerifyScope,
        progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport, RepoError> {
        let options = VerifyOptions {
            scope: scope.clone(),
            rate: None,
            repair: Repair::No,
        };
        self.verify_with(&options, progress)
    }

    /// Proves what is stored, at a rate, and repairs what is hurt if that is wanted.
    ///
    /// # Errors
    /// As for [`verify`](Self::verify).
    pub fn verify_with(
        &self,
        options: &VerifyOptions,
        progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport, RepoError> {
        let VerifyOptions {
            scope,
            rate,
            repair,
        } = options;
        let mut report = VerifyReport::default();
        let stop = AtomicBool::new(false);
        let pace = Pace::new(*rate, &stop);
        let store = self.store();
        store.packs().sync_all()?;
        let packs = packs::choose_packs(store, scope);
        let mut lost = packs::prove_packs(store, &packs, *repair, &pace, &mut report, progress)?;
        let (points, reading) = match scope {
            VerifyScope::All => {
                for what in self.damaged_manifests() {
                    report.note(Damage {
                        what,
                        point: None,
                        part: None,
                        offset: None,
                        length: None,
                    });
                }
                (self.points(None), walk::Reading::MapsOnly { hurt: &lost })
            }
            VerifyScope::Point(name) => (vec![self.point(name)?], walk::Reading::Everything),
            VerifyScope::Lost => {
                lost = store.health().lost_places();
                (self.points(None), walk::Reading::MapsOnly { hurt: &lost })
            }
            // Maps are walked only to say who suffers.
            _ if lost.is_empty() => (Vec::new(), walk::Reading::Everything),
            _ => (self.points(None), walk::Reading::MapsOnly { hurt: &lost }),
        };
        let mut walk = walk::Walk::new(store, reading);
        for point in points {
            let hurt_before = report.damaged.len();
            // Kept while it is walked; one that was expired meanwhile is no longer asked for.
            let Ok(_reading) = self.read_point(&point.name) else {
                continue;
            };
            walk.point(&point, &mut report)?;
            report.points += 1;
            if matches!(scope, VerifyScope::All | VerifyScope::Point(_))
                && hurt_before == report.damaged.len()
                && !report.more_damage
            {
                store
                    .health()
                    .set_walked(&point.name.to_string(), self.clock().now());
            }
            let read_bytes = report.read_bytes;
            step(progress, &report, read_bytes, 0)?;
        }
        if *repair == Repair::Yes {
            let open = store.packs().summaries().into_iter();
            for (number, _) in open.filter(|(_, summary)| !summary.sealed) {
                store.health().want_care(number, Care::Parity);
            }
            // Packs that a read of a map found hurt, and those that others asked for.
            while let Some((number, care)) = store.health().take_care() {
                // What was read whole just now has got what can be done.
                if care == Care::Mend && packs.contains(&number) {
                    continue;
                }
                if let Some(examined) = care::care_for(store, number, care, &pace)? {
                    packs::tell(examined, &mut report, &mut HashSet::new());
                }
            }
        }
        store.health().flush();
        Ok(report)
    }

    /// When what a point needs was last proven whole: by a verification of it or of everything, or because every
    /// pack was proven since.
    pub fn proven(&self, point: &Point) -> Option<UnixNanoseconds> {
        let walked = self.store().health().walked(&point.name.to_string());
        walked.max(self.proofs().oldest)
    }

    /// When packs were last proven.
    pub fn proofs(&self) -> Proofs {
        let mut packs = self.store().packs().summaries();
        packs.retain(|(_, summary)| summary.sealed);
        let mut proofs = Proofs {
            packs: packs.len() as u64,
            ..Proofs::default()
        };
        let mut oldest = None;
        for (number, _) in packs {
            match self.store().health().proof(number) {
                Some(proof) => {
                    oldest =
                        Some(oldest.map_or(proof, |oldest: UnixNanoseconds| oldest.min(proof)));
                }
                None => proofs.never += 1,
            }
        }
        proofs.oldest_known = oldest;
        proofs.oldest = oldest.filter(|_| proofs.never == 0);
        proofs.lost_records = self.store().health().lost_count();
        proofs
    }

    /// How many packs were read whole at a moment or later, and proven or found hurt. What is said to have been in the future
    /// was noted by a wrong clock and does not count.
    pub fn examined_since(&self, since: UnixNanoseconds) -> u64 {
        let packs = self.store().packs().summaries();
        let health = self.store().health();
        let now = self.clock().now();
        let recent = packs
            .iter()
            .filter(|(number, _)| health.examined(*number, now) >= Some(since));
        recent.count() as u64
    }
}

/// When packs were last proven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Proofs {
    /// Packs there are, without those still open.
    pub packs: u64,
    /// Packs that were never proven, as far as is remembered.
    pub never: u64,
    /// The oldest of the last proofs of all packs; none if one was never proven.
    pub oldest: Option<UnixNanoseconds>,
    /// The oldest of those there are.
    pub oldest_known: Option<UnixNanoseconds>,
    /// Records known to be lost, or to have been until they were stored again.
    pub lost_records: u64,
}

fn step(
    progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    report: &VerifyReport,
    read_bytes: u64,
    total_bytes: u64,
) -> Result<(), RepoError> {
    let now = VerifyProgress {
        read_bytes,
        total_bytes,
        points: report.points,
    };
    match progress(now) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(RepoError::Stopped),
    }
}

/// Damages listed one by one.
const DAMAGES_MAX: usize = 10_000;
