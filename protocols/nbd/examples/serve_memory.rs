//! Serves a disk in RAM: `serve_memory SIZE_MIB (ADDRESS:PORT | PATH) ...`.

use std::sync::Arc;

use export::{BlockingPool, MemoryDisk};
use nbd::{Endpoint, Metrics, Server, ServerConfig, StaticDirectory};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let size_mib: u64 = arguments
        .next()
        .ok_or("usage: serve_memory SIZE_MIB ENDPOINT...")?
        .parse()?;
    let endpoints = arguments
        .map(|text| match text.parse() {
            Ok(address) => Endpoint::Tcp(address),
            Err(_) => Endpoint::Unix {
                path: text.into(),
                mode: 0o600,
            },
        })
        .collect();
    let directory = Arc::new(StaticDirectory::new());
    directory.add(
        "memory",
        "a disk in RAM",
        Arc::new(MemoryDisk::new(size_mib << 20)),
    );
    let pool = Arc::new(BlockingPool::start(2, 256)?);
    let server = Server::start(
        ServerConfig::default(),
        endpoints,
        directory,
        pool,
        Metrics::unregistered(),
    )?;
    tokio::signal::ctrl_c().await?;
    server.shutdown(std::time::Duration::from_secs(5)).await;
    Ok(())
}
