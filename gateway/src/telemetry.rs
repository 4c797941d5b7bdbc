//! Logs and metrics.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};
use crate::exports::Exports;

/// Starts logging to stderr, for the whole process. Only `main` calls it.
///
/// # Errors
/// If the filter is not understood.
pub fn start_log(config: &LogConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| {
        format!(
            "`{}` is no log filter: {error}; write a level such as info",
            config.filter
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Whoever reads the log may go away; to complain about that there would end the process.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| format!("cannot start the log: {error}"))
}

/// Everything that the daemon counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests of the HTTP interface that were answered with success.
    pub api_answered: Counter,
    /// Requests of the HTTP interface that were refused or failed.
    pub api_refused: Counter,
    /// Requests without a valid token.
    pub api_unauthorized: Counter,
    /// Backups committed.
    pub backups_committed: Counter,
    /// Backups dropped by their client, or because it vanished.
    pub backups_dropped: Counter,
    /// Backups under way.
    pub backups_open: Gauge,
    /// Changes of the repository's files by something else than the daemon.
    pub repository_foreign_changes: Counter,
    /// Codes for the lock authority that did not fit.
    pub lock_codes_wrong: Counter,
    /// Codes for the lock authority that came while none was taken.
    pub lock_codes_refused: Counter,
    /// Restore points whose governance locks were lifted before their time.
    pub locks_lifted: Counter,
    /// Restore points that retention rules expired.
    pub retention_points_expired: Counter,
    /// Documents of configuration that were imported.
    pub configuration_imports: Counter,
}

/// What the servers count, registered already.
#[derive(Debug)]
pub struct ServerMetrics {
    /// NBD.
    pub nbd: nbd::Metrics,
    /// iSCSI.
    pub iscsi: iscsi::Metrics,
    /// The kernel's target.
    pub tcmu: tcmu::Metrics,
    /// Shares.
    pub smb: smb::Metrics,
    /// Streams.
    pub ingest: ingest::Metrics,
}

impl Metrics {
    /// A registry with everything in it that the gateway counts itself, and the counters of the servers.
    pub fn new(exports: &Arc<Exports>) -> (Self, ServerMetrics) {
        let mut registry = Registry::default();
        let servers = ServerMetrics {
            nbd: nbd::Metrics::register(&mut registry),
            iscsi: iscsi::Metrics::register(&mut registry),
            tcmu: tcmu::Metrics::register(&mut registry),
            smb: smb::Metrics::register(&mut registry),
            ingest: ingest::Metrics::register(&mut registry),
        };
        let mut metrics = Self {
            registry: Registry::default(),
            api_answered: Counter::default(),
            api_refused: Counter::default(),
            api_unauthorized: Counter::default(),
            backups_committed: Counter::default(),
            backups_dropped: Counter::default(),
            backups_open: Gauge::default(),
            repository_foreign_changes: Counter::default(),
            lock_codes_wrong: Counter::default(),
            lock_codes_refused: Counter::default(),
            locks_lifted: Counter::default(),
            retention_points_expired: Counter::default(),
            configuration_imports: Counter::default(),
        };
        metrics.register_counters(&mut registry);
        registry.register(
            "holdfast_backups_open",
            "Backups under way",
            metrics.backups_open.clone(),
        );
        registry.register_collector(Box::new(SessionCount(Arc::clone(exports))));
        metrics.registry = registry;
        (metrics, servers)
    }

    fn register_counters(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "holdfast_api_answered",
                "HTTP requests that were answered with success",
                &self.api_answered,
            ),
            (
                "holdfast_api_refused",
                "HTTP requests that were refused or failed",
                &self.api_refused,
            ),
            (
                "holdfast_api_unauthorized",
                "HTTP requests without a valid token",
                &self.api_unauthorized,
            ),
            (
                "holdfast_backups_committed",
                "Backups that became restore points",
                &self.backups_committed,
            ),
            (
                "holdfast_backups_dropped",
                "Backups that were given up",
                &self.backups_dropped,
            ),
            (
                "holdfast_repository_foreign_changes",
                "Changes of the repository's files by something else than the daemon",
                &self.repository_foreign_changes,
            ),
            (
                "holdfast_lock_codes_wrong",
                "Codes for the lock authority that did not fit",
                &self.lock_codes_wrong,
            ),
            (
                "holdfast_lock_codes_refused",
                "Codes for the lock authority that came while none was taken",
                &self.lock_codes_refused,
            ),
            (
                "holdfast_locks_lifted",
                "Restore points whose governance locks were lifted before their time",
                &self.locks_lifted,
            ),
            (
                "holdfast_retention_points_expired",
                "Restore points that retention rules expired",
                &self.retention_points_expired,
            ),
            (
                "holdfast_configuration_imports",
                "Documents of configuration that were imported",
                &self.configuration_imports,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    /// Adds numbers that somebody else counts, asked for at each scrape. Names that end in `_total` only grow.
    pub fn collect(
        &mut self,
        samples: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) {
        self.registry
            .register_collector(Box::new(Samples(Box::new(samples))));
    }

    /// The text of `/metrics`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("a string takes any text");
        text
    }
}

struct Samples(Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>);

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, value) in (self.0)() {
            match name.strip_suffix("_total") {
                Some(name) => ConstCounter::new(value).encode(encoder.encode_descriptor(
                    name,
                    "See docs/operations/daemon.md",
                    None,
                    MetricType::Counter,
                )?)?,
                None => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(
                    encoder.encode_descriptor(
                        name,
                        "See docs/operations/daemon.md",
                        None,
                        MetricType::Gauge,
                    )?,
                )?,
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Samples {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Samples")
    }
}

#[derive(Debug)]
struct SessionCount(Arc<Exports>);

impl Collector for SessionCount {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let count = i64::try_from(self.0.sessions().len()).unwrap_or(i64::MAX);
        let name = "holdfast_recovery_sessions";
        let metric = encoder.encode_descriptor(
            name,
            "Recovery sessions that are served",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(count).encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Peers;

    #[test]
    fn all_areas_show_under_their_names() {
        let exports = Exports::new(&Peers::loopback(), iscsi::Authentication::None);
        let (mut metrics, _) = Metrics::new(&exports);
        metrics.api_answered.inc();
        metrics.collect(|| {
            vec![
                ("holdfast_nfs_mounts_total", 3),
                ("holdfast_nfs_connections", 2),
            ]
        });
        let text = metrics.text();
        for line in [
            "holdfast_api_answered_total 1",
            "holdfast_nfs_mounts_total 3",
            "holdfast_nfs_connections 2",
            "holdfast_recovery_sessions 0",
            "holdfast_nbd_connections 0",
            "holdfast_iscsi_sessions 0",
            "holdfast_smb_up 0",
            "holdfast_smb_restarts_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
