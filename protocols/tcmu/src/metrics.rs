//! What the server counts.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of a server, shared by its units.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) units: Gauge<i64, AtomicI64>,
    pub(crate) in_flight: Gauge<i64, AtomicI64>,
    pub(crate) commands: Counter<u64, AtomicU64>,
    pub(crate) not_good: Counter<u64, AtomicU64>,
    pub(crate) management: Counter<u64, AtomicU64>,
    pub(crate) broken: Counter<u64, AtomicU64>,
    pub(crate) read_bytes: Counter<u64, AtomicU64>,
    pub(crate) written_bytes: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Registers the counters as `holdfast_tcmu_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, counter) in [
            ("commands", "SCSI commands", &metrics.commands),
            (
                "commands_not_good",
                "SCSI commands that did not end in GOOD",
                &metrics.not_good,
            ),
            (
                "management_functions",
                "Task management functions that the kernel told of",
                &metrics.management,
            ),
            (
                "rings_broken",
                "Rings that could not be trusted any more",
                &metrics.broken,
            ),
            (
                "read_bytes",
                "Bytes that initiators read",
                &metrics.read_bytes,
            ),
            (
                "written_bytes",
                "Bytes that initiators wrote",
                &metrics.written_bytes,
            ),
        ] {
            registry.register(format!("holdfast_tcmu_{name}"), help, counter.clone());
        }
        for (name, help, gauge) in [
            (
                "units",
                "Disks served through the kernel's target",
                &metrics.units,
            ),
            (
                "commands_in_flight",
                "SCSI commands that wait for a disk",
                &metrics.in_flight,
            ),
        ] {
            registry.register(format!("holdfast_tcmu_{name}"), help, gauge.clone());
        }
        metrics
    }

    /// Counters that nobody sees.
    pub fn unregistered() -> Self {
        Self::default()
    }
}
