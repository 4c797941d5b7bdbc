//! The servers of protocols, together.

use std::net::SocketAddr;
use std::time::Duration;

/// All of them, running.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) nbd: nbd::Server,
    pub(crate) nfs: nfs::Server,
    /// None if it has no portal.
    pub(crate) iscsi: Option<iscsi::Server>,
    pub(crate) ingest: ingest::Server,
}

impl Servers {
    /// Where NBD listens over TCP.
    pub(crate) fn nbd_address(&self) -> Option<SocketAddr> {
        self.nbd
            .addresses()
            .iter()
            .find_map(|address| match address {
                nbd::BoundAddress::Tcp(address) => Some(*address),
                nbd::BoundAddress::Unix(_) => None,
            })
    }

    /// Where streams are taken over TLS, the first of several.
    pub(crate) fn ingest_address(&self) -> Option<SocketAddr> {
        self.ingest
            .addresses()
            .iter()
            .find_map(|address| match address {
                ingest::BoundAddress::Tcp(address) => Some(*address),
                ingest::BoundAddress::Unix(_) => None,
            })
    }

    /// Stops them in reverse order. Requests under way are answered if they end within `grace`.
    pub(crate) async fn stop(mut self, grace: Duration) {
        if !self.ingest.stop(grace) {
            tracing::warn!("some streams were cut while they were being kept");
        }
        self.nfs.stop().await;
        if let Some(iscsi) = self.iscsi
            && !iscsi.shutdown(grace).await
        {
            tracing::warn!("some iSCSI connections were cut with commands under way");
        }
        if !self.nbd.shutdown(grace).await {
            tracing::warn!("some NBD connections were cut with requests under way");
        }
    }
}
