//! A disk that the daemon serves over NBD.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, BlockState, Durability, ExportError, Extent, Segments, ZeroMode,
};
use nbd::client::{Address, Client, ClientError, ConnectOptions};
use parking_lot::Mutex;
use quick_cache::sync::Cache;

/// A disk over as many connections as there are calls at once. Small reads of a disk that nobody writes are answered
/// from memory where their surroundings were read before.
pub(crate) struct RemoteDisk {
    address: Address,
    name: String,
    properties: BlockProperties,
    idle: Mutex<Vec<Client>>,
    memory: Option<Cache<u64, Bytes>>,
    /// Something was written since the last flush, and a connection broke after that.
    unflushed: AtomicBool,
    in_doubt: AtomicBool,
}

impl RemoteDisk {
    /// The disk that `uri` names. Its identity follows from `identity`, a name that is the same whenever this disk is
    /// looked at.
    ///
    /// # Errors
    /// If the address makes no sense or the daemon cannot be reached.
    pub(crate) fn connect(uri: &str, identity: &str) -> Result<Self, ClientError> {
        let (address, name) = Address::parse_uri(uri)?;
        let client = Client::connect(&address, &name, &options())?;
        let export = client.export();
        let mut own = [0; 16];
        for (target, byte) in own
            .iter_mut()
            .zip(blake3::hash(identity.as_bytes()).as_bytes())
        {
            *target = *byte;
        }
        let read_only = export.is_read_only();
        let properties = BlockProperties {
            size_bytes: export.size_bytes,
            block_size_bytes: 512,
            preferred_size_bytes: PIECE_BYTES,
            read_only,
            identity: own,
        };
        Ok(Self {
            address,
            name,
            properties,
            idle: Mutex::new(vec![client]),
            memory: read_only.then(|| Cache::new(PIECES_MAX)),
            unflushed: AtomicBool::new(false),
            in_doubt: AtomicBool::new(false),
        })
    }

    /// Does one thing over a connection. One that broke is made again once, so that a daemon may have been restarted.
    fn call<T>(
        &self,
        mut what: impl FnMut(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, ExportError> {
        let idle = self.idle.lock().pop();
        if let Some(mut client) = idle {
            match what(&mut client) {
                Err(error) if is_broken(&error) => {
                    // The others are as old.
                    self.idle.lock().clear();
                    if self.unflushed.load(Ordering::SeqCst) {
                        self.in_doubt.store(true, Ordering::SeqCst);
                    }
                }
                done => return self.keep(client, done),
            }
        }
        let mut client = Client::connect(&self.address, &self.name, &options())
            .map_err(|error| failed(&error))?;
        let export = client.export();
        let is_same = export.size_bytes == self.properties.size_bytes
            && export.is_read_only() == self.properties.read_only;
        if !is_same {
            return Err(ExportError::Storage {
                detail: format!("another disk is called {} by now", self.name).into(),
            });
        }
        let done = what(&mut client);
        self.keep(client, done)
    }

    fn keep<T>(&self, client: Client, done: Result<T, ClientError>) -> Result<T, ExportError> {
        if done.as_ref().err().is_none_or(|error| !is_broken(error)) {
            let mut idle = self.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(client);
            }
        }
        done.map_err(|error| failed(&error))
    }

    fn fetch(&self, offset: u64, length: u32) -> Result<Bytes, ExportError> {
        let mut buffer = vec![0; length as usize];
        self.call(|client| client.read_at(offset, &mut buffer))?;
        Ok(buffer.into())
    }

    /// The piece of that number.
    fn piece(&self, memory: &Cache<u64, Bytes>, number: u64) -> Result<Bytes, ExportError> {
        if let Some(piece) = memory.get(&number) {
            return Ok(piece);
        }
        let start = number * u64::from(PIECE_BYTES);
        let left = self.properties.size_bytes - start;
        let length = u32::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let piece = self.fetch(start, length)?;
        memory.insert(number, piece.clone());
        Ok(piece)
    }

    fn changed(&self) -> Result<(), ExportError> {
        match self.properties.read_only {
            true => Err(ExportError::ReadOnly),
            false => Ok(()),
        }
    }
}

impl BlockExport for RemoteDisk {
    fn properties(&self) -> BlockProperties {
        self.properties
    }

    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        self.properties.check(offset, length.into())?;
        let Some(memory) = self.memory.as_ref().filter(|_| length < PIECE_BYTES) else {
            return Ok(self.fetch(offset, length)?.into());
        };
        let mut found = Segments::new();
        let (mut at, end) = (offset, offset + u64::from(length));
        while at < end {
            let (number, skip) = (at / u64::from(PIECE_BYTES), at % u64::from(PIECE_BYTES));
            let piece = self.piece(memory, number)?;
            let from = usize::try_from(skip).map_err(|_| ExportError::Invalid)?;
            let wanted = usize::try_from(end - at).map_err(|_| ExportError::Invalid)?;
            let to = piece.len().min(from + wanted);
            found.push(piece.slice(from..to));
            at += (to - from) as u64;
        }
        Ok(found)
    }

    fn write(
        &self,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<(), ExportError> {
        self.changed()?;
        // Pieces end anywhere; what goes over the wire is whole blocks.
        let whole = match data {
            [piece] => piece.clone(),
            pieces => pieces.concat().into(),
        };
        self.properties.check(offset, whole.len() as u64)?;
        self.unflushed.store(true, Ordering::SeqCst);
        let mut at = offset;
        for part in whole.chunks(WRITE_BYTES_MAX) {
            self.call(|client| client.write_at(at, part, durability))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), ExportError> {
        self.changed()?;
        self.properties.check(offset, length)?;
        self.unflushed.store(true, Ordering::SeqCst);
        let mut at = offset;
        while at < offset + length {
            let step = (offset + length - at).min(RANGE_BYTES_MAX);
            self.call(|client| client.write_zeroes(at, step, mode, durability))?;
            at += step;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64, durability: Durability) -> Result<(), ExportError> {
        self.write_zeroes(offset, length, ZeroMode::Deallocate, durability)
    }

    fn flush(&self) -> Result<(), ExportError> {
        match self.properties.read_only {
            true => Ok(()),
            false => {
                self.call(Client::flush)?;
                self.unflushed.store(false, Ordering::SeqCst);
                match self.in_doubt.swap(false, Ordering::SeqCst) {
                    // As after a failed fsync: what was written last may be gone, and whoever wrote it must know.
                    true => Err(ExportError::Storage {
                        detail: "the connection broke since the last flush: what was written meanwhile may be lost"
                            .into(),
                    }),
                    false => Ok(()),
                }
            }
        }
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, ExportError> {
        self.properties.check(offset, length)?;
        let answers = self.call(|client| client.block_status(offset, length))?;
        let (_, told) = answers
            .into_iter()
            .next()
            .ok_or(ExportError::NotSupported)?;
        let mut left = length;
        let mut extents: Vec<Extent> = Vec::new();
        for (told, flags) in told {
            let step = told.min(left);
            let state = match (flags & STATE_HOLE != 0, flags & STATE_ZERO != 0) {
                (true, _) => BlockState::Hole,
                (false, true) => BlockState::Zero,
                (false, false) => BlockState::Data,
            };
            left -= step;
            let is_full = extents.len() == limit.max(1);
            match extents.last_mut() {
                Some(last) if last.state == state => last.length += step,
                _ if is_full || step == 0 => break,
                _ => extents.push(Extent {
                    length: step,
                    state,
                    depth: u32::from(state == BlockState::Data),
                }),
            }
        }
        match extents.is_empty() {
            true => Err(ExportError::NotSupported),
            false => Ok(extents),
        }
    }
}

impl std::fmt::Debug for RemoteDisk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RemoteDisk")
            .field("name", &self.name)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

fn options() -> ConnectOptions {
    ConnectOptions {
        contexts: vec!["base:allocation".to_owned()],
        extended_headers: false,
        timeout: Some(PATIENCE),
    }
}

fn is_broken(error: &ClientError) -> bool {
    !matches!(error, ClientError::Failed(_))
}

fn failed(error: &ClientError) -> ExportError {
    ExportError::Storage {
        detail: crate::exports::chain(error).into(),
    }
}

/// Longest wait for one answer of the daemon.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is read for a small read: the size of a chunk, which the daemon reads whole anyway.
const PIECE_BYTES: u32 = 64 << 10;

/// 64 MiB of them are kept.
const PIECES_MAX: usize = 1024;

const IDLE_MAX: usize = 16;
const WRITE_BYTES_MAX: usize = 8 << 20;
const RANGE_BYTES_MAX: u64 = 1 << 30;

/// Flags of `base:allocation`.
const STATE_HOLE: u64 = 1;
const STATE_ZERO: u64 = 2;
