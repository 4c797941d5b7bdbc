//! Entry point for fuzzing: what any bytes in the shared memory may do to the user side of a ring. It must not panic, not
//! hang, and touch nothing outside of the data area but the entries that it answers.

use std::sync::Arc;

use export::{MemoryDisk, PayloadBuffers};
use scsi::UnitOptions;

use crate::metrics::Metrics;
use crate::session::{Step, Unit};
use crate::wire::SharedMemory;

/// Takes all that a ring asks whose memory begins with `data`. The first byte says whether that is the whole memory, or
/// what follows a sound mailbox.
pub fn fuzz_ring(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let memory = SharedMemory::anonymous(MEMORY_BYTES).expect("a little memory is there");
    let rest = rest
        .get(..rest.len().min(MEMORY_BYTES - RING_AT as usize))
        .unwrap_or_default();
    if first % 2 == 0 {
        memory.write(0, rest);
    } else {
        let head = u32::from(*first) * 8 % RING_BYTES;
        let mut mailbox = [0; 16];
        for (to, from) in mailbox.iter_mut().zip(
            [2_u16.to_ne_bytes(), 3_u16.to_ne_bytes()]
                .into_iter()
                .flatten()
                .chain(RING_AT.to_ne_bytes())
                .chain(RING_BYTES.to_ne_bytes())
                .chain(head.to_ne_bytes()),
        ) {
            *to = from;
        }
        memory.write(0, &mailbox);
        memory.write(u64::from(RING_AT), rest);
    }
    let unit = Unit::new(
        Arc::new(memory),
        Arc::new(MemoryDisk::new(1 << 20)),
        UnitOptions::default(),
        PayloadBuffers::new(1 << 20),
        Metrics::unregistered(),
    );
    let Ok(unit) = unit else { return };
    loop {
        match unit.step() {
            Ok(Step::Answered | Step::Told) => {}
            Ok(Step::Waits(job)) => job.run(|| {}),
            Ok(Step::Idle) | Err(_) => return,
        }
    }
}

const MEMORY_BYTES: usize = 64 << 10;
const RING_AT: u32 = 128;
const RING_BYTES: u32 = 4096;
