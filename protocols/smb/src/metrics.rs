//! What the server counts.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of a server.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) up: Gauge<i64, AtomicI64>,
    pub(crate) shares: Gauge<i64, AtomicI64>,
    pub(crate) restarts: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Registers the counters as `holdfast_smb_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "holdfast_smb_up",
            "Whether smbd runs and answers",
            metrics.up.clone(),
        );
        registry.register("holdfast_smb_shares", "Shares", metrics.shares.clone());
        registry.register(
            "holdfast_smb_restarts",
            "How often smbd ended by itself and was started again",
            metrics.restarts.clone(),
        );
        metrics
    }
}
