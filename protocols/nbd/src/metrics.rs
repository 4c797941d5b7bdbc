//! What the server counts.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::wire::Command;

/// The counters of all NBD servers of a process. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) connections: Gauge<i64, AtomicI64>,
    pub(crate) accepted: Counter<u64, AtomicU64>,
    pub(crate) refused: Counter<u64, AtomicU64>,
    pub(crate) failed: Counter<u64, AtomicU64>,
    pub(crate) in_flight: Gauge<i64, AtomicI64>,
    pub(crate) errors: Counter<u64, AtomicU64>,
    pub(crate) read_bytes: Counter<u64, AtomicU64>,
    pub(crate) written_bytes: Counter<u64, AtomicU64>,
    requests: [Counter<u64, AtomicU64>; COMMANDS.len()],
}

impl Metrics {
    /// Registers the counters as `holdfast_nbd_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::unregistered();
        let mut counter = |name: &str, help: &str, counter: &Counter<u64, AtomicU64>| {
            registry.register(format!("holdfast_nbd_{name}"), help, counter.clone());
        };
        counter(
            "connections_accepted",
            "Connections that were taken",
            &metrics.accepted,
        );
        counter(
            "connections_refused",
            "Connections that were over a limit",
            &metrics.refused,
        );
        counter(
            "connections_failed",
            "Connections that ended with an error",
            &metrics.failed,
        );
        counter(
            "request_errors",
            "Requests that were answered with an error",
            &metrics.errors,
        );
        counter("read_bytes", "Bytes that peers read", &metrics.read_bytes);
        counter(
            "written_bytes",
            "Bytes that peers wrote",
            &metrics.written_bytes,
        );
        registry.register(
            "holdfast_nbd_connections",
            "Connections that are open",
            metrics.connections.clone(),
        );
        registry.register(
            "holdfast_nbd_requests_in_flight",
            "Requests that wait for a disk",
            metrics.in_flight.clone(),
        );
        let requests = Family::<CommandLabel, Counter>::default();
        let mut metrics = metrics;
        metrics.requests =
            COMMANDS.map(|(_, command)| requests.get_or_create_owned(&CommandLabel { command }));
        registry.register("holdfast_nbd_requests", "Requests by command", requests);
        metrics
    }

    /// Counters that nobody sees.
    pub fn unregistered() -> Self {
        Self {
            connections: Gauge::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            failed: Counter::default(),
            in_flight: Gauge::default(),
            errors: Counter::default(),
            read_bytes: Counter::default(),
            written_bytes: Counter::default(),
            requests: COMMANDS.map(|_| Counter::default()),
        }
    }

    /// Counts one request.
    pub(crate) fn request(&self, command: Command) {
        let known = usize::from(u16::from(command)).min(COMMANDS.len() - 1);
        if let Some(counter) = self.requests.get(known) {
            counter.inc();
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabel {
    command: &'static str,
}

/// The commands in the order of their numbers; the last stands for all others.
const COMMANDS: [(u16, &str); 9] = [
    (0, "read"),
    (1, "write"),
    (2, "disconnect"),
    (3, "flush"),
    (4, "trim"),
    (5, "cache"),
    (6, "write_zeroes"),
    (7, "block_status"),
    (8, "unknown"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_show_under_their_names() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.request(Command::BlockStatus);
        metrics.request(Command::Unknown(4711));
        metrics.read_bytes.inc_by(4096);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "holdfast_nbd_requests_total{command=\"block_status\"} 1",
            "holdfast_nbd_requests_total{command=\"unknown\"} 1",
            "holdfast_nbd_requests_total{command=\"read\"} 0",
            "holdfast_nbd_read_bytes_total 4096",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
