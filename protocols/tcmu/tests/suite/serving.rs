//! Commands through a ring.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, BlockingPool, Durability, ExportError, Extent, MemoryDisk,
    Segments, ZeroMode,
};
use parking_lot::{Condvar, Mutex};
use proptest::test_runner::{RngAlgorithm, TestRng};

use tcmu::{Metrics, ServedUnit};

use crate::kernel::{Kernel, Served, read10, serve, serve_with, unit, write10};

const BLOCKS: u32 = 2048;

fn disk() -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk::new(u64::from(BLOCKS) * 512))
}

#[test]
fn what_is_written_comes_back_round_the_ring_in_any_order() {
    for (number, slow) in [(1, false), (2, true)] {
        let export: Arc<dyn BlockExport> = if slow {
            Arc::new(NeverAtOnce(disk()))
        } else {
            disk()
        };
        let Served { mut kernel, unit } = serve_with(export, 3, 2);
        let mut model = vec![0; BLOCKS as usize * 512];
        let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[number; 32]);
        let mut next = |below: u32| rand_below(&mut random, below);
        let mut expected = BTreeMap::new();
        let mut done = 0;
        while done < 600 {
            let blocks = 1 + next(100);
            let length = u64::from(blocks) * 512;
            // Commands that are under way together do not overlap: each has a part of the disk.
            if !kernel.has_room(length) || expected.len() == 8 {
                kernel.ring();
                let wanted = expected.len();
                for ended in kernel.wait(wanted) {
                    assert_eq!((ended.status, ended.flags), (0, 0));
                    if let Some(bytes) = expected.remove(&ended.id).unwrap() {
                        assert!(ended.data == bytes, "command {} read wrongly", ended.id);
                    }
                    done += 1;
                }
                continue;
            }
            let part = expected.len() as u32 * (BLOCKS / 8);
            let lba = part + next(BLOCKS / 8 - blocks);
            let range = lba as usize * 512..(lba + blocks) as usize * 512;
            if next(2) == 0 {
                let fill = next(255) as u8;
                let bytes: Vec<u8> = (0..range.len()).map(|at| fill ^ (at / 3) as u8).collect();
                let id = kernel.queue(&write10(lba, blocks as u16), &bytes, length);
                model[range].copy_from_slice(&bytes);
                expected.insert(id, None);
            } else {
                let id = kernel.queue(&read10(lba, blocks as u16), &[], length);
                expected.insert(id, Some(model[range].to_vec()));
            }
        }
        drop(unit);
    }
}

#[test]
fn a_command_that_waits_lets_others_pass() {
    let gate = Arc::new(Gate::over(disk()));
    let Served { mut kernel, unit } = serve(Arc::clone(&gate) as Arc<dyn BlockExport>);
    let slow = kernel.queue(&read10(0, 1), &[], 512);
    let quick = [kernel.queue(&[0; 6], &[], 0), kernel.queue(&[0; 6], &[], 0)];
    kernel.ring();
    let ended = kernel.wait(2);
    assert_eq!([ended[0].id, ended[1].id], quick);
    gate.open();
    assert_eq!(kernel.wait(1)[0].id, slow);
    drop(unit);
}

#[test]
fn an_aborted_command_that_waits_for_its_turn_is_not_done() {
    let gate = Arc::new(Gate::over(disk()));
    let Served { mut kernel, unit } = serve_with(Arc::clone(&gate) as Arc<dyn BlockExport>, 1, 64);
    let first = kernel.queue(&write10(0, 1), &[1; 512], 512);
    let second = kernel.queue(&write10(1, 1), &[2; 512], 512);
    kernel.manage(1, &[second, 77]);
    let mark = kernel.queue(&[0; 6], &[], 0);
    kernel.ring();
    assert_eq!(kernel.wait(1)[0].id, mark, "the abort was told by then");
    gate.open();
    let mut statuses = BTreeMap::new();
    for ended in kernel.wait(2) {
        statuses.insert(ended.id, ended.status);
    }
    assert_eq!(statuses, BTreeMap::from([(first, 0), (second, 0x40)]));
    let after = kernel.run(&read10(0, 2), &[], 1024);
    assert_eq!(after.data[..512], [1; 512]);
    assert_eq!(after.data[512..], [0; 512]);
    drop(unit);
}

#[test]
fn an_aborted_command_ends_between_two_of_its_pieces() {
    let gate = Arc::new(Gate::over(Arc::new(MemoryDisk::new(64 << 20))));
    let Served { mut kernel, unit } = serve(Arc::clone(&gate) as Arc<dyn BlockExport>);
    // WRITE SAME (10) of 65535 blocks.
    let cdb = [0x41, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0];
    let long = kernel.queue(&cdb, &[7; 512], 512);
    kernel.ring();
    gate.await_waiting();
    kernel.manage(1, &[long]);
    let mark = kernel.queue(&[0; 6], &[], 0);
    kernel.ring();
    assert_eq!(kernel.wait(1)[0].id, mark, "the abort was told by then");
    gate.open();
    let ended = &kernel.wait(1)[0];
    assert_eq!((ended.id, ended.status), (long, 0x40));
    let first = kernel.run(&read10(0, 1), &[], 512);
    let last = kernel.run(&read10(65_534, 1), &[], 512);
    assert_eq!((first.data[0], last.data[0]), (7, 0));
    drop(unit);
}

#[test]
fn a_reset_takes_back_what_was_set_and_nobody_is_told_twice() {
    let Served { mut kernel, unit } = serve(disk());
    // D_SENSE of the control mode page.
    let mut list = vec![0; 4];
    let page = kernel.run(&[0x1a, 0x08, 0x0a, 0, 255, 0], &[], 255);
    list.extend(&page.data[4..16]);
    list[6] |= 0x04;
    let select = [0x15, 0x10, 0, 0, 16, 0];
    assert_eq!(kernel.run(&select, &list, 16).status, 0);
    let refused = kernel.run(&[0xff; 6], &[], 0);
    assert_eq!((refused.status, refused.sense[0]), (2, 0x72));
    kernel.manage(5, &[]);
    let refused = kernel.run(&[0xff; 6], &[], 0);
    assert_eq!((refused.status, refused.sense[0]), (2, 0x70));
    assert_eq!(refused.sense[12], 0x20, "and no attention");
    drop(unit);
}

#[test]
fn short_answers_say_so_and_show_nothing_of_others() {
    let Served { mut kernel, unit } = serve(disk());
    // The data area is full of what others have written.
    assert_eq!(
        kernel
            .run(&write10(0, 400), &[0xee; 400 * 512], 400 * 512)
            .status,
        0
    );
    let inquiry = kernel.run(&[0x12, 0, 0, 0, 255, 0], &[], 4000);
    assert_eq!(
        (inquiry.status, inquiry.flags, inquiry.read_length),
        (0, 2, 96)
    );
    assert_eq!(&inquiry.data[8..16], b"HOLDFAST");
    assert!(inquiry.data[96..].iter().all(|byte| *byte == 0));
    let nothing = kernel.run(&[0; 6], &[], 4000);
    assert_eq!((nothing.status, nothing.flags), (0, 0));
    assert_eq!(nothing.data, [0; 4000]);
    let beyond = kernel.run(&read10(BLOCKS, 1), &[], 512);
    assert_eq!(
        (beyond.status, beyond.sense[2], beyond.sense[12]),
        (2, 5, 0x21)
    );
    assert_eq!(beyond.data, [0; 512]);
    // Less than the CDB says is written in whole blocks.
    let short = kernel.run(&write10(4, 4), &[9; 1024], 1024);
    assert_eq!(short.status, 0);
    let back = kernel.run(&read10(4, 4), &[], 2048);
    assert_eq!(back.data[..1024], [9; 1024]);
    assert_eq!(back.data[1024..], [0xee; 1024]);
    drop(unit);
}

#[test]
fn reservations_are_the_kernels() {
    let Served { mut kernel, unit } = serve(disk());
    for opcode in [0x16, 0x17, 0x56, 0x57, 0x5e, 0x5f] {
        let mut cdb = [0; 10];
        cdb[0] = opcode;
        let ended = kernel.run(&cdb, &[], 8);
        assert_eq!((ended.status, ended.sense[12]), (2, 0x20), "{opcode:#x}");
    }
    drop(unit);
}

#[test]
fn operations_that_nobody_knows_are_disclaimed_and_passed() {
    let Served { mut kernel, unit } = serve(disk());
    kernel.put(&mut [0; 24], 5, 0, None);
    let ended = kernel.run(&[0; 6], &[], 0);
    assert_eq!(ended.status, 0);
    assert_eq!(kernel.bytes(crate::kernel::RING_AT + 7, 1), [1]);
    drop(unit);
}

#[test]
fn another_process_goes_on_where_answers_have_come_to() {
    let export = disk();
    let Served {
        mut kernel,
        unit: first,
    } = serve(Arc::clone(&export) as Arc<dyn BlockExport>);
    assert_eq!(kernel.run(&write10(7, 1), &[7; 512], 512).status, 0);
    drop(first);
    kernel.queue(&read10(7, 1), &[], 512);
    let again = unit(&kernel, export);
    let (_, bell) = Kernel::new();
    let pool = Arc::new(BlockingPool::start(1, 1).unwrap());
    // Its doorbell is another kernel's: what is there is taken without being rung for.
    let again = ServedUnit::start(
        "again",
        "/lab".into(),
        again,
        bell,
        pool,
        &Metrics::unregistered(),
    )
    .unwrap();
    drop(again);
    let ended = kernel.take();
    assert_eq!((ended.len(), ended[0].status), (1, 0));
    assert_eq!(ended[0].data, [7; 512]);
}

/// A disk that never answers from memory.
struct NeverAtOnce(Arc<MemoryDisk>);

/// A disk whose reads and writes wait until it is opened.
struct Gate {
    disk: Arc<MemoryDisk>,
    is_open: Mutex<bool>,
    opened: Condvar,
    waiting: Mutex<bool>,
    came: Condvar,
}

impl Gate {
    fn over(disk: Arc<MemoryDisk>) -> Self {
        Self {
            disk,
            is_open: Mutex::new(false),
            opened: Condvar::new(),
            waiting: Mutex::new(false),
            came: Condvar::new(),
        }
    }

    fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }

    /// Waits until a call has come to it.
    fn await_waiting(&self) {
        let mut waiting = self.waiting.lock();
        while !*waiting {
            self.came.wait(&mut waiting);
        }
    }

    fn pass(&self) {
        *self.waiting.lock() = true;
        self.came.notify_all();
        let mut is_open = self.is_open.lock();
        while !*is_open {
            self.opened.wait(&mut is_open);
        }
    }
}

macro_rules! forward {
    ($type:ty, $disk:tt, $before:expr) => {
        impl BlockExport for $type {
            fn properties(&self) -> BlockProperties {
                self.$disk.properties()
            }
            fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
                $before(self);
                self.$disk.read(offset, length)
            }
            fn write(
                &self,
                offset: u64,
                data: &[Bytes],
                durability: Durability,
            ) -> Result<(), ExportError> {
                $before(self);
                self.$disk.write(offset, data, durability)
            }
            fn write_zeroes(
                &self,
                offset: u64,
                length: u64,
                mode: ZeroMode,
                durability: Durability,
            ) -> Result<(), ExportError> {
                self.$disk.write_zeroes(offset, length, mode, durability)
            }
            fn discard(
                &self,
                offset: u64,
                length: u64,
                durability: Durability,
            ) -> Result<(), ExportError> {
                self.$disk.discard(offset, length, durability)
            }
            fn flush(&self) -> Result<(), ExportError> {
                self.$disk.flush()
            }
            fn extents(
                &self,
                offset: u64,
                length: u64,
                limit: usize,
            ) -> Result<Vec<Extent>, ExportError> {
                self.$disk.extents(offset, length, limit)
            }
        }
    };
}

forward!(NeverAtOnce, 0, |_: &NeverAtOnce| {});
forward!(Gate, disk, Gate::pass);

fn rand_below(random: &mut TestRng, below: u32) -> u32 {
    use proptest::prelude::Rng as _;
    random.next_u32() % below.max(1)
}
