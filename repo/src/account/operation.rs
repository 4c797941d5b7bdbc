//! Bringing one point into the account, or taking it out, in steps that a crash may come between.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::deltas::{Deltas, Direction};
use super::walk::{DifferenceWalk, Side, Sink, Trio, Unreadable};
use super::{Changes, Freed, OpenAccount, map_of, neighbours};
use crate::catalog::{Point, PointName};
use crate::error::RepoError;
use crate::image::Pointer;
use crate::stream::StreamReader;

/// How far a point is in, or out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Operation {
    pub(super) point: PointName,
    pub(super) adding: bool,
    /// Disks and streams that are done.
    parts: usize,
    /// How much of the next one: chunks of a disk, references of a stream.
    position: u64,
}

impl Operation {
    pub(super) fn new(point: PointName, direction: Direction) -> Self {
        Self {
            point,
            adding: direction == Direction::Add,
            parts: 0,
            position: 0,
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RepoError> {
        serde_json::from_slice(bytes).map_err(|error| RepoError::Inexact {
            detail: format!("what was under way cannot be read: {error}"),
        })
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an operation has only text keys")
    }

    fn direction(&self) -> Direction {
        match self.adding {
            true => Direction::Add,
            false => Direction::Remove,
        }
    }
}

impl OpenAccount<'_> {
    /// Does the rest of an operation. The points beside it must be the same as when it began.
    pub(super) fn carry_out(
        &mut self,
        mut operation: Operation,
        point: &Arc<Point>,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<Freed, RepoError> {
        let mut steps = Steps {
            deltas: Deltas::new(operation.direction()),
            freed: Freed::default(),
            operation: &mut operation,
            go_on,
            account: self,
        };
        for (number, image) in point.images.iter().enumerate() {
            if number >= steps.operation.parts {
                steps.image(point, &image.name)?;
                steps.part_done(number);
            }
        }
        for (number, stream) in point.streams.iter().enumerate() {
            let number = number + point.images.len();
            if number >= steps.operation.parts {
                let records = Arc::clone(&steps.account.account.records);
                let reader =
                    StreamReader::new(&records, stream.root, stream.depth, stream.size_bytes);
                steps.stream(reader)?;
                steps.part_done(number);
            }
        }
        let freed = steps.finish()?;
        if let Some(state) = self.state.as_mut() {
            match operation.adding {
                true => drop(state.points.insert(point.name.clone(), Arc::clone(point))),
                false => drop(state.points.remove(&point.name)),
            }
        }
        Ok(freed)
    }
}

/// Gathers changes and makes them step by step.
struct Steps<'a, 'b> {
    deltas: Deltas,
    freed: Freed,
    operation: &'a mut Operation,
    go_on: &'a mut dyn FnMut() -> Result<(), RepoError>,
    account: &'a mut OpenAccount<'b>,
}

impl Steps<'_, '_> {
    fn image(&mut self, point: &Point, disk: &str) -> Result<(), RepoError> {
        let Some(state) = self.account.state.as_ref() else {
            return Err(RepoError::Refused("the account of space is not open"));
        };
        let gone = BTreeSet::new();
        let (before, after) = neighbours(&state.points, &gone, &point.name, disk);
        let own = point.images.iter().find(|image| image.name == disk);
        let trio = Trio {
            before: Side::of(map_of(before, disk)),
            point: Side::of(own.map(|image| (image.root, image.size_bytes))),
            after: Side::of(map_of(after, disk)),
        };
        let records = Arc::clone(&self.account.account.records);
        DifferenceWalk {
            store: &records,
            from: self.operation.position,
            unreadable: match self.operation.direction() {
                Direction::Add => Unreadable::CountMore,
                Direction::Remove => Unreadable::CountNoLess,
            },
            sink: self,
        }
        .run(trio)
    }

    fn stream(&mut self, mut reader: StreamReader) -> Result<(), RepoError> {
        let from = self.operation.position;
        let mut position = 0;
        loop {
            let pointer = match reader.next_pointer() {
                Err(error) if error.is_corrupt() && !self.operation.adding => {
                    tracing::warn!(%error, "a part of a stream cannot be read: what it leads to stays counted");
                    return Ok(());
                }
                other => other?,
            };
            let Some(pointer) = pointer else {
                return Ok(());
            };
            position += 1;
            if position > from {
                self.deltas.count(pointer);
                self.passed(position)?;
            }
        }
    }

    fn part_done(&mut self, number: usize) {
        self.operation.parts = number + 1;
        self.operation.position = 0;
    }

    fn step(&mut self) -> Result<(), RepoError> {
        let changes = Changes {
            operation: Some(Some(self.operation.encode())),
            ..Changes::default()
        };
        let freed = self.account.apply(&self.deltas.take(), changes)?;
        self.note(freed);
        (self.go_on)()
    }

    fn finish(mut self) -> Result<Freed, RepoError> {
        let changes = Changes {
            operation: Some(None),
            points: vec![(self.operation.point.clone(), self.operation.adding)],
            ..Changes::default()
        };
        let freed = self.account.apply(&self.deltas.take(), changes)?;
        self.note(freed);
        Ok(self.freed)
    }

    fn note(&mut self, freed: Freed) {
        self.freed.records += freed.records;
        self.freed.bytes += freed.bytes;
    }
}

impl Sink for Steps<'_, '_> {
    fn own_run(&mut self, pointer: Pointer) {
        self.deltas.count(pointer);
    }

    fn split_run(&mut self, pointer: Pointer) {
        self.deltas.count(pointer);
    }

    fn passed(&mut self, next: u64) -> Result<(), RepoError> {
        self.operation.position = next;
        if self.deltas.len() < STEP_ENTRIES {
            return Ok(());
        }
        self.step()
    }
}

/// Counts that are changed in one step.
const STEP_ENTRIES: usize = if cfg!(test) { 3 } else { 8192 };
