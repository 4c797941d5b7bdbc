//! A thread that looks after packs: gives parity to those without, and mends those that a read found hurt.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::RepoError;
use crate::store::ChunkStore;

/// The thread; it ends when this is dropped.
pub(crate) struct Keeper {
    store: Arc<ChunkStore>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts to look after the packs of `store`, one at a time.
    pub(crate) fn start(store: Arc<ChunkStore>) -> Result<Self, RepoError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (packs, ends) = (Arc::clone(&store), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("pack-care".to_owned())
            .spawn(move || {
                while !ends.load(Ordering::Acquire) {
                    let Some((pack, care)) = packs.health().next_care(PATIENCE, &ends) else {
                        continue;
                    };
                    let outcome = crate::verify::look_after(&packs, pack, care, &ends);
                    // A condemned pack may be removed at any moment, and needs no care.
                    let goes = packs.packs().is_condemned(pack)
                        || packs.packs().summary(pack).is_none();
                    match outcome {
                        Ok(_) | Err(RepoError::Stopped) => {}
                        Err(error) if goes => {
                            tracing::debug!(pack = packs.packs().describe(pack), %error, "a pack that goes cannot be looked after");
                        }
                        Err(error) => {
                            tracing::warn!(pack = packs.packs().describe(pack), %error, "a pack cannot be looked after");
                        }
                    }
                }
            })
            .map_err(RepoError::Thread)?;
        Ok(Self {
            store,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.store.health().wake();
        if let Some(thread) = self.thread.take()
            // Whoever is told by the thread what it did may be the last to hold the repository.
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread that looks after packs has panicked");
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keeper").finish_non_exhaustive()
    }
}

/// How long the thread sleeps if nothing wakes it.
const PATIENCE: Duration = Duration::from_secs(60);
