//! Change maps between restore points: `since-N` shows where a disk differs from restore point N of its workload.

use export::ExportError;
use repo::{Image, Point, PointName, RepoError, Repository};

use super::status::status;

/// The points of a workload that came before the one served, with a disk of the same name.
///
/// They are looked up when they are asked for: a point that was expired meanwhile is shown no more.
#[derive(Debug, Clone)]
pub struct EarlierPoints {
    repository: Repository,
    served: PointName,
    disk_name: String,
    image: Image,
}

impl EarlierPoints {
    /// Those before `served`, for its disk `disk`.
    ///
    /// # Errors
    /// If the point has no such disk.
    pub fn new(repository: Repository, served: &Point, disk: usize) -> Result<Self, RepoError> {
        let image = repository.image(served, disk)?;
        let disk_name = served.images.get(disk).map(|record| record.name.clone());
        Ok(Self {
            repository,
            served: served.name.clone(),
            disk_name: disk_name.unwrap_or_default(),
            image,
        })
    }

    /// Names of the change maps, the newest point first.
    pub(super) fn maps(&self) -> Vec<String> {
        let points = self.repository.points(Some(&self.served.workload));
        points
            .iter()
            .rev()
            .filter(|point| point.name.sequence < self.served.sequence)
            .filter(|point| self.disk_of(point).is_some())
            .take(MAPS_MAX)
            .map(|point| format!("{PREFIX}{}", point.name.sequence))
            .collect()
    }

    /// Where the disk of the point served differs from that of the point that `map` names.
    pub(super) fn changes(
        &self,
        map: &str,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<(u64, bool)>, ExportError> {
        let older = self.image_of(map)?;
        self.image
            .changes_since(&older, offset, length, limit)
            .map_err(|error| status(&error))
    }

    fn image_of(&self, map: &str) -> Result<Image, ExportError> {
        let number = map.strip_prefix(PREFIX).ok_or(ExportError::NotFound)?;
        let sequence = number.parse().map_err(|_| ExportError::NotFound)?;
        if sequence >= self.served.sequence {
            return Err(ExportError::NotFound);
        }
        let name = PointName {
            workload: self.served.workload.clone(),
            sequence,
        };
        let point = self
            .repository
            .point(&name)
            .map_err(|error| status(&error))?;
        let disk = self.disk_of(&point).ok_or(ExportError::NotFound)?;
        self.repository
            .image(&point, disk)
            .map_err(|error| status(&error))
    }

    fn disk_of(&self, point: &Point) -> Option<usize> {
        point
            .images
            .iter()
            .position(|image| image.name == self.disk_name)
    }
}

const PREFIX: &str = "since-";
/// Maps that are listed. A client reads the list in one handshake, and older points than these are seldom asked for.
const MAPS_MAX: usize = 64;

/// What changed by either of two maps of one range, as far as both go, up to `limit` stretches.
pub(super) fn either(
    left: &[(u64, bool)],
    right: &[(u64, bool)],
    limit: usize,
) -> Vec<(u64, bool)> {
    let mut merged: Vec<(u64, bool)> = Vec::new();
    let (mut left, mut right) = (left.iter().copied(), right.iter().copied());
    let (mut one, mut other) = (left.next(), right.next());
    while let (Some((first, changed)), Some((second, changed_too))) = (one, other) {
        let step = first.min(second);
        let full = merged.len() == limit;
        match merged.last_mut() {
            Some(last) if last.1 == (changed || changed_too) => last.0 += step,
            _ if full => break,
            _ => merged.push((step, changed || changed_too)),
        }
        let rest = |length: u64, changed| (length > step).then_some((length - step, changed));
        one = rest(first, changed).or_else(|| left.next());
        other = rest(second, changed_too).or_else(|| right.next());
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_map_marks_a_stretch_as_changed() {
        let check =
            |left: &[(u64, bool)], right: &[(u64, bool)], limit, expected: &[(u64, bool)]| {
                assert_eq!(either(left, right, limit), expected);
                assert_eq!(either(right, left, limit), expected);
            };
        check(
            &[(10, false)],
            &[(4, true), (6, false)],
            9,
            &[(4, true), (6, false)],
        );
        check(
            &[(2, false), (8, true)],
            &[(4, true), (6, false)],
            9,
            &[(10, true)],
        );
        // One of the two was cut short by its limit: nothing is said about what it does not reach.
        check(
            &[(3, false)],
            &[(1, false), (9, true)],
            9,
            &[(1, false), (2, true)],
        );
        check(
            &[(9, false)],
            &[(1, false), (1, true), (7, false)],
            2,
            &[(1, false), (1, true)],
        );
    }
}
