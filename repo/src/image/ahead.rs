//! Reads of a source that are under way before their turn.
//!
//! One read at a time leaves the disk idle while its bytes are handed on. Here some threads read, and the results come
//! back in the order in which they were asked for, errors among them.

use std::collections::VecDeque;
use std::ops::Range;
use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::source::{READ_BYTES, Source};
use crate::disk::{AlignedBuffer, DIRECT_ALIGNMENT};
use crate::error::RepoError;

/// Stretches of a disk in ascending order, the data among them being read.
pub(super) struct ReadAhead {
    orders: Sender<Order>,
    queue: VecDeque<Expected>,
    reads: usize,
}

/// What comes next of the disk.
pub(super) enum Stretch {
    /// Nothing is there.
    Zeroes(Range<u64>),
    /// The first bytes of the buffer are the range's, or could not be read.
    Data {
        range: Range<u64>,
        buffer: Result<AlignedBuffer, RepoError>,
    },
}

enum Expected {
    Zeroes(Range<u64>),
    Read(Range<u64>, Receiver<Result<AlignedBuffer, RepoError>>),
}

struct Order {
    range: Range<u64>,
    buffer: Option<AlignedBuffer>,
    answer: Sender<Result<AlignedBuffer, RepoError>>,
}

impl ReadAhead {
    /// Starts the threads; they end when this is dropped.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        source: &'scope Source<'_>,
    ) -> Result<Self, RepoError> {
        let (orders, taken) = bounded::<Order>(READS_AHEAD);
        for _ in 0..READERS {
            let taken = taken.clone();
            Builder::new()
                .name("image-reader".to_owned())
                .spawn_scoped(scope, move || {
                    for order in taken {
                        let outcome = read(source, &order.range, order.buffer);
                        // Whoever has given up does not want it.
                        drop(order.answer.send(outcome));
                    }
                })
                .map_err(RepoError::Thread)?;
        }
        Ok(Self {
            orders,
            queue: VecDeque::new(),
            reads: 0,
        })
    }

    /// Whether [`next`](Self::next) must be taken before more is read.
    pub(super) fn is_full(&self) -> bool {
        self.reads >= READS_AHEAD
    }

    /// Lets zeroes come next.
    pub(super) fn pass_zeroes(&mut self, range: Range<u64>) {
        self.queue.push_back(Expected::Zeroes(range));
    }

    /// Lets a range of at most [`READ_BYTES`] come next, read into `spare` if that is long enough. Not to be called
    /// when [full](Self::is_full).
    pub(super) fn read(&mut self, range: Range<u64>, spare: Option<AlignedBuffer>) {
        let (answer, receiver) = bounded(1);
        let order = Order {
            range: range.clone(),
            buffer: spare,
            answer,
        };
        // If no thread is left, the answer's channel is closed and says so.
        drop(self.orders.send(order));
        self.reads += 1;
        self.queue.push_back(Expected::Read(range, receiver));
    }

    /// What was asked for first, when it is there.
    pub(super) fn next(&mut self) -> Option<Stretch> {
        Some(match self.queue.pop_front()? {
            Expected::Zeroes(range) => Stretch::Zeroes(range),
            Expected::Read(range, receiver) => {
                self.reads -= 1;
                let buffer = receiver.recv().unwrap_or(Err(RepoError::Stopped));
                Stretch::Data { range, buffer }
            }
        })
    }
}

fn read(
    source: &Source<'_>,
    range: &Range<u64>,
    spare: Option<AlignedBuffer>,
) -> Result<AlignedBuffer, RepoError> {
    let length = usize::try_from(range.end - range.start).unwrap_or(READ_BYTES);
    let aligned = length.next_multiple_of(DIRECT_ALIGNMENT);
    let mut buffer = match spare {
        Some(buffer) if buffer.len() >= aligned => buffer,
        _ => AlignedBuffer::zeroed(aligned),
    };
    let target = buffer.get_mut(..aligned).unwrap_or_default();
    source.read(range.start, target, length)?;
    Ok(buffer)
}

/// Threads that read one source. Two keep a disk busy with long reads; changed extents are short, and gain from more.
const READERS: usize = 4;

/// Reads that are under way or wait for their turn.
const READS_AHEAD: usize = 4;
