//! What the server counts.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of a server, shared by its connections.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) connections: Gauge<i64, AtomicI64>,
    pub(crate) sessions: Gauge<i64, AtomicI64>,
    pub(crate) accepted: Counter<u64, AtomicU64>,
    pub(crate) refused: Counter<u64, AtomicU64>,
    pub(crate) failed: Counter<u64, AtomicU64>,
    pub(crate) logins: Counter<u64, AtomicU64>,
    pub(crate) login_failures: Counter<u64, AtomicU64>,
    pub(crate) in_flight: Gauge<i64, AtomicI64>,
    pub(crate) commands: Counter<u64, AtomicU64>,
    pub(crate) not_good: Counter<u64, AtomicU64>,
    pub(crate) management: Counter<u64, AtomicU64>,
    pub(crate) rejects: Counter<u64, AtomicU64>,
    pub(crate) read_bytes: Counter<u64, AtomicU64>,
    pub(crate) written_bytes: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Registers the counters as `holdfast_iscsi_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let mut counter = |name: &str, help: &str, counter: &Counter<u64, AtomicU64>| {
            registry.register(format!("holdfast_iscsi_{name}"), help, counter.clone());
        };
        let Self {
            accepted,
            refused,
            failed,
            logins,
            login_failures,
            ..
        } = &metrics;
        counter(
            "connections_accepted",
            "Connections that were taken",
            accepted,
        );
        counter(
            "connections_refused",
            "Connections that were over a limit",
            refused,
        );
        counter(
            "connections_failed",
            "Connections that ended with an error",
            failed,
        );
        counter("logins", "Logins that led to a session", logins);
        counter("login_failures", "Logins that were refused", login_failures);
        counter("commands", "SCSI commands", &metrics.commands);
        counter(
            "commands_not_good",
            "SCSI commands that did not end in GOOD",
            &metrics.not_good,
        );
        counter(
            "management_functions",
            "Task management functions",
            &metrics.management,
        );
        counter(
            "rejects",
            "PDUs that were answered with Reject",
            &metrics.rejects,
        );
        counter(
            "read_bytes",
            "Bytes that initiators read",
            &metrics.read_bytes,
        );
        counter(
            "written_bytes",
            "Bytes that initiators wrote",
            &metrics.written_bytes,
        );
        let mut gauge = |name: &str, help: &str, gauge: &Gauge<i64, AtomicI64>| {
            registry.register(format!("holdfast_iscsi_{name}"), help, gauge.clone());
        };
        gauge(
            "connections",
            "Connections that are open",
            &metrics.connections,
        );
        gauge("sessions", "Sessions that are logged in", &metrics.sessions);
        gauge(
            "commands_in_flight",
            "SCSI commands that wait for a disk",
            &metrics.in_flight,
        );
        metrics
    }

    /// Counters that nobody sees.
    pub fn unregistered() -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_show_under_their_names() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.commands.inc();
        metrics.read_bytes.inc_by(4096);
        metrics.sessions.inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "holdfast_iscsi_commands_total 1",
            "holdfast_iscsi_read_bytes_total 4096",
            "holdfast_iscsi_sessions 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
