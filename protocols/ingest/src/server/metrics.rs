//! What is counted.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Counters of a server. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(super) connections: Gauge,
    pub(super) accepted: Counter,
    pub(super) turned_away: Counter,
    pub(super) resumed: Counter,
    pub(super) committed: Counter,
    pub(super) dropped: Counter,
    pub(super) refused: Counter,
    pub(super) received: Counter,
    pub(super) sent: Counter,
}

impl Metrics {
    /// Counters in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("ingest");
        registry.register(
            "connections",
            "Clients that bring or take streams now",
            metrics.connections.clone(),
        );
        for (name, help, counter) in [
            (
                "accepted",
                "Connections that were let in",
                &metrics.accepted,
            ),
            (
                "turned_away",
                "Connections that were not let in",
                &metrics.turned_away,
            ),
            (
                "resumed",
                "Connections that went on with a session",
                &metrics.resumed,
            ),
            ("committed", "Streams that were kept", &metrics.committed),
            (
                "dropped",
                "Streams that were begun and not kept",
                &metrics.dropped,
            ),
            ("refused", "Requests that were refused", &metrics.refused),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, counter) in [
            ("received", "Content that came in", &metrics.received),
            ("sent", "Content that went out", &metrics.sent),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
        metrics
    }
}
