//! Which stream is which point.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use ingest::Entry;
use parking_lot::Mutex;
use repo::{Point, PointName, Repository, WorkloadName};

use super::entry;

/// The names of all streams. Points come and go by other ways, too: a name counts as long as its point is there.
#[derive(Debug)]
pub(super) struct Names {
    repository: Repository,
    all: Mutex<HashMap<WorkloadName, BTreeMap<String, Standing>>>,
}

#[derive(Debug, Clone)]
enum Standing {
    /// Somebody brings it.
    UnderWay,
    Kept(PointName),
}

/// A name that is taken until this is dropped, or for good if the stream was kept.
#[derive(Debug)]
pub(super) struct Reservation {
    names: Arc<Names>,
    workload: WorkloadName,
    name: String,
}

/// Why a name cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    UnderWay,
    Kept,
}

impl Names {
    /// The streams of all points that there are.
    pub(super) fn of(repository: &Repository) -> Arc<Self> {
        let mut all: HashMap<WorkloadName, BTreeMap<String, Standing>> = HashMap::new();
        for point in repository.points(None) {
            if let Some(found) = entry(&point) {
                let names = all.entry(point.name.workload.clone()).or_default();
                names.insert(found.name, Standing::Kept(point.name.clone()));
            }
        }
        Arc::new(Self {
            repository: repository.clone(),
            all: Mutex::new(all),
        })
    }

    /// The point of a stream.
    pub(super) fn find(&self, workload: &WorkloadName, name: &str) -> Option<(Arc<Point>, Entry)> {
        let standing = self.all.lock().get(workload)?.get(name).cloned()?;
        let Standing::Kept(point) = standing else {
            return None;
        };
        let point = self.repository.point(&point).ok()?;
        let entry = entry(&point)?;
        Some((point, entry))
    }

    /// Streams by name, behind `after`, until `take` has had enough.
    pub(super) fn visit(
        &self,
        workload: &WorkloadName,
        prefix: &str,
        after: Option<&str>,
        take: &mut dyn FnMut(Entry) -> bool,
    ) {
        let mut behind = after.map(str::to_owned);
        loop {
            // The lock is held for some names at a time, as looking points up may take longer.
            let start = match &behind {
                Some(name) if name.as_str() >= prefix => Bound::Excluded(name.as_str()),
                _ => Bound::Included(prefix),
            };
            let some: Vec<String> = {
                let all = self.all.lock();
                let Some(names) = all.get(workload) else {
                    return;
                };
                let range = names.range::<str, _>((start, Bound::Unbounded));
                range
                    .map(|(name, _)| name)
                    .take_while(|name| name.starts_with(prefix))
                    .take(AT_ONCE)
                    .cloned()
                    .collect()
            };
            let Some(last) = some.last().cloned() else {
                return;
            };
            for name in some {
                if let Some((_, entry)) = self.find(workload, &name)
                    && !take(entry)
                {
                    return;
                }
            }
            behind = Some(last);
        }
    }

    /// Takes a name for a stream that somebody brings.
    pub(super) fn reserve(
        self: &Arc<Self>,
        workload: &WorkloadName,
        name: &str,
    ) -> Result<Reservation, Taken> {
        let mut all = self.all.lock();
        let names = all.entry(workload.clone()).or_default();
        match names.get(name) {
            Some(Standing::UnderWay) => return Err(Taken::UnderWay),
            Some(Standing::Kept(point)) if self.repository.point(point).is_ok() => {
                return Err(Taken::Kept);
            }
            _ => {}
        }
        names.insert(name.to_owned(), Standing::UnderWay);
        Ok(Reservation {
            names: Arc::clone(self),
            workload: workload.clone(),
            name: name.to_owned(),
        })
    }
}

impl Reservation {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The stream is there, as this point.
    pub(super) fn keep(&self, point: PointName) {
        let mut all = self.names.all.lock();
        let names = all.entry(self.workload.clone()).or_default();
        names.insert(self.name.clone(), Standing::Kept(point));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut all = self.names.all.lock();
        if let Some(names) = all.get_mut(&self.workload)
            && matches!(names.get(&self.name), Some(Standing::UnderWay))
        {
            names.remove(&self.name);
        }
    }
}

const AT_ONCE: usize = 256;
