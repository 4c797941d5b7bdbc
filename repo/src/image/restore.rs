//! Reading a whole image out, in order and with both cores.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::node::Pointer;
use super::reader::Image;
use crate::chunk::CHUNK_BYTES;
use crate::error::RepoError;

/// Takes a stretch of an image: its offset and its bytes.
pub(crate) type RestoreTarget<'a> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 'a;

impl Image {
    /// Gives every stretch of `range` that holds data to `target`, in ascending order, proven. What is not given is
    /// zero. Memory is bounded; chunks do not go through the cache.
    ///
    /// # Errors
    /// If the range is not inside the disk, what is stored is hurt, or `target` fails.
    pub fn restore(
        &self,
        range: Range<u64>,
        target: &mut RestoreTarget<'_>,
    ) -> Result<(), RepoError> {
        let chunk = CHUNK_BYTES as u64;
        if range.start > range.end || range.end > self.size_bytes() {
            let length = range.end.saturating_sub(range.start);
            let rule = "it ends behind the disk";
            return Err(RepoError::BadRange {
                offset: range.start,
                length,
                size_bytes: self.size_bytes(),
                rule,
            });
        }
        let first = range.start / chunk;
        let end = range.end.div_ceil(chunk);
        std::thread::scope(|scope| {
            let (jobs, job_queue) = bounded::<Job>(JOBS_IN_FLIGHT);
            let (done, results) = bounded::<Result<Done, RepoError>>(JOBS_IN_FLIGHT);
            scope.spawn({
                let done = done.clone();
                move || {
                    if let Err(error) = self.plan(first, end, &jobs) {
                        drop(done.send(Err(error)));
                    }
                }
            });
            for _ in 0..READERS {
                let (job_queue, done) = (job_queue.clone(), done.clone());
                scope.spawn(move || self.read_jobs(&job_queue, &done));
            }
            drop((job_queue, done));
            deliver(&range, &results, target)
        })
    }

    /// Cuts what holds data into jobs, in order.
    fn plan(&self, first: u64, end: u64, jobs: &Sender<Job>) -> Result<(), RepoError> {
        let mut number = 0;
        let mut at = first;
        while at < end {
            let count = (end - at).min(JOB_CHUNKS);
            let chunk = CHUNK_BYTES as u64;
            let length = (count * chunk).min(self.size_bytes() - at * chunk);
            let extents = self.extents(at * chunk, length, 1)?;
            let Some(extent) = extents.first() else {
                break;
            };
            let chunks = extent.length.div_ceil(chunk);
            if extent.data {
                let pointers = self.pointers(at, chunks)?;
                if jobs
                    .send(Job {
                        number,
                        first: at,
                        pointers,
                    })
                    .is_err()
                {
                    break;
                }
                number += 1;
                at += chunks;
            } else {
                at = self.skip_zeroes(at, end)?;
            }
        }
        Ok(())
    }

    /// The first chunk from `at` on that holds data, or `end`.
    fn skip_zeroes(&self, at: u64, end: u64) -> Result<u64, RepoError> {
        let chunk = CHUNK_BYTES as u64;
        let start = at * chunk;
        let length = (end * chunk).min(self.size_bytes()) - start;
        let extents = self.extents(start, length, 1)?;
        Ok(extents
            .first()
            .map_or(end, |extent| (start + extent.length).div_ceil(chunk)))
    }

    fn read_jobs(&self, jobs: &Receiver<Job>, done: &Sender<Result<Done, RepoError>>) {
        for job in jobs {
            let chunks = self.store().read_run(&job.pointers);
            if done
                .send(chunks.map(|chunks| Done {
                    number: job.number,
                    first: job.first,
                    chunks,
                }))
                .is_err()
            {
                break;
            }
        }
    }
}

/// Consecutive chunks to read.
struct Job {
    number: u64,
    first: u64,
    pointers: Vec<Pointer>,
}

/// Consecutive chunks that were read.
struct Done {
    number: u64,
    first: u64,
    chunks: Vec<Bytes>,
}

/// Hands what comes from the readers to the target, in order, cut to `range`.
fn deliver(
    range: &Range<u64>,
    results: &Receiver<Result<Done, RepoError>>,
    target: &mut RestoreTarget<'_>,
) -> Result<(), RepoError> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for result in results {
        let done = result?;
        waiting.insert(done.number, done);
        while let Some(done) = waiting.remove(&next) {
            for (chunk, index) in done.chunks.iter().zip(done.first..) {
                let offset = index * CHUNK_BYTES as u64;
                let from = range.start.max(offset);
                let to = range.end.min(offset + CHUNK_BYTES as u64);
                let within =
                    |place: u64| usize::try_from(place.saturating_sub(offset)).unwrap_or(0);
                let bytes = chunk.get(within(from)..within(to)).unwrap_or_default();
                let fault = |source| RepoError::Transfer {
                    action: "write to the target",
                    offset: from,
                    source,
                };
                target(from, bytes).map_err(fault)?;
            }
            next += 1;
        }
    }
    Ok(())
}

/// Chunks read together: 2 MiB.
const JOB_CHUNKS: u64 = 32;
const JOBS_IN_FLIGHT: usize = 8;
const READERS: usize = 2;
