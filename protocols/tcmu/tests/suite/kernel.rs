//! The kernel's side of a ring, as target_core_user does it. The numbers here are those of the header, written down a
//! second time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use export::{BlockExport, BlockingPool, PayloadBuffers};
use scsi::UnitOptions;
use tcmu::{Doorbell, Metrics, ServedUnit, SharedMemory, Unit};

pub(crate) const RING_AT: u64 = 128;
pub(crate) const RING_BYTES: u32 = 2048;
/// The data area: blocks of 4 KiB behind the ring.
pub(crate) const DATA_AT: u64 = 8192;
const BLOCKS: u64 = 640;
const BLOCK: u64 = 4096;

/// A kernel with one backstore.
pub(crate) struct Kernel {
    pub(crate) memory: Arc<SharedMemory>,
    bell: UnixStream,
    head: u32,
    cleaned: u32,
    free: Vec<u64>,
    pub(crate) under_way: BTreeMap<u16, Pending>,
    next_id: u16,
}

/// A command that the user side has.
pub(crate) struct Pending {
    blocks: Vec<u64>,
    length: u64,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) id: u16,
    pub(crate) status: u8,
    pub(crate) flags: u8,
    pub(crate) read_length: u32,
    pub(crate) sense: Vec<u8>,
    /// All that the data area has for it.
    pub(crate) data: Vec<u8>,
}

/// The kernel and a disk that is served to it.
pub(crate) struct Served {
    pub(crate) kernel: Kernel,
    pub(crate) unit: ServedUnit,
}

pub(crate) fn serve(export: Arc<dyn BlockExport>) -> Served {
    serve_with(export, 4, 64)
}

pub(crate) fn serve_with(export: Arc<dyn BlockExport>, threads: usize, queue: usize) -> Served {
    let (kernel, user) = Kernel::new();
    let unit = unit(&kernel, export);
    let pool = Arc::new(BlockingPool::start(threads, queue).unwrap());
    let unit = ServedUnit::start(
        "test",
        "/lab".into(),
        unit,
        user,
        pool,
        &Metrics::unregistered(),
    )
    .unwrap();
    Served { kernel, unit }
}

pub(crate) fn unit(kernel: &Kernel, export: Arc<dyn BlockExport>) -> Arc<Unit> {
    Unit::new(
        Arc::clone(&kernel.memory),
        export,
        UnitOptions::default(),
        PayloadBuffers::new(1 << 20),
        Metrics::unregistered(),
    )
    .unwrap()
}

impl Kernel {
    /// A kernel and the user's end of its doorbell.
    pub(crate) fn new() -> (Self, Doorbell) {
        let memory = SharedMemory::anonymous((DATA_AT + BLOCKS * BLOCK) as usize).unwrap();
        assert!(memory.write(0, &2_u16.to_ne_bytes()) && memory.write(2, &15_u16.to_ne_bytes()));
        memory.write(4, &(RING_AT as u32).to_ne_bytes());
        memory.write(8, &RING_BYTES.to_ne_bytes());
        let (bell, user) = UnixStream::pair().unwrap();
        user.set_nonblocking(true).unwrap();
        bell.set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let kernel = Self {
            memory: Arc::new(memory),
            bell,
            head: 0,
            cleaned: 0,
            // Neighbours are not neighbours: every block is a piece of its own.
            free: (0..BLOCKS).map(|number| number * 7 % BLOCKS).collect(),
            under_way: BTreeMap::new(),
            next_id: 0,
        };
        (
            kernel,
            Doorbell::new(Arc::new(File::from(OwnedFd::from(user)))),
        )
    }

    /// Whether a command with `length` bytes of data has room now.
    pub(crate) fn has_room(&self, length: u64) -> bool {
        let blocks = length.div_ceil(BLOCK) as usize;
        // An entry, and padding of at most as much.
        let wanted = 2 * entry_bytes(blocks) + 8;
        let used = (self.head + RING_BYTES - self.cleaned) % RING_BYTES;
        blocks <= self.free.len() && used + wanted < RING_BYTES
    }

    /// Puts a command with its data, or with `length` bytes of room, into the ring.
    pub(crate) fn queue(&mut self, cdb: &[u8], data: &[u8], length: u64) -> u16 {
        assert!(self.has_room(length));
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let count = length.div_ceil(BLOCK) as usize;
        let blocks = self.free.split_off(self.free.len() - count);
        let mut entry = vec![0; entry_bytes(count) as usize];
        let cdb_at = entry.len() - 16;
        entry[cdb_at..cdb_at + cdb.len()].copy_from_slice(cdb);
        entry[8..12].copy_from_slice(&(count as u32).to_ne_bytes());
        for (number, block) in (0_u64..).zip(&blocks) {
            let at = DATA_AT + block * BLOCK;
            let bytes = BLOCK.min(length - number * BLOCK);
            let vector = 48 + number as usize * 16;
            entry[vector..vector + 8].copy_from_slice(&at.to_ne_bytes());
            entry[vector + 8..vector + 16].copy_from_slice(&bytes.to_ne_bytes());
            let from = (number * BLOCK) as usize;
            if let Some(piece) = data.get(from..) {
                self.memory
                    .write(at, &piece[..piece.len().min(bytes as usize)]);
            }
        }
        self.put(&mut entry, 1, id, Some(cdb_at));
        self.under_way.insert(id, Pending { blocks, length });
        id
    }

    /// Tells that commands were aborted.
    pub(crate) fn manage(&mut self, function: u8, ids: &[u16]) {
        let mut entry = vec![0; (32 + ids.len() * 2).next_multiple_of(8)];
        entry[8] = function;
        entry[12..16].copy_from_slice(&(ids.len() as u32).to_ne_bytes());
        for (id, at) in ids.iter().zip((32..).step_by(2)) {
            entry[at..at + 2].copy_from_slice(&id.to_ne_bytes());
        }
        self.put(&mut entry, 2, 0, None);
    }

    /// Puts an entry into the ring, after padding where it would go round the end.
    pub(crate) fn put(&mut self, entry: &mut [u8], operation: u32, id: u16, cdb_at: Option<usize>) {
        let length = entry.len() as u32;
        let left = RING_BYTES - self.head;
        if left < length {
            self.memory
                .write(RING_AT + u64::from(self.head), &left.to_ne_bytes());
            self.move_head(left);
        }
        let at = RING_AT + u64::from(self.head);
        entry[..4].copy_from_slice(&(length | operation).to_ne_bytes());
        entry[4..6].copy_from_slice(&id.to_ne_bytes());
        if let Some(cdb_at) = cdb_at {
            entry[24..32].copy_from_slice(&(at + cdb_at as u64).to_ne_bytes());
        }
        self.memory.write(at, entry);
        self.move_head(length);
    }

    fn move_head(&mut self, length: u32) {
        self.head = (self.head + length) % RING_BYTES;
        self.memory.write(12, &self.head.to_ne_bytes());
    }

    pub(crate) fn ring(&mut self) {
        self.bell.write_all(&[0; 4]).unwrap();
    }

    /// Waits until the user side has rung.
    pub(crate) fn wait_for_bell(&mut self) {
        self.bell.read_exact(&mut [0; 4]).expect("an answer comes");
    }

    pub(crate) fn tail(&self) -> u32 {
        u32::from_ne_bytes(self.bytes(64, 4).try_into().unwrap())
    }

    pub(crate) fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        assert!(self.memory.read(at, &mut bytes));
        bytes
    }

    /// Takes answers until `count` commands have ended.
    pub(crate) fn wait(&mut self, count: usize) -> Vec<Ended> {
        let mut ended = self.take();
        while ended.len() < count {
            let mut word = [0; 4];
            self.bell.read_exact(&mut word).expect("an answer comes");
            ended.extend(self.take());
        }
        assert_eq!(ended.len(), count);
        ended
    }

    /// Does a command and gives how it ended.
    pub(crate) fn run(&mut self, cdb: &[u8], data: &[u8], length: u64) -> Ended {
        self.queue(cdb, data, length);
        self.ring();
        self.wait(1).remove(0)
    }

    /// Takes the answers that are there.
    pub(crate) fn take(&mut self) -> Vec<Ended> {
        let mut all = Vec::new();
        let tail = self.tail();
        while self.cleaned != tail {
            let at = RING_AT + u64::from(self.cleaned);
            let word = u32::from_ne_bytes(self.bytes(at, 4).try_into().unwrap());
            if word & 7 == 1 {
                all.push(self.end(at));
            }
            self.cleaned = (self.cleaned + (word & !7)) % RING_BYTES;
        }
        all
    }

    fn end(&mut self, at: u64) -> Ended {
        let entry = self.bytes(at, 112);
        let id = u16::from_ne_bytes([entry[4], entry[5]]);
        let pending = self.under_way.remove(&id);
        let Pending { blocks, length } = pending.expect("the ring is broken otherwise");
        let mut data = Vec::new();
        for block in &blocks {
            let left = length - data.len() as u64;
            data.extend(self.bytes(DATA_AT + block * BLOCK, BLOCK.min(left) as usize));
        }
        self.free.extend(blocks);
        Ended {
            id,
            status: entry[8],
            flags: entry[7],
            read_length: u32::from_ne_bytes(entry[12..16].try_into().unwrap()),
            sense: entry[16..112].to_vec(),
            data,
        }
    }
}

/// Bytes of a command's entry.
fn entry_bytes(blocks: usize) -> u32 {
    (112.max(48 + blocks * 16).next_multiple_of(8) + 16) as u32
}

pub(crate) fn read10(lba: u32, blocks: u16) -> [u8; 10] {
    transfer(0x28, lba, blocks)
}

pub(crate) fn write10(lba: u32, blocks: u16) -> [u8; 10] {
    transfer(0x2a, lba, blocks)
}

fn transfer(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = blocks.to_be_bytes();
    [opcode, 0, a, b, c, d, 0, high, low, 0]
}
