//! The thread of a ring.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use export::BlockingPool;

use super::doorbell::{Call, Doorbell, End};
use crate::error::RingError;
use crate::metrics::Metrics;
use crate::session::{Job, Step, Unit};

/// A disk that is being served through the kernel's target. Dropping it ends that; the backstore stays, and its
/// initiators wait until it is served again.
#[derive(Debug)]
pub struct ServedUnit {
    name: String,
    path: PathBuf,
    end: Arc<End>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread works on.
struct Serving {
    name: String,
    unit: Arc<Unit>,
    doorbell: Arc<Doorbell>,
    pool: Arc<BlockingPool>,
    end: Arc<End>,
    metrics: Metrics,
}

/// Why a ring is served no more.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("the device of the ring failed")]
    Doorbell(#[from] io::Error),
}

impl ServedUnit {
    /// Serves a unit whose kernel is at `doorbell`; `path` is its backstore.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        name: &str,
        path: PathBuf,
        unit: Arc<Unit>,
        doorbell: Doorbell,
        pool: Arc<BlockingPool>,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let end = Arc::new(End::new()?);
        let serving = Serving {
            name: name.to_owned(),
            unit,
            doorbell: Arc::new(doorbell),
            pool,
            end: Arc::clone(&end),
            metrics: metrics.clone(),
        };
        let thread = thread::Builder::new()
            .name(format!("tcmu-{name}").chars().take(15).collect())
            .spawn(move || serving.run())?;
        Ok(Self {
            name: name.to_owned(),
            path,
            end,
            thread: Some(thread),
        })
    }

    /// The backstore's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the ring is being served: not after it could not be trusted.
    pub fn is_served(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Tells it to end, without waiting for that.
    pub fn tell_to_end(&self) {
        self.end.tell();
    }

    /// The backstore's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ServedUnit {
    /// Takes nothing more from the ring and lets end what was taken.
    fn drop(&mut self) {
        self.end.tell();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(backstore = self.name, "the thread of a ring panicked");
        }
    }
}

impl Serving {
    fn run(self) {
        self.metrics.units.inc();
        if let Err(error) = self.serve() {
            self.metrics.broken.inc();
            tracing::error!(
                backstore = self.name,
                error = chain(&error),
                "a ring cannot be trusted and is served no more; start the daemon again to begin anew"
            );
        }
        if !self.unit.settle(GRACE) {
            tracing::warn!(
                backstore = self.name,
                "a disk has not answered for long; commands under way are left to it"
            );
        }
        self.metrics.units.dec();
    }

    fn serve(&self) -> Result<(), Broken> {
        loop {
            self.drain()?;
            if self.doorbell.wait(&self.end)? == Call::End {
                return Ok(());
            }
        }
    }

    /// Takes all there is.
    fn drain(&self) -> Result<(), Broken> {
        let mut answered = 0;
        let outcome = loop {
            match self.unit.step() {
                Ok(Step::Idle) => break Ok(()),
                Ok(Step::Told) => {}
                Ok(Step::Answered) => answered += 1,
                Ok(Step::Waits(job)) => {
                    if let Some(job) = self.hand_over(job) {
                        self.tell(&mut answered)?;
                        finish(job, &self.doorbell);
                    }
                }
                Err(error) => break Err(error.into()),
            }
            // The kernel completes the first of many while the others are done.
            if answered >= ANSWERS_TOGETHER {
                self.tell(&mut answered)?;
            }
        };
        self.tell(&mut answered)?;
        outcome
    }

    /// Tells the kernel of answers, if there are any.
    fn tell(&self, answered: &mut usize) -> Result<(), Broken> {
        if std::mem::take(answered) > 0 {
            self.doorbell.ring()?;
        }
        Ok(())
    }

    /// Lets the pool wait for the disk. Gives the job back if that has enough to do: then this thread waits itself, and the
    /// kernel keeps what comes.
    fn hand_over(&self, job: Job) -> Option<Job> {
        let doorbell = Arc::clone(&self.doorbell);
        let job = Arc::new(parking_lot::Mutex::new(Some(job)));
        let work = {
            let job = Arc::clone(&job);
            move || {
                if let Some(job) = job.lock().take() {
                    finish(job, &doorbell);
                }
            }
        };
        match self.pool.submit(work) {
            Ok(()) => None,
            Err(_) => job.lock().take(),
        }
    }
}

fn finish(job: Job, doorbell: &Doorbell) {
    job.run(|| {
        if let Err(error) = doorbell.ring() {
            tracing::error!(%error, "the kernel could not be told of an answer");
        }
    });
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// How many answers are told of at once.
const ANSWERS_TOGETHER: usize = 16;
/// How long a command that was begun may take when the unit is to end.
const GRACE: Duration = Duration::from_secs(10);
