//! The volumes of a guest, as the disks of a machine: over NBD, at a socket that only this machine is told of.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, BlockState, BlockingPool, Durability, ExportError, Extent,
    Segments, ZeroMode,
};
use nbd::{Endpoint, Limits, Metrics, Server, ServerConfig, StaticDirectory};
use tokio::sync::oneshot;

use super::machine::MachineVolume;
use crate::client::Disks;
use crate::wire::BlockAsk;

/// Serves them until it is dropped.
pub(super) struct DiskServer {
    _stop: oneshot::Sender<()>,
}

impl DiskServer {
    /// Serves each of `volumes` under its number.
    pub(super) fn start(
        disks: &Arc<Disks>,
        volumes: &[MachineVolume],
        socket: &Path,
    ) -> io::Result<Self> {
        let directory = StaticDirectory::new();
        for (number, volume) in volumes.iter().enumerate() {
            let disk = VolumeDisk::new(Arc::clone(disks), volume);
            directory.add(number.to_string(), "", Arc::new(disk));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let pool = Arc::new(BlockingPool::start(READERS, QUEUE)?);
        let limits = Limits {
            connections: volumes.len() + 1,
            ..Limits::default()
        };
        let config = ServerConfig {
            limits,
            ..ServerConfig::default()
        };
        let endpoint = Endpoint::Unix {
            path: socket.to_owned(),
            mode: 0o600,
        };
        let directory = Arc::new(directory);
        let (stop, stopped) = oneshot::channel::<()>();
        let server = runtime.block_on(async {
            Server::start(
                config,
                vec![endpoint],
                directory,
                pool,
                Metrics::unregistered(),
            )
        });
        let server = server.map_err(io::Error::other)?;
        // A runtime of its own, as whoever asks for files may have none.
        std::thread::Builder::new()
            .name("guest-disks".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    stopped.await.ok();
                    drop(server);
                });
                runtime.shutdown_background();
            })?;
        Ok(Self { _stop: stop })
    }
}

/// A stretch of a guest's disk, for reading.
struct VolumeDisk {
    disks: Arc<Disks>,
    disk: u32,
    offset_bytes: u64,
    properties: BlockProperties,
}

impl VolumeDisk {
    fn new(disks: Arc<Disks>, volume: &MachineVolume) -> Self {
        let all = disks.properties();
        let disk = usize::try_from(volume.disk)
            .ok()
            .and_then(|disk| all.get(disk));
        let size = disk.map_or(0, |disk| disk.size_bytes);
        let block = disk.map_or(512, |disk| disk.block_size_bytes);
        // A table may say more than there is.
        let here = size.saturating_sub(volume.offset_bytes);
        let length = volume.length_bytes.min(here);
        Self {
            disks,
            disk: volume.disk,
            offset_bytes: volume.offset_bytes,
            properties: BlockProperties {
                size_bytes: length - length % u64::from(block),
                block_size_bytes: block,
                preferred_size_bytes: 4096.max(block),
                read_only: true,
                identity: [0; 16],
            },
        }
    }
}

impl BlockExport for VolumeDisk {
    fn properties(&self) -> BlockProperties {
        self.properties
    }

    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        self.properties.check(offset, length.into())?;
        self.disks.read(BlockAsk {
            disk: self.disk,
            offset: self.offset_bytes + offset,
            length,
        })
    }

    fn write(&self, _: u64, _: &[Bytes], _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroMode, _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn discard(&self, _: u64, _: u64, _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn flush(&self) -> Result<(), ExportError> {
        Ok(())
    }

    /// Nobody needs to know more.
    fn extents(&self, offset: u64, length: u64, _: usize) -> Result<Vec<Extent>, ExportError> {
        self.properties.check(offset, length)?;
        Ok(vec![Extent {
            length,
            state: BlockState::Data,
            depth: 1,
        }])
    }
}

/// Reads at once.
const READERS: usize = 4;
const QUEUE: usize = 256;

#[cfg(test)]
mod tests {
    use export::MemoryDisk;

    use super::*;

    #[test]
    fn a_volume_ends_where_its_disk_does() {
        let disk = Arc::new(MemoryDisk::new(1 << 20));
        let data = [Bytes::from(vec![7; 512])];
        disk.write(1 << 19, &data, Durability::Unstable).unwrap();
        let disks = Arc::new(Disks::new(vec![disk]));
        let volume = |disk, offset_bytes, length_bytes| {
            let volume = MachineVolume {
                disk,
                offset_bytes,
                length_bytes,
                kind: super::super::Kind::by_name("f2fs").unwrap(),
            };
            VolumeDisk::new(Arc::clone(&disks), &volume)
        };
        let inside = volume(0, 1 << 19, 1 << 30);
        assert_eq!(inside.properties().size_bytes, 1 << 19);
        assert_eq!(inside.read(0, 512).unwrap().to_vec(), [7; 512]);
        assert!(inside.read(1 << 19, 512).is_err());
        assert_eq!(volume(0, 1 << 21, 4096).properties().size_bytes, 0);
        assert_eq!(volume(1, 0, 4096).properties().size_bytes, 0);
    }
}
