//! The one crossing from sockets to disks.

use std::fmt;
use std::thread;

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::PayloadBuffers;

/// A bounded set of threads for calls that may wait for a disk.
///
/// Servers submit from async tasks; a job sends its own answer back. Dropping the pool lets queued jobs finish.
pub struct BlockingPool {
    queue: Sender<Job>,
    threads: usize,
    payloads: PayloadBuffers,
}

/// The queue of the pool has no room: the server stops reading from its peer until some job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pool's queue is full")]
pub struct PoolFull;

impl BlockingPool {
    /// Starts `threads` threads that share a queue of `queue_depth` jobs.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(threads: usize, queue_depth: usize) -> std::io::Result<Self> {
        let (queue, jobs) = bounded::<Job>(queue_depth.max(1));
        for number in 0..threads.max(1) {
            let jobs = jobs.clone();
            thread::Builder::new()
                .name(format!("disk-{number}"))
                .spawn(move || {
                    for job in jobs {
                        job();
                    }
                })?;
        }
        Ok(Self {
            queue,
            threads: threads.max(1),
            payloads: PayloadBuffers::new(KEPT_BYTES_MAX),
        })
    }

    /// Queues `job`, or says at once that there is no room (the job is dropped then).
    ///
    /// # Errors
    /// [`PoolFull`] if the queue is full.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), PoolFull> {
        match self.queue.try_send(Box::new(job)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(PoolFull),
        }
    }

    /// Runs `work` on the pool and gives back its result, waiting for room in the queue if need be.
    ///
    /// # Panics
    /// If `work` panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = tokio::sync::oneshot::channel();
        let mut job: Job = Box::new(move || {
            // A caller that has gone away does not want the answer.
            drop(answer.send(work()));
        });
        loop {
            match self.queue.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => job = back,
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        result.await.expect("a job on the pool does not panic")
    }

    /// Memory for long payloads that jobs will write.
    pub fn payloads(&self) -> &PayloadBuffers {
        &self.payloads
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        self.threads
    }
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BlockingPool")
            .field("threads", &self.threads)
            .field("queued", &self.queue.len())
            .finish()
    }
}

type Job = Box<dyn FnOnce() + Send + 'static>;

/// Free memory for payloads that is kept, for all servers together.
const KEPT_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_says_so_and_run_waits() {
        let pool = BlockingPool::start(1, 1).unwrap();
        let (release, held) = bounded::<()>(0);
        let (started, start) = bounded::<()>(1);
        pool.submit(move || {
            started.send(()).unwrap();
            held.recv().unwrap();
        })
        .unwrap();
        start.recv().unwrap();
        pool.submit(|| {}).unwrap();
        assert_eq!(pool.submit(|| {}), Err(PoolFull));
        let work = pool.run(|| 7);
        release.send(()).unwrap();
        assert_eq!(work.await, 7);
    }
}
