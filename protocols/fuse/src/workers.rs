//! The threads that may wait for a disk.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crossbeam_channel::{Sender, bounded};

/// A bounded set of threads with a bounded queue.
///
/// When the queue is full, whoever reads from the kernel waits here, and the kernel keeps what it has to ask.
pub(crate) struct Workers {
    queue: Sender<Job>,
}

impl Workers {
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let threads = threads.clamp(1, THREADS_MAX);
        let (queue, jobs) = bounded::<Job>(threads * JOBS_PER_THREAD);
        for number in 0..threads {
            let jobs = jobs.clone();
            thread::Builder::new()
                .name(format!("mount-{number}"))
                .spawn(move || {
                    for job in jobs {
                        // A job that panics leaves its request with an error, and the thread to the others.
                        if catch_unwind(AssertUnwindSafe(job)).is_err() {
                            tracing::error!("a request of the kernel ended in a panic");
                        }
                    }
                })?;
        }
        Ok(Self { queue })
    }

    /// Queues `job`. The threads live as long as the queue, so that none is lost.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(refused) = self.queue.send(Box::new(job)) {
            (refused.0)();
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Workers")
            .field("queued", &self.queue.len())
            .finish()
    }
}

type Job = Box<dyn FnOnce() + Send + 'static>;

const THREADS_MAX: usize = 256;
const JOBS_PER_THREAD: usize = 4;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_panic_takes_no_thread_away() {
        let workers = Workers::start(1).unwrap();
        let (done, result) = channel();
        for number in 0..3 {
            let done = done.clone();
            workers.run(move || {
                assert_ne!(number, 1, "a job that fails");
                done.send(number).unwrap();
            });
        }
        drop(done);
        assert_eq!(result.iter().collect::<Vec<_>>(), [0, 2]);
    }
}
