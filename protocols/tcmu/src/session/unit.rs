//! A logical unit behind a ring.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use export::{BlockExport, PayloadBuffers};
use parking_lot::{Condvar, Mutex};
use scsi::{
    Command, Direction, LunMask, Nexus, NexusName, Plan, Response, Sense, SenseKey, Status, Target,
    TargetIdentity, UnitOptions, encode_lun,
};

use super::data::{gather, scatter};
use super::ring::{Request, Ring};
use crate::error::{RingError, ServeError};
use crate::metrics::Metrics;
use crate::wire::{Answer, RawCommand, SharedMemory, Spans};

/// A disk with the ring through which the kernel asks it.
#[derive(Debug)]
pub struct Unit {
    ring: Ring,
    nexus: Nexus,
    payloads: PayloadBuffers,
    metrics: Metrics,
    waiting: Mutex<Waiting>,
    ended: Condvar,
}

/// Commands that wait for a disk.
#[derive(Debug, Default)]
struct Waiting {
    /// How each is told that nobody wants it any more.
    cancelled: HashMap<u16, Arc<AtomicBool>>,
    jobs: usize,
}

/// What became of the next request.
#[derive(Debug)]
pub(crate) enum Step {
    /// It was answered.
    Answered,
    /// It told something, and there is nothing to answer.
    Told,
    /// It would have to wait for a disk.
    Waits(Job),
    /// There is none.
    Idle,
}

/// A command that waits for a disk. It has to be run, or the kernel waits for ever.
#[derive(Debug)]
pub(crate) struct Job {
    unit: Arc<Unit>,
    id: u16,
    command: Command,
    place: Room,
    cancelled: Arc<AtomicBool>,
}

/// Where the data of an answer belongs.
#[derive(Debug)]
struct Room {
    spans: Spans,
    length_bytes: u64,
    direction: Direction,
}

impl Unit {
    /// Makes `export` the one unit of a device whose commands come through `memory`.
    ///
    /// # Errors
    /// If the disk cannot be a unit with these options, or the memory holds no ring.
    pub fn new(
        memory: Arc<SharedMemory>,
        export: Arc<dyn BlockExport>,
        options: UnitOptions,
        payloads: PayloadBuffers,
        metrics: Metrics,
    ) -> Result<Arc<Self>, UnitError> {
        let ring = Ring::open(memory)?;
        let target = Target::new(TargetIdentity {
            name: String::new(),
            // Which port a command came through, and from whom, the kernel does not say.
            ports: Vec::new(),
        });
        target.attach(LUN, export, options)?;
        let name = NexusName {
            initiator_port: "kernel".to_owned(),
            target_port: 0,
        };
        let nexus = target.nexus(name, LunMask::All);
        nexus.forget_attentions();
        Ok(Arc::new(Self {
            ring,
            nexus,
            payloads,
            metrics,
            waiting: Mutex::default(),
            ended: Condvar::new(),
        }))
    }

    /// Takes the next request and answers it if memory can.
    pub(crate) fn step(self: &Arc<Self>) -> Result<Step, RingError> {
        match self.ring.next()? {
            None => Ok(Step::Idle),
            Some(Request::Command(command)) => self.begin(command),
            Some(Request::Management(management)) => {
                self.metrics.management.inc();
                let waiting = self.waiting.lock();
                for id in &management.aborted {
                    if let Some(cancelled) = waiting.cancelled.get(id) {
                        cancelled.store(true, Ordering::Relaxed);
                    }
                }
                drop(waiting);
                if management.is_reset {
                    self.nexus.logical_unit_reset(encode_lun(LUN));
                    // The kernel tells its initiators of resets.
                    self.nexus.forget_attentions();
                }
                Ok(Step::Told)
            }
        }
    }

    /// Waits until nothing waits for a disk any more, but not longer than `limit` for each. Says whether that is so.
    pub(crate) fn settle(&self, limit: Duration) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.jobs > 0 {
            if self.ended.wait_for(&mut waiting, limit).timed_out() {
                return waiting.jobs == 0;
            }
        }
        true
    }

    fn begin(self: &Arc<Self>, raw: RawCommand) -> Result<Step, RingError> {
        self.metrics.commands.inc();
        let mut place = Room {
            spans: raw.spans,
            length_bytes: raw.length_bytes,
            direction: Direction::None,
        };
        if is_reservation(raw.cdb.opcode()) {
            self.answer(raw.id, &refused(), &place)?;
            return Ok(Step::Answered);
        }
        let wanted_bytes = match self.nexus.plan(encode_lun(LUN), &raw.cdb) {
            Plan::Refuse(response) => {
                self.answer(raw.id, &response, &place)?;
                return Ok(Step::Answered);
            }
            Plan::Transfer {
                direction,
                length_bytes,
            } => {
                place.direction = direction;
                u64::from(length_bytes).min(place.length_bytes)
            }
        };
        let mut command = Command {
            lun: encode_lun(LUN),
            cdb: raw.cdb,
            data_out: Vec::new(),
            expected_bytes: u32::try_from(place.length_bytes).ok(),
        };
        if place.direction == Direction::FromInitiator && wanted_bytes > 0 {
            let length = usize::try_from(wanted_bytes).unwrap_or(usize::MAX);
            let data = gather(self.ring.memory(), &place.spans, length, &self.payloads);
            command.data_out.push(data);
        }
        if let Some(response) = self.nexus.try_execute(&command) {
            self.written(&command, &response);
            self.answer(raw.id, &response, &place)?;
            return Ok(Step::Answered);
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let mut waiting = self.waiting.lock();
        waiting.cancelled.insert(raw.id, Arc::clone(&cancelled));
        waiting.jobs += 1;
        drop(waiting);
        self.metrics.in_flight.inc();
        Ok(Step::Waits(Job {
            unit: Arc::clone(self),
            id: raw.id,
            command,
            place,
            cancelled,
        }))
    }

    fn answer(&self, id: u16, response: &Response, place: &Room) -> Result<(), RingError> {
        let mut read_bytes = None;
        if place.direction != Direction::FromInitiator && place.length_bytes > 0 {
            let put = scatter(self.ring.memory(), &place.spans, &response.data_in);
            self.metrics.read_bytes.inc_by(put);
            if response.status == Status::Good && put > 0 && put < place.length_bytes {
                read_bytes = u32::try_from(put).ok();
            }
        }
        if response.status != Status::Good {
            self.metrics.not_good.inc();
        }
        let sense = response.sense.as_ref().map(Sense::encode);
        self.ring.answer(&Answer {
            id,
            status: response.status as u8,
            sense: sense.as_deref().unwrap_or_default(),
            read_bytes,
        })
    }

    fn written(&self, command: &Command, response: &Response) {
        if response.status == Status::Good {
            let bytes: usize = command.data_out.iter().map(bytes::Bytes::len).sum();
            self.metrics.written_bytes.inc_by(bytes as u64);
        }
    }
}

impl Job {
    /// Executes the command, as far as it is not aborted meanwhile, answers it, and then tells the kernel by `ring`.
    pub(crate) fn run(self, ring: impl FnOnce()) {
        let Self {
            unit,
            id,
            command,
            place,
            cancelled,
        } = self;
        let response = if cancelled.load(Ordering::Relaxed) {
            Response::status(Status::TaskAborted)
        } else {
            unit.nexus.execute_unless(&command, &cancelled)
        };
        unit.written(&command, &response);
        drop(command);
        // Before the answer: with that the kernel may give the number to another command.
        unit.waiting.lock().cancelled.remove(&id);
        if let Err(error) = unit.answer(id, &response, &place) {
            tracing::error!(%error, "an answer has no command");
        }
        ring();
        unit.metrics.in_flight.dec();
        // Last: whoever waits for the end of all may let go of the device then.
        unit.waiting.lock().jobs -= 1;
        unit.ended.notify_all();
    }
}

/// Why there is no unit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] scsi::ScsiError),
}

impl UnitError {
    /// The same, of the device at `path`.
    pub(crate) fn at(self, path: &std::path::Path) -> ServeError {
        match self {
            Self::Disk(error) => ServeError::Unit(error),
            Self::Ring(source) => ServeError::Ring {
                path: path.to_owned(),
                source,
            },
        }
    }
}

/// Reservations are about initiators, which cannot be told apart here. The kernel keeps them itself, unless it is told
/// not to (`pgr_support`); then there are none.
fn is_reservation(opcode: u8) -> bool {
    matches!(opcode, 0x16 | 0x17 | 0x56 | 0x57 | 0x5e | 0x5f)
}

/// INVALID COMMAND OPERATION CODE.
fn refused() -> Response {
    Response {
        status: Status::CheckCondition,
        sense: Some(Sense::new(SenseKey::IllegalRequest, (0x20, 0x00))),
        data_in: export::Segments::new(),
    }
}

/// Each backstore is a device with one unit.
const LUN: u16 = 0;
