//! What the server counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::Procedure;

/// Counters of one server. They only grow, except those named as levels.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: [Counter; Procedure::ALL.len()],
    /// Answers of NFS procedures other than OK.
    pub refused: Counter,
    /// Records that could not be understood; their connections were closed.
    pub malformed: Counter,
    /// Payload sent by READ.
    pub read_bytes: Counter,
    /// Payload taken by WRITE.
    pub written_bytes: Counter,
    /// Requests that had to wait for a disk.
    pub deferred: Counter,
    /// Answers given again to repeated calls.
    pub answered_again: Counter,
    /// Successful mounts.
    pub mounts: Counter,
    /// Connections taken.
    pub accepted: Counter,
    /// Connections turned away because there were too many.
    pub turned_away: Counter,
    /// Connections closed because the peer stood still in the middle of something.
    pub timed_out: Counter,
    /// Level: connections open now.
    pub connections: Counter,
}

/// A number that many threads add to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Metrics {
    /// Requests of one NFS procedure.
    pub fn requests(&self, procedure: Procedure) -> u64 {
        self.requests
            .get(procedure as usize)
            .map_or(0, Counter::value)
    }

    /// Every counter with its name as in `/metrics`, without the label of the procedure.
    pub fn samples(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("holdfast_nfs_refused_total", &self.refused),
            ("holdfast_nfs_malformed_total", &self.malformed),
            ("holdfast_nfs_read_bytes_total", &self.read_bytes),
            ("holdfast_nfs_written_bytes_total", &self.written_bytes),
            ("holdfast_nfs_deferred_total", &self.deferred),
            ("holdfast_nfs_answered_again_total", &self.answered_again),
            ("holdfast_nfs_mounts_total", &self.mounts),
            ("holdfast_nfs_accepted_total", &self.accepted),
            ("holdfast_nfs_turned_away_total", &self.turned_away),
            ("holdfast_nfs_timed_out_total", &self.timed_out),
            ("holdfast_nfs_connections", &self.connections),
        ]
        .into_iter()
        .map(|(name, counter)| (name, counter.value()))
    }

    pub(crate) fn count(&self, procedure: Procedure) {
        if let Some(counter) = self.requests.get(procedure as usize) {
            counter.add(1);
        }
    }
}

impl Counter {
    /// The number now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }
}
