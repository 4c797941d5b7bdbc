//! A thread that looks again and again whether there is something to do.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// The thread, until it is stopped.
#[derive(Debug)]
pub(super) struct Rounds {
    name: &'static str,
    end: Arc<End>,
    thread: Option<JoinHandle<()>>,
}

/// Whether it is told to stop.
#[derive(Debug, Default)]
pub(super) struct End {
    reached: Mutex<bool>,
    changed: Condvar,
}

impl Rounds {
    /// Looks a first time after `first`, and then with pauses of `between`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(
        name: &'static str,
        first: Duration,
        between: Duration,
        mut look: impl FnMut(&End) + Send + 'static,
    ) -> std::io::Result<Self> {
        let end = Arc::<End>::default();
        let watched = Arc::clone(&end);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut pause = first;
                while watched.wait(pause) {
                    look(&watched);
                    pause = between;
                }
            })?;
        Ok(Self {
            name,
            end,
            thread: Some(thread),
        })
    }

    /// Stops it and waits for the end of the round that is under way.
    pub(super) fn stop(&mut self) {
        *self.end.reached.lock() = true;
        self.end.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(thread = self.name, "a thread of the schedule panicked");
        }
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.stop();
    }
}

impl End {
    /// Whether a long round should end.
    pub(super) fn is_reached(&self) -> bool {
        *self.reached.lock()
    }

    /// Waits; says whether to go on.
    fn wait(&self, pause: Duration) -> bool {
        let mut reached = self.reached.lock();
        if !*reached {
            self.changed.wait_for(&mut reached, pause);
        }
        !*reached
    }
}
