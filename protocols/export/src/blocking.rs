//! The one crossing from sockets to disks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

use crate::PayloadBuffers;

/// A bounded set of threads for calls that may wait for a disk.
///
/// Servers submit from async tasks; a job sends its own answer back. Dropping the pool lets queued jobs finish.
pub struct BlockingPool {
    queue: Arc<Queue>,
    threads: usize,
    payloads: PayloadBuffers,
}

/// The queue of the pool has no room: the server stops reading from its peer until some job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pool's queue is full")]
pub struct PoolFull;

/// Jobs that no thread has taken.
struct Queue {
    waiting: Mutex<Waiting>,
    depth: usize,
    /// Told of a job, or of the end. A thread sleeps here at once: one that looked again and again first would cost
    /// more than the wake-up that it saves.
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    is_over: bool,
}

impl BlockingPool {
    /// Starts `threads` threads that share a queue of `queue_depth` jobs.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(threads: usize, queue_depth: usize) -> std::io::Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            depth: queue_depth.max(1),
            changed: Condvar::new(),
        });
        // Made before the threads, so that those that run are told to end if one cannot be started.
        let pool = Self {
            queue: Arc::clone(&queue),
            threads: threads.max(1),
            payloads: PayloadBuffers::new(KEPT_BYTES_MAX),
        };
        for number in 0..pool.threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("disk-{number}"))
                .spawn(move || {
                    while let Some(job) = queue.take() {
                        job();
                    }
                })?;
        }
        Ok(pool)
    }

    /// Queues `job`, or says at once that there is no room (the job is dropped then).
    ///
    /// # Errors
    /// [`PoolFull`] if the queue is full.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), PoolFull> {
        self.queue.put(Box::new(job)).map_err(|_| PoolFull)
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
            match self.queue.put(job) {
                Ok(()) => break,
                Err(back) => job = back,
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

impl Queue {
    /// Gives the job back if there is no room.
    fn put(&self, job: Job) -> Result<(), Job> {
        let mut waiting = self.waiting.lock();
        if waiting.jobs.len() >= self.depth {
            return Err(job);
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.changed.notify_one();
        Ok(())
    }

    /// The next job, or none if there will be no more.
    fn take(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        loop {
            match waiting.jobs.pop_front() {
                Some(job) => return Some(job),
                None if waiting.is_over => return None,
                None => self.changed.wait(&mut waiting),
            }
        }
    }
}

impl Drop for BlockingPool {
    fn drop(&mut self) {
        self.queue.waiting.lock().is_over = true;
        self.queue.changed.notify_all();
    }
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BlockingPool")
            .field("threads", &self.threads)
            .field("queued", &self.queue.waiting.lock().jobs.len())
            .finish()
    }
}

type Job = Box<dyn FnOnce() + Send + 'static>;

/// Free memory for payloads that is kept, for all servers together.
const KEPT_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{channel, sync_channel};

    use super::*;

    #[test]
    fn queued_jobs_are_done_after_the_pool_is_dropped() {
        let pool = BlockingPool::start(2, 8).unwrap();
        let (done, results) = channel();
        for number in 0..8 {
            let done = done.clone();
            pool.submit(move || done.send(number).unwrap()).unwrap();
        }
        drop((pool, done));
        let mut results: Vec<i32> = results.iter().collect();
        results.sort_unstable();
        assert_eq!(results, (0..8).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_full_queue_says_so_and_run_waits() {
        let pool = BlockingPool::start(1, 1).unwrap();
        let (release, held) = sync_channel::<()>(0);
        let (started, start) = sync_channel::<()>(1);
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
